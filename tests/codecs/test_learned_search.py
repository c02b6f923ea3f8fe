"""The search of learned codecs over quality, on curves unlike the typical one."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import pytest

from pipeline.codecs.learned import search
from pipeline.records import Rate

REFERENCE = np.zeros((100, 100, 3), np.uint8)


@pytest.mark.parametrize("span", [0.8, 1.6, 3.2, 6.4])
@pytest.mark.parametrize("share", [0.03, 0.1, 0.5, 0.9, 0.97])
def test_sizes_are_met_in_six_passes_however_steep_the_curve(span, share):
    """Bytes grow by e^span from quality 0 to 100, most of it at the upper end; the target is `share` of the way."""
    passes = []

    def size(centi: int) -> int:
        return round(2000 * math.exp(span * (0.7 * centi + 0.3 * centi**2 / 1e4) / 1e4))

    def analyse(centi: int) -> Any:
        passes.append(centi)
        return centi, REFERENCE

    wanted = 2000 * math.exp(span * share)
    found, _ = cast(tuple[int, np.ndarray], search.reach(Rate(bpp=8 * wanted / 1e4), REFERENCE, analyse, size, "curve"))  # type: ignore[arg-type]
    assert len(passes) <= search.PASSES
    assert 0.98 * wanted <= size(found) <= wanted
