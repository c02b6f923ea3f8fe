"""What every codec must pass. Inherit, set `codec`, and weaken nothing:

    class TestWebP(CodecContract):
        codec = WebP(Rate(quality=80))

Lossy codecs also inherit `LossyContract`, which asks for monotone sizes and targets that are hit.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.codecs import registry
from pipeline.codecs.base import Codec
from pipeline.errors import BitstreamError, CodecError
from pipeline.metrics.distortion import mse, psnr_db
from pipeline.records import Picture, Rate

PHOTOS = sorted((Path(__file__).parents[1] / "data" / "photos").glob("*.jpg"))
ODD_SIZES = [(1, 1), (1, 2), (2, 1), (65, 63), (3, 200)]


def photo(height: int = 192, width: int = 256) -> np.ndarray:
    """The middle of a sample photo, (height, width, 3) uint8."""
    with Image.open(PHOTOS[3]) as image:
        return np.asarray(image.convert("RGB"))[200 : 200 + height, 300 : 300 + width].copy()


def colour_picture(height: int = 192, width: int = 256) -> Picture:
    return Picture(rgb=photo(height, width), source_format="PNG")


def gray_picture(height: int = 192, width: int = 256) -> Picture:
    gray = photo(height, width)[..., 1:2]
    return Picture(rgb=np.repeat(gray, 3, axis=2), gray=True, source_format="PNG")


def png_of(picture: Picture) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture.rgb[..., 0] if picture.gray else picture.rgb).save(buffer, "PNG")
    return buffer.getvalue()


def decodes_or_refuses(codec: Codec, payload: bytes) -> None:
    """An array or BitstreamError; any other exception fails the test."""
    try:
        pixels = codec.decode(payload)
    except BitstreamError:
        return
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3


class CodecContract:
    codec: Codec
    refuses_obstacles = True
    recognisable_db = 25.0

    def case(self, make: Callable[..., Picture] = colour_picture, *size: int) -> tuple[Picture, bytes]:
        """A picture of `size`, and the source file it was decoded from."""
        picture = make(*size)
        return picture, png_of(picture)

    def payload(self, case: tuple[Picture, bytes]) -> bytes:
        return self.codec.encode(*case).payload

    @pytest.mark.parametrize("size", ODD_SIZES, ids=lambda s: f"{s[0]}x{s[1]}")
    @pytest.mark.parametrize("make", [colour_picture, gray_picture])
    def test_every_size_comes_back(self, size, make):
        picture, source = self.case(make, *size)
        decoded = self.codec.decode(self.payload((picture, source)))
        assert decoded.shape == picture.rgb.shape
        assert decoded.dtype == np.uint8
        if self.codec.lossless:
            assert np.array_equal(decoded, picture.rgb)

    def test_a_photo_comes_back_recognisable(self):
        picture, source = self.case()
        distortion = mse(picture.rgb, self.codec.decode(self.payload((picture, source))))
        assert distortion == 0 if self.codec.lossless else psnr_db(distortion) > self.recognisable_db

    def test_gray_comes_back_as_three_equal_channels(self):
        picture, source = self.case(gray_picture)
        decoded = self.codec.decode(self.payload((picture, source)))
        assert np.array_equal(decoded[..., 0], decoded[..., 1])
        assert np.array_equal(decoded[..., 0], decoded[..., 2])
        assert psnr_db(mse(picture.rgb, decoded)) > self.recognisable_db

    def test_the_same_picture_gives_the_same_bytes(self):
        case = self.case(colour_picture, 65, 63)
        assert self.payload(case) == self.payload(case)

    def test_its_spec_survives_json(self):
        rebuilt = registry.from_spec(json.loads(json.dumps(self.codec.spec())))
        assert rebuilt == self.codec
        assert rebuilt.spec() == self.codec.spec()

    def test_a_row_finds_its_decoder(self):
        payload = self.payload(self.case(colour_picture, 65, 63))
        decoder = registry.decoder_for(self.codec.name, self.codec.model_id)
        assert np.array_equal(decoder.decode(payload), self.codec.decode(payload))

    def test_garbage_is_a_bitstream_error(self):
        noise = np.random.default_rng(7).bytes(500)
        for garbage in (
            b"",
            b"\0",
            b"\xff",
            noise,
            b"<html>404</html>",
            self.payload(self.case(colour_picture, 8, 8))[:1],
        ):
            with pytest.raises(BitstreamError, match=self.codec.name):
                self.codec.decode(garbage)

    def test_a_truncated_payload_is_a_bitstream_error_or_a_picture(self):
        payload = self.payload(self.case(colour_picture, 65, 63))
        for length in sorted({*range(0, min(len(payload), 40)), *range(0, len(payload), max(1, len(payload) // 40))}):
            decodes_or_refuses(self.codec, payload[:length])

    def test_a_damaged_payload_is_a_bitstream_error_or_a_picture(self):
        payload = self.payload(self.case(colour_picture, 65, 63))
        rng = np.random.default_rng(11)
        for _ in range(60):
            damaged = bytearray(payload)
            damaged[int(rng.integers(min(len(payload), 400)))] ^= int(rng.integers(1, 256))
            decodes_or_refuses(self.codec, bytes(damaged))

    def test_an_obstacle_is_refused_with_its_reason(self):
        picture, source = self.case(colour_picture, 8, 8)
        picture = replace(picture, obstacle="16 bits per channel")
        if not self.refuses_obstacles:
            assert self.payload((picture, source))
            return
        with pytest.raises(CodecError, match="16 bits per channel"):
            self.payload((picture, source))

    def test_metadata_and_alpha_leave_no_trace(self):
        plain, source = self.case(colour_picture, 65, 63)
        marked = replace(
            plain, alpha=np.zeros((65, 63), np.uint8), exif=b"Exif\0\0II*\0", icc=b"profile", xmp=b"<x:xmpmeta/>"
        )
        assert self.payload((marked, source)) == self.payload((plain, source))


class LossyContract(CodecContract):
    def at(self, rate: Rate) -> Codec:
        spec = {k: v for k, v in self.codec.spec().items() if k not in ("name", "rate")}
        return registry.build(self.codec.name, rate, **spec)

    def encoded(self, picture: Picture, **rate: float):
        return self.at(Rate(**rate)).encode(picture, png_of(picture))

    def test_more_quality_is_more_bytes_and_less_distortion(self):
        picture = colour_picture()
        payloads = [self.encoded(picture, quality=quality).payload for quality in (10, 30, 50, 70, 90)]
        assert [len(p) for p in payloads] == sorted(len(p) for p in payloads)
        distortions = [mse(picture.rgb, self.codec.decode(p)) for p in payloads]
        assert distortions == sorted(distortions, reverse=True)

    @pytest.mark.parametrize("quality", [0, 100])
    def test_both_ends_of_the_quality_range_work(self, quality):
        picture = colour_picture(65, 63)
        assert self.codec.decode(self.encoded(picture, quality=quality).payload).shape == (65, 63, 3)

    def test_a_flat_picture_comes_back_flat(self):
        picture = Picture(rgb=np.full((33, 47, 3), (200, 120, 40), np.uint8))
        decoded = self.codec.decode(self.payload((picture, png_of(picture))))
        assert np.abs(decoded.astype(int) - picture.rgb).max() <= 8

    def test_a_psnr_target_is_reached_and_hardly_exceeded(self):
        picture = colour_picture()
        encoded = self.encoded(picture, psnr_db=34)
        reached = psnr_db(mse(picture.rgb, self.codec.decode(encoded.payload)))
        assert 34 <= reached < 34.6
        assert encoded.quality is not None

    def test_a_size_target_is_kept_and_used(self):
        picture = colour_picture()
        budget = 1.5
        bpp = 8 * len(self.encoded(picture, bpp=budget).payload) / (192 * 256)
        assert 0.9 * budget < bpp <= budget

    def test_an_impossible_target_says_what_was_reached(self):
        with pytest.raises(CodecError, match=r"cannot be reached: .* at quality"):
            self.encoded(colour_picture(), bpp=0.001)

    def test_nothing_of_the_source_file_is_kept(self):
        assert self.codec.restore_source(self.payload(self.case(colour_picture, 8, 8))) is None
