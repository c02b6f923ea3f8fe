"""Applying filters, and the part of them that is not linear, with Numba and without."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from pipeline import compiling
from pipeline.codecs.learned import clipping, filters
from pipeline.codecs.learned.filters import Filter
from pipeline.codecs.learned.wiener import PAIRS
from tests.codecs.test_wiener import CPU, by_the_book, random_filter, without_numba


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


@pytest.mark.parametrize("colours", [1, 3])
@pytest.mark.parametrize("width", [1, 2, 3, 5, 255, 256, 257, 259, 515])
def test_compiled_filters_take_pictures_of_any_size(colours, width):
    for height in (1, 2, 4, 24, 25, 51):
        levels = np.random.default_rng(height).uniform(-20, 275, (height, width, colours)).astype(np.float32)
        wiener = random_filter(height, colours)
        found = Filter(wiener, CPU)(torch.from_numpy(levels)).round().clamp(0, 255).byte().numpy()
        assert np.array_equal(found, by_the_book(wiener, levels))


def test_strips_threads_and_a_lower_precision_of_products_do_not_change_it(monkeypatch):
    levels = torch.from_numpy(np.random.default_rng(3).uniform(0, 255, (60, 320, 3)).astype(np.float32))
    wiener = random_filter(4)
    whole = Filter(wiener, CPU)(levels)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert torch.equal(Filter(wiener, CPU)(levels), whole)
    without_numba(monkeypatch)
    assert torch.equal(Filter(wiener, CPU)(levels), whole)
    monkeypatch.setattr(clipping, "STRIP_PX", 2000)
    monkeypatch.setattr(filters, "STRIP_FLOATS", 5000)
    assert torch.equal(Filter(wiener, CPU)(levels), whole)
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "medium")
    behind = Filter(wiener, CPU)
    assert behind._by.linear.dtype == torch.float64
    assert torch.equal(behind(levels), whole)
