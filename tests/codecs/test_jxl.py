"""JPEG XL: lossy, lossless pixels, and JPEG files given back byte for byte."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from PIL import Image, ImageCms

from pipeline.codecs.jxl import JXL, JXLLossless, declared_size, distance_of
from pipeline.errors import BitstreamError, CodecError, ImageError
from pipeline.imaging.decode import decode
from pipeline.records import Picture, Rate
from tests.contracts.codec import PHOTOS, CodecContract, LossyContract, colour_picture, decodes_or_refuses, photo

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


class TestJXL(LossyContract):
    codec = JXL(Rate(quality=80), effort=5)


class TestJXLLossless(CodecContract):
    codec = JXLLossless(effort=3)


class TestJXLLosslessTranscode(CodecContract):
    """The same contract with a JPEG as source: the payload is a rebuilt file, pixels those of the JPEG decoder."""

    codec = JXLLossless()
    refuses_obstacles = False

    def case(self, make: Callable[..., Picture] = colour_picture, *size: int) -> tuple[Picture, bytes]:
        picture = make(*size)
        jpeg = jpeg_of(picture.rgb[..., 0] if picture.gray else picture.rgb, quality=90)
        return decode(jpeg), jpeg


def jpeg_of(pixels: np.ndarray, mode: str | None = None, **options: object) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def transcode(jpeg: bytes) -> bytes:
    return JXLLossless().encode(decode(jpeg), jpeg).payload


def exif_turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return jpeg_of(photo(), exif=exif)


def arithmetic(jpeg: bytes) -> bytes:
    """A file whose frame header says arithmetic coding (SOF9)."""
    return jpeg.replace(b"\xff\xc0", b"\xff\xc9", 1)


@pytest.mark.parametrize("path", PHOTOS, ids=lambda p: p.stem)
def test_every_sample_photo_is_smaller_and_comes_back_byte_for_byte(path):
    source = path.read_bytes()
    picture = decode(source)
    payload = JXLLossless().encode(picture, source).payload
    assert len(payload) < 0.92 * len(source)
    assert JXLLossless().restore_source(payload) == source
    assert np.array_equal(JXLLossless().decode(payload), picture.rgb)


def test_the_sample_photos_lose_about_a_sixth():
    sources = [path.read_bytes() for path in PHOTOS]
    payloads = [JXLLossless().encode(Picture(rgb=photo(1, 1)), source).payload for source in sources]
    assert 0.80 < sum(map(len, payloads)) / sum(map(len, sources)) < 0.87


@pytest.mark.parametrize(
    "jpeg",
    [
        pytest.param(jpeg_of(photo(), progressive=True), id="progressive"),
        pytest.param(jpeg_of(photo(), subsampling="4:2:2"), id="422"),
        pytest.param(jpeg_of(photo(65, 63), subsampling="4:4:4", quality=98), id="444"),
        pytest.param(jpeg_of(photo(), mode="L"), id="gray"),
        pytest.param(jpeg_of(photo(), restart_marker_blocks=7), id="restart markers"),
        pytest.param(jpeg_of(photo(), keep_rgb=True), id="rgb"),
        pytest.param(jpeg_of(photo(), comment=b"a comment", icc_profile=SRGB), id="metadata"),
        pytest.param(jpeg_of(photo()) + b"trailing bytes" * 99, id="tail"),
        pytest.param(exif_turned(), id="orientation 6"),
    ],
)
def test_any_kind_of_jpeg_comes_back_byte_for_byte(jpeg):
    payload = transcode(jpeg)
    assert JXLLossless().restore_source(payload) == jpeg
    assert np.array_equal(JXLLossless().decode(payload), decode(jpeg).rgb)


@pytest.mark.parametrize(
    "jpeg",
    [
        pytest.param(jpeg_of(photo(), mode="CMYK"), id="cmyk"),
        pytest.param(arithmetic(jpeg_of(photo())), id="arithmetic"),
        pytest.param(jpeg_of(photo())[:5000], id="truncated"),
        pytest.param(jpeg_of(photo())[:-2], id="no end marker"),
        pytest.param(jpeg_of(photo(), icc_profile=bytes(500)), id="broken ICC profile"),
        pytest.param(b"\xff\xd8\xff", id="three bytes"),
    ],
)
def test_a_jpeg_that_libjxl_cannot_rebuild_is_refused(jpeg):
    with pytest.raises(CodecError, match=r"jxl-lossless: .*keep the original"):
        JXLLossless().encode(colour_picture(8, 8), jpeg)


def test_every_truncation_of_a_jpeg_comes_back_or_is_refused():
    jpeg = jpeg_of(photo(64, 64), progressive=True)
    for length in range(2, len(jpeg), 61):
        comes_back_or_is_refused(jpeg[:length])


@pytest.mark.skipif("SHARDPRESS_UGLY" not in os.environ, reason="SHARDPRESS_UGLY: no folder of ugly files given")
def test_every_ugly_jpeg_comes_back_or_is_refused():
    files = sorted(Path(os.environ["SHARDPRESS_UGLY"]).glob("*.jp*g"))
    assert files
    for path in files:
        comes_back_or_is_refused(path.read_bytes())


def comes_back_or_is_refused(jpeg: bytes) -> None:
    try:
        payload = JXLLossless().encode(Picture(rgb=photo(8, 8)), jpeg).payload
    except CodecError:
        return
    if jpeg.startswith(b"\xff\xd8\xff"):
        assert JXLLossless().restore_source(payload) == jpeg
        try:
            expected = decode(jpeg)
        except ImageError:
            decodes_or_refuses(JXLLossless(), payload)
        else:
            assert np.array_equal(JXLLossless().decode(payload), expected.rgb)


def test_pixels_hold_no_source_file():
    picture = colour_picture(16, 16)
    assert JXLLossless().restore_source(JXLLossless().encode(picture, b"\x89PNG").payload) is None


def test_quality_follows_libjxl():
    distances = [distance_of(q) for q in (100, 99, 90, 60, 30, 0)]
    assert distances == pytest.approx([0.0, 0.19, 1.0, 3.7, 6.4, 25.0])


def test_quality_100_is_lossless():
    picture = colour_picture(65, 63)
    codec = JXL(Rate(quality=100), effort=3)
    assert np.array_equal(codec.decode(codec.encode(picture, b"").payload), picture.rgb)


SIZES = [(1, 1), (8, 8), (256, 256), (12, 10), (40, 30), (60, 40), (160, 90), (50, 40), (20, 10), (63, 65), (9000, 1)]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_declared_size_is_read_from_the_header(size):
    width, height = size
    bare = imagecodecs.jpegxl_encode(np.zeros((height, width, 3), np.uint8), effort=1)
    assert declared_size(bare) == size
    boxed = imagecodecs.jpegxl_encode_jpeg(jpeg_of(np.zeros((height, width, 3), np.uint8)))
    assert declared_size(boxed) == size


@pytest.mark.parametrize("source", [b"\x89PNG", jpeg_of(photo(64, 64))], ids=["pixels", "jpeg"])
def test_a_declared_size_is_bounded_before_pixels_are_allocated(source, monkeypatch):
    payload = JXLLossless().encode(colour_picture(64, 64), source).payload
    monkeypatch.setattr(JXLLossless, "pixel_limit", 64 * 64 - 1)
    with pytest.raises(BitstreamError, match="declares 64x64 px"):
        JXLLossless().decode(payload)


def test_a_huge_declared_size_is_refused():
    bits = 0 | (3 << 1) | ((2**30 - 1) << 3) | (1 << 33)  # not small, 30-bit height, ratio 1:1
    with pytest.raises(BitstreamError, match="declares 1073741824x1073741824 px"):
        JXL().decode(b"\xff\x0a" + bits.to_bytes(16, "little"))
