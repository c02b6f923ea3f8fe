from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.interpolate import Akima1DInterpolator, PchipInterpolator

from pipeline.metrics import interpolation

steps = st.lists(st.floats(0.01, 10), min_size=3, max_size=12)
values = st.lists(st.floats(-50, 50), min_size=13, max_size=13)


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
@given(steps, values, st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=200, deadline=None)
def test_areas_agree_with_scipy(widths, heights, a, b):
    x = np.concatenate([[0.0], np.cumsum(widths)])
    y = np.array(heights[: len(x)])
    low, high = sorted((a * x[-1], b * x[-1]))
    assume(high - low > 1e-6)
    for slopes, reference in (
        (interpolation.pchip_slopes, PchipInterpolator),
        (interpolation.akima_slopes, Akima1DInterpolator),
    ):
        expected = float(reference(x, y).integrate(low, high))
        found = interpolation.integral(x, y, slopes(x, y), low, high)
        assert found == pytest.approx(expected, abs=1e-6 * (1 + np.abs(y).max() * x[-1]))


@pytest.mark.parametrize("slopes", [interpolation.pchip_slopes, interpolation.akima_slopes])
def test_a_line_stays_a_line(slopes):
    x = np.array([0.0, 1.0, 4.0, 5.0])
    assert slopes(x, 2 * x + 1) == pytest.approx([2, 2, 2, 2])
    assert interpolation.integral(x, 2 * x + 1, slopes(x, 2 * x + 1), 0.5, 4.5) == pytest.approx(24)


def test_pchip_does_not_overshoot_a_step():
    x, y = np.arange(6.0), np.array([0.0, 0, 0, 1, 1, 1])
    assert 0 <= interpolation.integral(x, y, interpolation.pchip_slopes(x, y), 0, 2) <= 1e-12
