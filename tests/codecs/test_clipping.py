"""The part of a filter that is not linear, with Numba and without."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from pipeline import compiling
from pipeline.codecs.learned import clipping
from pipeline.codecs.learned.filters import Filter
from pipeline.codecs.learned.wiener import PAIRS
from tests.codecs.test_wiener import CPU, by_the_book, random_filter


def test_pairs_are_in_the_order_of_the_format_and_within_their_limits():
    rows = torch.from_numpy(np.random.default_rng(0).integers(0, 500, (3, 5, 9)).astype(np.float32))
    found = clipping.clipped_pairs(rows, (40, 300))
    assert found.shape == (2, 12, 3, 5)
    assert torch.equal(clipping._clipped_pairs(rows, (40, 300)), found)
    for number, limit in enumerate((40, 300)):
        for k, (dy, dx) in enumerate(PAIRS):
            for x in range(5):
                here = rows[:, 2, 2 + x]
                one, other = rows[:, 2 + dy, 2 + x + dx] - here, rows[:, 2 - dy, 2 + x - dx] - here
                assert torch.equal(found[number, k, :, x], one.clamp(-limit, limit) + other.clamp(-limit, limit))


def test_brightness_is_rounded_down_as_integers_are():
    levels = torch.tensor([[0, 0, 3], [2040, 2040, 2040], [1, 1, 0], [0, 1, 2]]).float()
    assert clipping.brightness(levels).tolist() == [0, 2040, 0, 1]
    assert clipping.brightness(levels[:, :1]).tolist() == [0, 2040, 1, 0]


@pytest.mark.parametrize("fault", ["missing", "broken", "wrong filtered", "wrong pairs"])
def test_filters_do_without_numba_where_it_is_missing_or_wrong(fault, monkeypatch, caplog):
    def broken(*_: object) -> None:
        raise RuntimeError("LLVM says no")

    assert clipping.compiled_filters() is not None
    clipping.compiled_filters.cache_clear()
    name = "pipeline.codecs.learned.filters_compiled"
    if fault == "missing":
        monkeypatch.setitem(sys.modules, name, None)
    elif fault == "broken":
        monkeypatch.delitem(sys.modules, name)
        monkeypatch.setattr(compiling, "compiled", broken)
    else:
        monkeypatch.setattr(sys.modules[name], fault.removeprefix("wrong "), lambda *_: None)
    monkeypatch.delattr("pipeline.codecs.learned.filters_compiled", raising=False)
    try:
        levels = np.random.default_rng(3).uniform(0, 255, (20, 64, 3)).astype(np.float32)
        wiener = random_filter(4)
        found = Filter(wiener, CPU)(torch.from_numpy(levels)).round().clamp(0, 255).byte().numpy()
        assert np.array_equal(found, by_the_book(wiener, levels))
        assert clipping.compiled_filters() is None
        assert ("filters go on without Numba" in caplog.text) == (fault != "missing")
    finally:
        clipping.compiled_filters.cache_clear()
