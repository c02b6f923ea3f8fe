from __future__ import annotations

import io
import math
import warnings

import numpy as np
import pytest
import pytorch_msssim
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity

from pipeline.errors import MetricError
from pipeline.metrics import distortion
from pipeline.metrics.distortion import measure, ms_ssim, mse, psnr_db, ssim
from pipeline.records import Distortion

RANDOM = np.random.default_rng(7)


def jpeg(picture: np.ndarray, quality: int) -> np.ndarray:
    target = io.BytesIO()
    Image.fromarray(picture).save(target, "JPEG", quality=quality)
    return np.array(Image.open(target))


@pytest.fixture(scope="module")
def photo(photos) -> np.ndarray:
    return np.array(Image.open(photos[0]).convert("RGB"))


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    return RANDOM.integers(0, 256, (height, width, channels), dtype=np.uint8)


def skimage_ssim(x: np.ndarray, y: np.ndarray) -> float:
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return float(structural_similarity(x, y, data_range=255, channel_axis=2, **options))


def torch_ms_ssim(x: np.ndarray, y: np.ndarray) -> float:
    tensors = [torch.from_numpy(v).permute(2, 0, 1)[None].double() for v in (x, y)]
    return float(pytorch_msssim.ms_ssim(*tensors, data_range=255))


@pytest.mark.parametrize("quality", [3, 30, 75, 98])
@pytest.mark.parametrize("size", [(333, 501), (161, 200), (256, 161), (352, 288)])
def test_values_agree_with_the_packages_everyone_quotes(photo, quality, size):
    x = np.ascontiguousarray(photo[: size[0], : size[1]])
    y = jpeg(x, quality)
    found = measure(x, y)
    assert found.mse == pytest.approx(mean_squared_error(x, y), rel=1e-12)
    assert found.psnr_db == pytest.approx(peak_signal_noise_ratio(x, y), rel=1e-9)
    assert found.ssim == pytest.approx(skimage_ssim(x, y), abs=1e-6)
    assert found.ms_ssim == pytest.approx(torch_ms_ssim(x, y), abs=5e-6)


@pytest.mark.parametrize(
    "pair",
    [
        (noise(200, 170), noise(200, 170)),
        (np.zeros((165, 165, 3), np.uint8), np.full((165, 165, 3), 255, np.uint8)),
        (np.full((180, 161, 3), 255, np.uint8), np.full((180, 161, 3), 254, np.uint8)),
        (noise(161, 1200), 255 - noise(161, 1200)),
    ],
    ids=["noise", "black and white", "flat and bright", "wide"],
)
def test_extremes_agree_too(pair):
    found = measure(*pair)
    assert found.ssim == pytest.approx(skimage_ssim(*pair), abs=1e-6)
    assert found.ms_ssim == pytest.approx(torch_ms_ssim(*pair), abs=3e-5)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (2, 2), (10, 300), (11, 11), (64, 160), (65, 63), (300, 400)])
def test_identical_pictures_are_perfect_at_any_size(size):
    picture = noise(*size)
    assert measure(picture, picture.copy()) == Distortion(0.0, math.inf, 1.0, 1.0)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_any_size_gives_finite_values_in_range(height, width, seed):
    random = np.random.default_rng(seed)
    x, y = random.integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = measure(x, y)
    assert 0 <= found.mse <= 255**2
    assert -1 <= found.ssim <= 1
    assert 0 <= found.ms_ssim <= 1
    assert found == measure(y, x)


def test_one_pixel_is_compared_by_its_value():
    x, y = np.full((1, 1, 3), 100, np.uint8), np.full((1, 1, 3), 120, np.uint8)
    expected = (2 * 100 * 120 + distortion.C1) / (100**2 + 120**2 + distortion.C1)
    assert ssim(x, y) == pytest.approx(expected, rel=1e-6)
    assert ms_ssim(x, y) == pytest.approx(expected**1.0001, rel=1e-6)


def test_mse_by_hand():
    x, y = np.zeros((1, 2, 3), np.uint8), np.array([[[3, 0, 0], [0, 4, 0]]], np.uint8)
    assert mse(x, y) == 25 / 6
    assert psnr_db(255**2) == 0
    assert psnr_db(1.0) == pytest.approx(48.1308, abs=1e-4)
    assert psnr_db(0.0) == math.inf


def test_one_gray_channel_gives_what_three_equal_ones_give(photo):
    x, y = photo[:200, :300, 1:2], jpeg(photo, 20)[:200, :300, 1:2]
    one, three = measure(x, y), measure(np.repeat(x, 3, 2), np.repeat(y, 3, 2))
    for name in ("mse", "ssim", "ms_ssim"):
        assert getattr(one, name) == pytest.approx(getattr(three, name), abs=1e-7)


@pytest.mark.parametrize("samples", [1, 5000, 1 << 30])
def test_the_strip_height_changes_nothing(photo, monkeypatch, samples):
    x, y = photo[:250, :333], jpeg(photo, 40)[:250, :333]
    expected = measure(x, y)
    monkeypatch.setattr(distortion, "_STRIP_SAMPLES", samples)
    found = measure(x, y)
    assert (found.mse, found.psnr_db) == (expected.mse, expected.psnr_db)
    assert (found.ssim, found.ms_ssim) == pytest.approx((expected.ssim, expected.ms_ssim), abs=1e-7)


def test_views_and_read_only_arrays_are_fine(photo):
    x, y = photo[::-2, ::3], jpeg(photo, 40)[::-2, ::3]
    x.flags.writeable = False
    expected = measure(np.ascontiguousarray(x), np.ascontiguousarray(y))
    assert measure(x, y) == expected


def test_the_short_form_leaves_structure_out():
    x, y = noise(20, 30), noise(20, 30)
    assert measure(x, y, full=False) == Distortion(mse(x, y), psnr_db(mse(x, y)))


@pytest.mark.parametrize(
    ("x", "y", "word"),
    [
        (noise(4, 4), noise(4, 5), "equal shapes"),
        (noise(4, 4).astype(float), noise(4, 4), "expected uint8"),
        (noise(4, 4)[..., 0], noise(4, 4)[..., 0], "height, width, channels"),
        (noise(0, 4), noise(0, 4), "at least one pixel"),
    ],
)
def test_what_cannot_be_compared_is_said(x, y, word):
    with pytest.raises(MetricError, match=word):
        measure(x, y)
