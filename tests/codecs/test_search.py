"""Targets are met, with few encodes, on curves made up to be awkward."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.codecs.pillow import JPEG, WebP
from pipeline.codecs.search import reach
from pipeline.errors import CodecError
from pipeline.metrics.distortion import ms_ssim, mse, psnr_db
from pipeline.records import Rate
from tests.contracts.codec import colour_picture

REFERENCE = np.zeros((64, 64, 3), np.uint8)


class Curve:
    """An encoder whose payload is its quality and whose size and distortion are given functions of it."""

    def __init__(self, level=lambda q: 60 - q * 0.6, size=lambda q: 10 + q * q / 4):
        self.level, self.size, self.encodes = level, size, []

    def encode(self, quality: float) -> bytes:
        self.encodes.append(quality)
        return f"{quality:g} ".encode().ljust(int(self.size(quality)), b".")

    def decode(self, payload: bytes) -> np.ndarray:
        return np.full_like(REFERENCE, round(self.level(float(payload.split()[0]))))

    def reach(self, quality_step: float = 1.0, **rate: float):
        return reach("curve", Rate(**rate), REFERENCE, self.encode, self.decode, quality_step)

    def psnr(self, payload: bytes) -> float:
        return psnr_db(mse(REFERENCE, self.decode(payload)))


def test_a_quality_is_one_encode_on_the_grid():
    curve = Curve()
    assert curve.reach(quality=60.4).quality == 60
    assert curve.reach(quality_step=0.5, quality=60.4).quality == 60.5
    assert curve.encodes == [60, 60.5]


@pytest.mark.parametrize("target", [13, 15, 18, 22, 27, 33, 40, 48])
@pytest.mark.parametrize("quality_step", [1.0, 0.5])
def test_the_lowest_quality_that_reaches_a_distortion_target_is_found(target, quality_step):
    curve = Curve()
    found = curve.reach(quality_step=quality_step, psnr_db=target)
    assert curve.psnr(found.payload) >= target
    below = found.quality - quality_step
    assert below < 0 or curve.psnr(curve.encode(below)) < target
    assert len(curve.encodes) <= 12


@pytest.mark.parametrize("target", [0.05, 0.1, 0.7, 2.0, 4.5])
def test_the_highest_quality_within_a_size_target_is_found(target):
    curve = Curve()
    found = curve.reach(bpp=target)
    assert 8 * len(found.payload) / 64**2 <= target
    assert 8 * len(curve.encode(found.quality + 1)) / 64**2 > target
    assert len(curve.encodes) <= 12


def test_a_size_target_above_every_payload_gives_the_highest_quality():
    assert Curve().reach(bpp=100).quality == 100


def test_a_curve_that_is_not_monotone_still_meets_its_target():
    curve = Curve(level=lambda q: 60 - q * 0.6 + 3 * (int(q) % 3))
    assert curve.psnr(curve.reach(psnr_db=22).payload) >= 22


def test_a_step_in_the_curve_is_found():
    curve = Curve(level=lambda q: 50 if q < 83 else 1)
    assert curve.reach(psnr_db=30).quality == 83


@pytest.mark.parametrize(
    ("rate", "message"),
    [
        ({"psnr_db": 60}, r"60 dB PSNR cannot be reached: 48\.13 at quality 100; ask for less"),
        ({"bpp": 0.001}, r"0\.001 bits per pixel cannot be reached: 0\.01953 at quality 0; ask for more"),
    ],
)
def test_an_unreachable_target_says_what_was_reached(rate, message):
    with pytest.raises(CodecError, match=message):
        Curve(level=lambda q: 101 - q).reach(**rate)


def test_real_codecs_need_few_encodes(monkeypatch):
    encodes = []
    for cls in (JPEG, WebP):
        write = cls._write
        monkeypatch.setattr(cls, "_write", lambda self, p, q, write=write: encodes.append(q) or write(self, p, q))
    picture = colour_picture()
    targets = [Rate(psnr_db=d) for d in (28, 31, 34, 37)] + [Rate(bpp=b) for b in (0.6, 1.0, 2.0)]
    for rate in targets:
        JPEG(rate).encode(picture, b"")
        WebP(rate).encode(picture, b"")
    assert len(encodes) / (2 * len(targets)) < 7.5


def test_an_ms_ssim_target_is_reached():
    picture = colour_picture(256, 256)
    encoded = JPEG(Rate(ms_ssim=0.97)).encode(picture, b"")
    assert 0.97 <= ms_ssim(picture.rgb, JPEG().decode(encoded.payload)) < 0.98


def test_an_ms_ssim_target_is_reached_on_a_tiny_picture():
    picture = colour_picture(9, 7)
    encoded = JPEG(Rate(ms_ssim=0.9)).encode(picture, b"")
    assert ms_ssim(picture.rgb, JPEG().decode(encoded.payload)) >= 0.9
