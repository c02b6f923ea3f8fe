"""Which arithmetic a CPU is given."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch

from pipeline.codecs.learned import tiles

HAS_BF16 = bool(getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)())


@pytest.fixture(autouse=True)
def measured_again() -> Iterator[None]:
    tiles.has_fast_bf16.cache_clear()
    yield
    tiles.has_fast_bf16.cache_clear()


@pytest.mark.skipif(not HAS_BF16, reason="this CPU has no instruction for bf16, which settles it")
@pytest.mark.parametrize(("fp32", "bf16"), [(2.0, 1.0), (1.0, 2.0)])
def test_bf16_is_fast_where_it_takes_less_time(fp32, bf16, monkeypatch):
    """Whatever a product took now and then: the least of several rounds counts."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    late = itertools.chain([100.0, 0.0], itertools.repeat(0.0))
    times = itertools.accumulate(step for took in itertools.cycle((fp32, bf16)) for step in (0.0, took + next(late)))
    monkeypatch.setattr(tiles, "time", SimpleNamespace(perf_counter=lambda: next(times)))
    assert tiles.has_fast_bf16() == (bf16 < fp32)


def test_it_is_not_where_there_is_no_avx512(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert not tiles.has_fast_bf16()
    assert tiles.multiplies_rows() == torch.backends.mkldnn.is_available()
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    assert not tiles.multiplies_rows()
