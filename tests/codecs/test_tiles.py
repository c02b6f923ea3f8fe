"""Which arithmetic a CPU is given."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from pipeline.codecs.learned import tiles

HAS_BF16 = bool(getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)())
AMX, AMD, INTEL, NONE = (
    {"amx_bf16": True, "avx512_bf16": True},
    {"amx_bf16": False, "avx512_bf16": True, "sse4a": True},
    {"amx_bf16": False, "avx512_bf16": True, "sse4a": False},
    {"avx512_f": True, "sse4a": True},
)


@pytest.fixture(autouse=True)
def asked_again() -> Iterator[None]:
    tiles.has_fast_bf16.cache_clear()
    yield
    tiles.has_fast_bf16.cache_clear()


@pytest.mark.skipif(not HAS_BF16, reason="this CPU has no instruction for bf16, which settles it")
@pytest.mark.parametrize(("has", "fast"), [(AMX, True), (AMD, True), (INTEL, False), (NONE, False)])
def test_bf16_is_fast_on_amx_and_amd(has, fast, monkeypatch):
    """By what a CPU is: a clock would tell processes of a busy machine different things, and they different bytes."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    assert tiles.has_fast_bf16() is fast


def test_it_is_not_where_onednn_has_been_told_of_a_smaller_cpu(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: AMD)

    def refuses(*_: object) -> None:
        raise RuntimeError("mkldnn bf16 path needs AVX512BW, AVX512VL and AVX512DQ")

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", refuses)
    assert not tiles.has_fast_bf16()


def test_it_is_not_where_there_is_no_avx512(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert not tiles.has_fast_bf16()
    assert tiles.multiplies_rows() == torch.backends.mkldnn.is_available()
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    assert not tiles.multiplies_rows()
