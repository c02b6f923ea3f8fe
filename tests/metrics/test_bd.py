from __future__ import annotations

import math
import warnings

import bjontegaard
import numpy as np
import pytest

from pipeline.errors import MetricError
from pipeline.metrics.bd import RDCurve, bd_psnr, bd_rate, ms_ssim_db

# Means over the 24 Kodak images, bits per pixel and PSNR-RGB: InterDigitalInc/CompressAI at 869a9f5d,
# results/image/kodak/{jpeg,webp,vtm}.json (Pillow 7.1.2 JPEG and WebP; VTM).
# fmt: off
JPEG = RDCurve(
    (0.221153, 0.326614, 0.423126, 0.508386, 0.587866, 0.660127, 0.728946, 0.786027, 0.849719, 0.906001,
     0.96438, 1.037212, 1.127396, 1.239846, 1.368827, 1.571807, 1.858816, 2.350199, 3.40134),
    (23.77989, 26.57723, 28.04225, 29.04181, 29.78473, 30.37831, 30.90316, 31.30783, 31.70485, 32.05865,
     32.3993, 32.78992, 33.23474, 33.79259, 34.3943, 35.239, 36.32886, 37.91212, 40.55666),
    "jpeg",
)
WEBP = RDCurve(
    (0.234419, 0.296336, 0.352865, 0.407049, 0.460802, 0.512705, 0.567407, 0.620739, 0.674676, 0.721817,
     0.770877, 0.823675, 0.874027, 0.934291, 0.998388, 1.216314, 1.520081, 2.010354, 2.928479),
    (28.32842, 29.1512, 29.82085, 30.40698, 30.93918, 31.44262, 31.93596, 32.42482, 32.88346, 33.23755,
     33.60666, 33.97166, 34.32818, 34.69345, 35.10417, 36.36905, 37.77826, 39.55695, 41.75925),
    "webp",
)
VTM = RDCurve(
    (0.048245, 0.112495, 0.245817, 0.490545, 0.87481, 1.43085, 2.324607, 3.632609),
    (26.14485, 28.49302, 31.19987, 34.26153, 37.41979, 40.42444, 43.50577, 46.59176),
    "vtm",
)
# fmt: on
CURVES = (JPEG, WEBP, VTM)


@pytest.mark.parametrize("method", ["pchip", "akima"])
@pytest.mark.parametrize(("mine", "theirs"), [(bd_rate, bjontegaard.bd_rate), (bd_psnr, bjontegaard.bd_psnr)])
@pytest.mark.parametrize("anchor", CURVES, ids=lambda curve: curve.name)
@pytest.mark.parametrize("test", CURVES, ids=lambda curve: curve.name)
def test_deltas_agree_with_the_bjontegaard_package(method, mine, theirs, anchor, test):
    points = (anchor.bpp, anchor.quality_db, test.bpp, test.quality_db)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = theirs(*map(list, points), method, require_matching_points=False, min_overlap=0)
    assert mine(anchor, test, method) == pytest.approx(float(expected), abs=1e-9)


@pytest.mark.parametrize(("test", "published_pct"), [(WEBP, -36.2), (VTM, -67.6)], ids=["webp", "vtm"])
def test_well_known_gaps_to_jpeg_come_out(test, published_pct):
    assert bd_rate(JPEG, test, "akima") == pytest.approx(published_pct, abs=0.1)
    assert bd_rate(JPEG, test) == pytest.approx(published_pct, abs=0.4)


def test_half_the_bits_are_minus_fifty_percent():
    half = RDCurve([rate / 2 for rate in VTM.bpp], VTM.quality_db)
    assert bd_rate(VTM, half) == pytest.approx(-50)
    assert bd_rate(half, VTM) == pytest.approx(100)
    assert isinstance(bd_rate(VTM, half), float)


def test_one_decibel_more_is_one_decibel():
    better = RDCurve(VTM.bpp, [quality + 1 for quality in VTM.quality_db])
    assert bd_psnr(VTM, better) == pytest.approx(1)


def test_the_order_of_points_does_not_matter():
    order = np.random.default_rng(1).permutation(len(WEBP.bpp))
    shuffled = RDCurve(np.array(WEBP.bpp)[order], np.array(WEBP.quality_db)[order])
    assert bd_rate(JPEG, shuffled) == bd_rate(JPEG, WEBP)


@pytest.mark.parametrize(
    ("rate", "quality", "word"),
    [
        ((1, 2, 3), (30, 31, 32), "at least 4"),
        ((1, 2, 3, 4), (30, 31, 32), "4 rates and 3 qualities"),
        ((0, 1, 2, 3), (30, 31, 32, 33), "above 0"),
        ((1, 2, 3, 4), (30, 31, 32, math.inf), "leave lossless points out"),
        ((1, 2, 3, 4), (30, 31, 31, 32), "share"),
        ((1, 2, 2, 4), (30, 31, 32, 33), "share"),
    ],
)
def test_curves_that_mean_nothing_are_refused(rate, quality, word):
    with pytest.raises(MetricError, match=word):
        RDCurve(rate, quality, "mine")


def test_curves_that_do_not_meet_are_refused_by_name():
    far = RDCurve((1, 2, 3, 4), (60, 61, 62, 63), "far")
    with pytest.raises(MetricError, match=r"vtm covers 26\.145 to 46\.592 and far 60\.000"):
        bd_rate(VTM, far)


def test_an_unknown_method_is_refused():
    with pytest.raises(MetricError, match="pchip, akima"):
        bd_rate(JPEG, WEBP, "cubic")  # type: ignore[arg-type]


def test_ms_ssim_on_a_scale_of_decibels():
    assert ms_ssim_db(0.9) == pytest.approx(10)
    assert ms_ssim_db(0.99) == pytest.approx(20)
    assert ms_ssim_db(1.0) == math.inf
