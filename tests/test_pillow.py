"""`.spx` through Pillow: what its users expect of any format."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

import pipeline
import pipeline.pillow


@pytest.fixture(scope="module")
def image(photos: list[Path]) -> Image.Image:
    """A cut of a photo with an EXIF block and a profile of its own."""
    cut = Image.open(photos[0]).convert("RGB").crop((100, 100, 260, 228))
    exif = Image.Exif()
    exif[0x010E] = "a harbour at dusk"
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    cut.info = {"exif": exif.tobytes(), "icc_profile": profile}
    return cut


@pytest.fixture(scope="module")
def payload(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "SPX", quality=60)
    return out.getvalue()


def test_a_saved_picture_opens_by_its_content_and_looks_the_same(image: Image.Image, payload: bytes) -> None:
    opened = Image.open(io.BytesIO(payload))
    assert (opened.format, opened.mode, opened.size) == ("SPX", "RGB", image.size)
    difference = np.asarray(opened, np.float64) - np.asarray(image, np.float64)
    assert 10 * np.log10(255**2 / np.mean(difference**2)) > 25


def test_suffix_and_quality_choose_codec_and_size(image: Image.Image, tmp_path: Path) -> None:
    image.save(tmp_path / "low.spx", quality=10)
    image.save(tmp_path / "high.spx", quality=90)
    assert (tmp_path / "low.spx").stat().st_size < (tmp_path / "high.spx").stat().st_size
    with Image.open(tmp_path / "high.spx") as opened:
        assert opened.info["quality"] == 90
        assert opened.get_format_mimetype() == "image/x-shardpress"


def test_a_target_is_reached(image: Image.Image) -> None:
    out, bare = io.BytesIO(), image.copy()
    bare.info = {}  # metadata is extra
    bare.save(out, "SPX", bpp=0.08)
    assert 8 * len(out.getvalue()) / (image.width * image.height) == pytest.approx(0.08, rel=0.1)


def test_exif_and_profile_come_back_in_info_before_any_pixel(image: Image.Image, payload: bytes) -> None:
    opened = Image.open(io.BytesIO(payload))
    assert opened.getexif()[0x010E] == "a harbour at dusk"
    assert opened.info["icc_profile"] == image.info["icc_profile"]


def test_arguments_of_save_replace_what_info_holds(image: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x010E] = "another title"
    out = io.BytesIO()
    image.save(out, "SPX", exif=exif, icc_profile=b"")
    opened = Image.open(io.BytesIO(out.getvalue()))
    assert opened.getexif()[0x010E] == "another title"
    assert "icc_profile" not in opened.info
    assert image.info["icc_profile"], "saving must not change the picture"


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P"])
def test_modes_come_back(image: Image.Image, mode: str) -> None:
    out = io.BytesIO()
    source = image.convert("RGBA").convert(mode) if mode != "P" else image.convert("P")
    if "A" in mode:
        source.putalpha(Image.linear_gradient("L").resize(source.size))
    source.save(out, "SPX", quality=30)
    opened = Image.open(io.BytesIO(out.getvalue()))
    expected = "RGB" if mode == "P" else mode
    assert opened.mode == expected
    opened.load()
    assert opened.mode == expected
    if "A" in mode:
        assert opened.getchannel("A").tobytes() == source.getchannel("A").tobytes()


def test_opening_reading_info_and_verifying_load_no_torch(payload: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.spx").write_bytes(payload)
    script = (
        "import sys, pipeline.pillow; from PIL import Image\n"
        "image = Image.open(sys.argv[1]); assert image.size and image.info['exif']\n"
        "image.verify(); assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "a.spx")], check=True)


def test_every_flipped_byte_is_an_oserror_that_says_so(payload: bytes) -> None:
    for at in range(4, len(payload), max(1, len(payload) // 40)):
        damaged = bytearray(payload)
        damaged[at] ^= 0x10
        with pytest.raises(OSError, match="payload"):
            Image.open(io.BytesIO(bytes(damaged)))


def test_verify_finds_symbols_that_a_right_checksum_hides(payload: bytes) -> None:
    from pipeline.bitstream import container

    box = container.unpack(payload)
    sections = {**box.sections, container.Y: box.sections[container.Y][:-8]}
    forged = container.pack(
        container.Container(box.model_id, box.width_px, box.height_px, box.quality_centi, box.gray, sections)
    )
    with pytest.raises(OSError, match=r"cnn|payload|symbols"):
        Image.open(io.BytesIO(forged)).verify()


def test_what_is_not_ours_is_left_to_others(payload: bytes) -> None:
    with pytest.raises(UnidentifiedImageError):
        Image.open(io.BytesIO(b"not a picture at all"))
    with pytest.raises(OSError, match="truncated"):
        Image.open(io.BytesIO(payload[:40]))


def test_an_image_bomb_is_refused_by_pillows_own_limit(payload: bytes) -> None:
    from pipeline.bitstream import container

    box = container.unpack(payload)
    bomb = container.pack(container.Container(box.model_id, 60_000, 60_000, 6000, False, box.sections))
    with pytest.raises(Image.DecompressionBombError):
        Image.open(io.BytesIO(bomb))


def test_a_quality_out_of_range_is_a_value_error_and_leaves_no_file(image: Image.Image, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="quality"):
        image.save(tmp_path / "a.spx", quality=101)
    assert not (tmp_path / "a.spx").exists()
    with pytest.raises(OSError, match="mode F"):
        image.convert("F").save(tmp_path / "b.spx")


def test_the_plugin_and_the_api_write_the_same_payload(image: Image.Image, payload: bytes) -> None:
    assert pipeline.encode(image, quality=60) == payload
