from __future__ import annotations

import csv
import io
import os
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from pipeline.errors import ImageError
from pipeline.imaging import decode as decode_module
from pipeline.imaging.decode import DEFAULT_PIXEL_LIMIT, decode
from pipeline.records import Picture
from tests.imaging import made

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::PIL.Image.DecompressionBombWarning")

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "TIFF", "JPEG2000", "BMP", "ICO", "PPM", "PCX", "SGI", "QOI")
SEEDS = [
    *(made.file(made.gradient(), name) for name in FORMATS),
    made.file(made.gradient(), "JPEG", progressive=True, exif=made.exif(6), xmp=made.xmp(6)),
    made.file(made.gradient().convert("CMYK"), "JPEG"),
    made.file(made.gradient(), "TIFF", compression="tiff_lzw"),
    made.file(made.gradient().convert("1"), "TIFF", compression="group4"),
    made.file(made.gradient(), "PNG", exif=made.exif(6)),
    *(
        made.file(made.gradient(), name, save_all=True, append_images=[made.gradient().rotate(90)])
        for name in ("GIF", "WEBP", "PNG", "AVIF", "TIFF")
    ),
]
fuzz = settings(max_examples=300, deadline=5000, suppress_health_check=list(HealthCheck))


def picture_or_reason(data: bytes, pixel_limit: int = 2_000_000) -> str | None:
    """None for a well-formed picture, else the reason; any other exception fails the test that asks."""
    try:
        picture = decode(data, pixel_limit=pixel_limit)
    except ImageError as error:
        reason = str(error)
    else:
        check(picture)
        return None
    assert "\n" not in reason
    assert len(reason) < 400
    return reason


def check(picture: Picture) -> None:
    assert picture.rgb.dtype == np.uint8
    assert picture.rgb.shape == (picture.height_px, picture.width_px, 3)
    assert picture.rgb.flags.c_contiguous
    assert picture.alpha is None or picture.alpha.shape == picture.rgb.shape[:2]


@given(st.binary(max_size=400))
@fuzz
def test_arbitrary_bytes_raise_nothing_but_image_error(data):
    picture_or_reason(data)


@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.floats(0, 0.999), st.binary(min_size=1, max_size=4)), min_size=1, max_size=6),
    st.one_of(st.just(1.0), st.floats(0, 1)),
)
@fuzz
def test_damaged_files_raise_nothing_but_image_error(data, wounds, kept):
    damaged = bytearray(data)
    for place, value in wounds:
        # Half of the wounds go to the header, where formats keep what makes parsers trip.
        start = int(place * 2 * 200) if place < 0.5 else int(place * len(damaged))
        damaged[start : start + len(value)] = value
    picture_or_reason(bytes(damaged[: int(kept * len(damaged))]))


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_its_pixels(name):
    source = made.gradient(32, 32)
    picture = decode(made.file(source, name))
    assert picture.source_format == name
    assert picture.obstacle is None
    error = np.abs(picture.rgb.astype(int) - np.asarray(source))
    assert error.mean() < (6 if name in ("JPEG", "WEBP", "AVIF", "GIF") else 1e-9)


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "TIFF", "JPEG2000", "BMP", "GIF", "AVIF"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_files_are_refused(name, share):
    photo = Image.open(made.PHOTOS[0]).convert("RGB").resize((160, 120))
    data = made.file(photo, name)
    with pytest.raises(ImageError):
        decode(data[: int(share * len(data))])


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", "0 bytes"),
        (b"<!DOCTYPE html><html><body>404 Not Found</body></html>", "HTML"),
        (b"\n <svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage", "PostScript"),
        (b"\xd7\xcd\xc6\x9a" + bytes(60), "WMF"),
        (b"%PDF-1.7\n", "PDF"),
        (b"PK\x03\x04" + bytes(30), "ZIP"),
        (b"\x00\x00\x00\x18ftypheic" + bytes(40), "HEIC"),
        (b"\xff\x0a\xfa\x7f", "JPEG XL"),
        (b"\xff\xd8", "JPEG"),
        (bytes(100), "00 00 00"),
        (b'{"error": "rate limited"}', "JSON"),
    ],
)
def test_what_is_no_picture_is_refused_by_name(data, found):
    assert found in picture_or_reason(data)


def test_the_pixel_limit_is_checked_before_decoding():
    huge = made.png(2**31 - 1, 2**31 - 1, 8, 2, b"")
    started = time.perf_counter()
    with pytest.raises(ImageError, match="above the limit of 200000000 pixels"):
        decode(huge)
    assert time.perf_counter() - started < 5


def test_the_pixel_limit_is_inclusive():
    data = made.file(made.gradient(), "PNG")
    assert decode(data, pixel_limit=24 * 16).width_px == 24
    with pytest.raises(ImageError, match=r"24 x 16 px is above the limit of 383 pixels.*raise the pixel limit"):
        decode(data, pixel_limit=24 * 16 - 1)


@pytest.mark.parametrize("name", ["PNG", "WEBP", "GIF", "TIFF", "ICO"])
def test_a_limit_above_pillows_own_is_honoured_and_pillows_comes_back(name, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    data = made.file(made.gradient(32, 32), name)
    assert decode(data, pixel_limit=1024).width_px == 32
    assert Image.MAX_IMAGE_PIXELS == 100
    with pytest.raises(ImageError, match="above the limit of 1023"):
        decode(data, pixel_limit=1023)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_icons_are_measured_before_they_are_opened():
    icon = bytearray(made.file(made.gradient(256, 256), "ICO", sizes=[(256, 256)]))
    start = icon.find(b"IHDR")
    icon[start + 4 : start + 12] = b"\x00\x00\x40\x00" * 2
    with pytest.raises(ImageError, match="16384 x 16384"):
        decode(bytes(icon))


def test_an_icon_gives_its_largest_picture():
    assert decode(made.file(made.gradient(64, 64), "ICO", sizes=[(16, 16), (48, 48), (32, 32)])).width_px == 48


@pytest.mark.parametrize(
    ("mode", "gray", "alpha"),
    [
        *[("1", True, False), ("L", True, False), ("LA", True, True), ("I;16", True, False)],
        *[("P", False, False), ("RGB", False, False), ("RGBA", False, True)],
    ],
)
def test_every_mode_becomes_rgb(mode, gray, alpha):
    source = made.gradient().convert("L").convert(mode) if mode == "I;16" else made.gradient().convert(mode)
    if alpha:
        source.putalpha(128)
    picture = decode(made.file(source, "PNG"))
    assert (picture.gray, picture.alpha is not None) == (gray, alpha)
    if gray:
        assert (picture.rgb[..., 0] == picture.rgb[..., 1]).all()
        assert (picture.rgb[..., 0] == picture.rgb[..., 2]).all()


def test_alpha_that_hides_nothing_is_dropped():
    assert decode(made.file(made.gradient().convert("RGBA"), "PNG")).alpha is None


def test_colour_under_alpha_is_kept():
    source = made.gradient().convert("RGBA")
    source.putalpha(0)
    picture = decode(made.file(source, "PNG"))
    assert (picture.rgb == np.asarray(made.gradient())).all()
    assert (picture.alpha == 0).all()


@pytest.mark.parametrize(
    ("depth", "row", "key", "expected"),
    [
        (1, b"\xa0", 1, [0, 255, 0, 255]),
        (2, b"\x1b", 2, [255, 255, 0, 255]),
        (4, b"\x0f\x05", 15, [255, 0, 255, 255]),
        (8, b"\1\2\3\4", 3, [255, 255, 0, 255]),
    ],
)
def test_a_transparent_gray_is_found_at_every_depth(depth, row, key, expected):
    picture = decode(made.png(4, 1, depth, 0, b"\0" + row, made.chunk(b"tRNS", bytes([0, key]))))
    assert picture.alpha.tolist() == [expected]


def test_a_transparent_palette_entry_becomes_alpha():
    palette = made.chunk(b"PLTE", b"\1\2\3\4\5\6") + made.chunk(b"tRNS", b"\x80")
    picture = decode(made.png(2, 1, 8, 3, b"\0\0\1", palette))
    assert picture.rgb.tolist() == [[[1, 2, 3], [4, 5, 6]]]
    assert picture.alpha.tolist() == [[128, 255]]


def test_sixteen_bit_with_a_transparent_colour_is_still_a_picture():
    extra = made.chunk(b"tRNS", b"\0\1\0\2\0\3")
    assert decode(made.png(1, 1, 16, 2, b"\0\0\1\0\2\0\3", extra)).obstacle == "16 bits per channel"


@pytest.mark.parametrize("late", [False, True])
def test_a_text_bomb_costs_the_text_and_not_the_picture(late):
    import zlib

    bomb = made.chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(20_000_000)))
    data = made.png(1, 1, 8, 2, b"\0\1\2\3", b"" if late else bomb)
    picture = decode(data[:-12] + bomb + data[-12:] if late else data)
    assert picture.rgb.tolist() == [[[1, 2, 3]]]
    assert picture.obstacle == "text or profile chunks of more than 1 MiB"


def test_a_progressive_jpeg_of_thousands_of_scans_is_refused():
    data = made.file(made.gradient(), "JPEG", progressive=True)
    scan = data[data.rfind(b"\xff\xda") : -2]
    with pytest.raises(ImageError, match=r"\d+ scans"):
        decode(data[:-2] + 600 * scan + data[-2:])


@pytest.mark.parametrize("path", made.PHOTOS, ids=lambda path: path.stem)
def test_sample_photos_decode_as_pillow_decodes_them(path):
    picture = decode(path.read_bytes())
    assert picture.obstacle is None
    assert (picture.rgb == np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))).all()


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA", "CMYK"])
def test_pictures_taken_strip_by_strip_are_whole(mode, monkeypatch):
    data = made.file(made.gradient(24, 19).convert(mode), "TIFF")
    whole = decode(data)
    monkeypatch.setattr(decode_module, "_STRIP_PIXELS", 24 * 4)
    assert (decode(data).rgb == whole.rgb).all()


def test_deep_floats_are_shown_over_their_range():
    samples = np.array([[0.0, 0.5, 1.0, np.nan]], np.float32)
    picture = decode(made.file(Image.fromarray(samples), "TIFF"))
    assert picture.rgb[0, :, 0].tolist() == [0, 128, 255, 0]
    assert picture.obstacle == "32 bits per channel"


def test_decoding_is_safe_from_many_threads():
    from concurrent.futures import ThreadPoolExecutor

    expected = [decode(data).rgb for data in SEEDS[:6]]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda k: decode(SEEDS[k % 6]).rgb, range(60)))
    assert all((found[k] == expected[k % 6]).all() for k in range(60))


UGLY = os.environ.get("SHARDPRESS_UGLY")


@pytest.mark.skipif(UGLY is None, reason="SHARDPRESS_UGLY names no folder of ugly images")
def test_the_ugly_set_ends_as_its_manifest_expects():
    folder = Path(UGLY or "")
    wrong = []
    for row in csv.DictReader(io.StringIO((folder / "manifest.csv").read_text())):
        started = time.perf_counter()
        reason = picture_or_reason((folder / row["file"]).read_bytes(), DEFAULT_PIXEL_LIMIT)
        outcome = "ok" if reason is None else "reject"
        if row["expected"] not in (outcome, "either") or time.perf_counter() - started > 5:
            wrong.append((row["file"], row["expected"], outcome, reason))
    assert not wrong
