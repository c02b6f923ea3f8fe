"""JPEG, WebP, AVIF and JPEG 2000: the contract, and what each format cannot hold."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from pipeline.codecs.pillow import AVIF, JPEG, JPEG2000, WebP
from pipeline.errors import BitstreamError, CodecError, ConfigError
from pipeline.records import Picture, Rate
from tests.contracts.codec import LossyContract, colour_picture, png_of


class TestJPEG(LossyContract):
    codec = JPEG(Rate(quality=80))


class TestJPEG444(LossyContract):
    codec = JPEG(Rate(quality=70), subsampling="4:4:4")


class TestWebP(LossyContract):
    codec = WebP(Rate(quality=80))


class TestAVIF(LossyContract):
    codec = AVIF(Rate(quality=60), speed=8)


class TestJPEG2000(LossyContract):
    codec = JPEG2000(Rate(quality=60))


def strip(width: int) -> Picture:
    return Picture(rgb=np.zeros((1, width, 3), np.uint8))


@pytest.mark.parametrize(
    ("codec", "limit"), [(JPEG(), 65_500), (WebP(), 16_383), (AVIF(speed=10), 32_768)], ids=lambda v: str(v)[:6]
)
def test_the_longest_side_is_coded_and_one_more_is_refused(codec, limit):
    payload = codec.encode(strip(limit), b"").payload
    assert codec.decode(payload).shape == (1, limit, 3)
    with pytest.raises(CodecError, match=f"{limit + 1}x1 px; a side is at most {limit}"):
        codec.encode(strip(limit + 1), b"")


def test_avif_refuses_more_pixels_than_libavif_reads():
    wide = np.broadcast_to(np.uint8(0), (16_385, 16_385, 3))
    with pytest.raises(CodecError, match="at most 268435456 pixels"):
        AVIF().encode(Picture(rgb=wide), b"")


@pytest.mark.parametrize("codec", [JPEG(), WebP(), AVIF(speed=10), JPEG2000()], ids=lambda c: c.name)
def test_a_declared_size_is_bounded_before_pixels_are_allocated(codec, monkeypatch):
    payload = codec.encode(colour_picture(64, 64), b"").payload
    monkeypatch.setattr(type(codec), "pixel_limit", 64 * 64 - 1)
    with pytest.raises(BitstreamError, match="declares 64x64 px"):
        codec.decode(payload)


def test_a_foreign_cmyk_jpeg_is_not_a_payload():
    buffer = io.BytesIO()
    Image.new("CMYK", (8, 8)).save(buffer, "JPEG")
    with pytest.raises(BitstreamError, match="expected 8-bit gray or RGB"):
        JPEG().decode(buffer.getvalue())


def test_payloads_of_the_others_are_refused():
    picture = colour_picture(16, 16)
    codecs = [JPEG(), WebP(), AVIF(speed=10), JPEG2000()]
    for writer in codecs:
        payload = writer.encode(picture, png_of(picture)).payload
        for reader in codecs:
            if reader is not writer:
                with pytest.raises(BitstreamError):
                    reader.decode(payload)


def test_jpeg_is_progressive_optimised_and_420_by_default():
    with Image.open(io.BytesIO(JPEG().encode(colour_picture(), b"").payload)) as image:
        assert image.info.get("progressive")
        assert image.layer[0][1:3] == (2, 2)
        assert "exif" not in image.info


def test_jpeg2000_codes_colour_as_differences(photos):
    rgb = np.asarray(Image.open(photos[-2]).convert("RGB"))[400:656, 400:784]
    luma = np.repeat(np.asarray(Image.fromarray(rgb).convert("L"))[..., None], 3, axis=2)
    three, one = (
        len(JPEG2000(Rate(quality=50)).encode(Picture(luma, gray=gray), b"").payload) for gray in (False, True)
    )
    assert three < 1.5 * one


def test_jpeg2000_quality_is_a_psnr():
    from pipeline.metrics.distortion import mse, psnr_db

    picture = colour_picture()
    for quality in (20, 50, 70):
        decoded = JPEG2000().decode(JPEG2000(Rate(quality=quality)).encode(picture, b"").payload)
        assert psnr_db(mse(picture.rgb, decoded)) == pytest.approx(20 + 0.3 * quality, abs=1.5)


@pytest.mark.parametrize(
    ("cls", "options"),
    [(JPEG, {"subsampling": "4:1:0"}), (WebP, {"method": 7}), (AVIF, {"speed": 11}), (AVIF, {"max_threads": True})],
)
def test_an_option_out_of_range_is_a_config_error(cls, options):
    with pytest.raises(ConfigError, match=f"{next(iter(options))} is .*; expected one of"):
        cls(**options)
