from __future__ import annotations

import pytest

from pipeline.errors import MetricError
from pipeline.metrics.rate import bpp, saved_pct


def test_bits_per_pixel_count_pixels_not_samples():
    assert bpp(1000, 100, 80) == 1.0


def test_no_pixels_have_no_rate():
    with pytest.raises(MetricError, match="0 x 5 px"):
        bpp(10, 0, 5)


@pytest.mark.parametrize(("source", "payload", "saved"), [(200, 50, 75.0), (100, 110, -10.0), (0, 0, 0.0)])
def test_savings(source, payload, saved):
    assert saved_pct(source, payload) == pytest.approx(saved)
