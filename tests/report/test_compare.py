"""BD-rate with intervals, and sizes at equal quality."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.report.compare import (
    AtQuality,
    Estimate,
    at_quality,
    bd_rate_with_interval,
    mean_with_interval,
    saved_with_interval,
    worst,
)
from pipeline.report.measured import Curve, Measured


def curve_of(name: str, sizes: np.ndarray, psnr: np.ndarray) -> Curve:
    blank = np.full(sizes.shape, np.nan)
    settings = sizes.shape[1]
    return Curve(
        name, name, None, tuple(float(k) for k in range(settings)), ("",) * settings, sizes, 8 * sizes / 1e6, psnr,
        blank, blank, blank, blank, blank, blank,
    )  # fmt: skip


def measured_of(curves: list[Curve], source: np.ndarray) -> Measured:
    count = len(source)
    names = [str(k) for k in range(count)]
    pixels, blank = np.full(count, 1e6), np.full(count, np.nan)
    return Measured(names, names, names, source, pixels, blank, curves, np.ones(count, bool))


def pair(factor: float, images: int = 40) -> Measured:
    """Two codecs, the second needs `factor` times the bytes of the first everywhere."""
    generator = np.random.default_rng(0)
    scale = generator.uniform(0.5, 2.0, (images, 1))
    sizes = scale * np.array([[20e3, 40e3, 80e3, 160e3]])
    psnr = np.array([[30.0, 33.0, 36.0, 39.0]]) + generator.normal(0, 1, (images, 1))
    return measured_of([curve_of("a", sizes, psnr), curve_of("b", factor * sizes, psnr)], np.full(images, 1e6))


def test_a_constant_factor_is_the_bd_rate_and_its_interval():
    found = pair(0.7)
    rate = bd_rate_with_interval(found, *found.curves)
    assert isinstance(rate, Estimate)
    assert (rate.value, rate.low, rate.high) == pytest.approx((-30.0, -30.0, -30.0), abs=1e-6)


def test_the_interval_is_that_of_the_spread_between_images():
    found, generator = pair(0.7, images=100), np.random.default_rng(1)
    a, b = found.curves
    noisy = b.payload_bytes * np.exp(generator.normal(0, 0.3, (100, 1)))
    found = measured_of([a, curve_of("b", noisy, b.psnr_db)], found.source_bytes)
    rate = bd_rate_with_interval(found, *found.curves)
    assert isinstance(rate, Estimate)
    assert rate.low < rate.value < rate.high
    assert 5 < rate.high - rate.low < 20
    assert rate == bd_rate_with_interval(found, *found.curves)


def test_too_few_settings_say_so():
    found = pair(0.7)
    short = curve_of("c", found.curves[0].payload_bytes[:, :3], found.curves[0].psnr_db[:, :3])
    assert "at least 4" in bd_rate_with_interval(found, found.curves[0], short)


def test_sizes_at_equal_quality_are_interpolated_per_image():
    sizes, psnr = np.array([[100.0, 400.0], [100.0, 400.0], [100.0, 400.0]]), np.array([[30, 40], [36, 46], [20, 30.0]])
    found = measured_of([curve_of("a", sizes, psnr)], np.array([1000.0, 1000.0, 1000.0]))
    at = at_quality(found, found.curves[0], 35.0)
    # Halfway in dB is the geometric mean; better than asked is the smallest; out of reach keeps the source.
    assert at.stored_bytes == pytest.approx([200.0, 100.0, 1000.0])
    assert at.kept == 1
    assert at.saved_pct == pytest.approx(100 * (1 - 1300 / 3000))


def test_a_payload_larger_than_its_source_keeps_the_source():
    found = measured_of([curve_of("a", np.array([[500.0]]), np.array([[40.0]]))], np.array([300.0]))
    at = at_quality(found, found.curves[0], 35.0)
    assert (at.stored_bytes.tolist(), at.kept) == ([300.0], 1)


def test_an_exact_picture_meets_any_quality():
    found = measured_of([curve_of("a", np.array([[70.0]]), np.array([[np.inf]]))], np.array([100.0]))
    assert at_quality(found, found.curves[0], 60.0).stored_bytes.tolist() == [70.0]


def test_savings_have_an_interval():
    generator = np.random.default_rng(0)
    at = AtQuality(35.0, generator.uniform(40, 60, 200), np.full(200, 100.0), 0)
    saved = saved_with_interval(at)
    assert saved.low < saved.value < saved.high
    assert saved.high - saved.low < 3


def test_a_share_of_a_hundred_images_is_known_to_ten_percent_or_so():
    # As of a classifier that is right on 65 of 100 images: 1.96 sqrt(0.65 x 0.35 / 100) = 0.093.
    found = mean_with_interval(np.array([1.0] * 65 + [0.0] * 35))
    assert found.value == 0.65
    assert (found.low, found.high) == pytest.approx((0.557, 0.743), abs=0.02)
    assert mean_with_interval(np.array([1.0])) == Estimate(1.0)


def test_the_worst_are_the_smallest_finite_ones():
    values = np.array([5.0, np.nan, 1.0, 3.0, np.inf, 0.0])
    assert worst(values, np.array([True] * 5 + [False]), 2) == [2, 3]
