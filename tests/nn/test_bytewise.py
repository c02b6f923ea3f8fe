"""What lies between products of bytes, compiled, and what happens where that is missing or wrong."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from pipeline import compiling
from pipeline.nn import bytes_compiled, bytewise, exact, parted
from pipeline.nn.codes import gate
from pipeline.nn.exact import ExactSynthesis

CPU = torch.device("cpu")
WRITTEN = {
    "entered": (0, 1), "coded": (1,), "added": (0, 2), "added_and_entered": (0, 2), "spread": (0,), "passed": (1,),
    "spread_taped": (0,), "passed_taped": (1,), "latents": (1, 2, 3), "laid_out": (1,), "joined": (3,), "rounded": (1,),
}  # fmt: skip
"""Which of what is given to each kernel it writes."""


@pytest.fixture
def looked_at_again(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    bytewise.bytewise.cache_clear()
    yield
    monkeypatch.undo()
    bytewise.bytewise.cache_clear()


@pytest.mark.parametrize(("name", "place"), [(name, place) for name, places in WRITTEN.items() for place in places])
def test_what_is_wrong_is_found(name, place, looked_at_again, monkeypatch, caplog):
    right = getattr(bytes_compiled, name)

    def off_by_a_little(*arrays: np.ndarray) -> None:
        right(*arrays)
        last = arrays[place].reshape(-1)[-1:]
        last += np.ones(1, last.dtype)

    monkeypatch.setattr(bytes_compiled, name, off_by_a_little)
    assert bytewise.bytewise() is None
    assert "whose results for this processor are wrong" in caplog.text


def test_what_is_right_is_not(looked_at_again):
    assert bytewise.bytewise() is bytes_compiled


@pytest.mark.parametrize("wrong", [-33, 7, 11, 90])
@pytest.mark.parametrize("by", [-1, 1])
def test_one_wrong_gate_is_found(wrong, by, looked_at_again, monkeypatch):
    right = bytes_compiled.spread

    def off(v: np.ndarray, factor: np.ndarray, limit: np.float32) -> None:
        more = np.where(np.rint(v) == wrong, by * v * factor, 0)
        right(v, factor, limit)
        v += np.rint(more)

    monkeypatch.setattr(bytes_compiled, "spread", off)
    assert bytewise.bytewise() is None


@pytest.mark.parametrize("fault", ["missing", "broken"])
def test_without_numba_torch_does_it(fault, looked_at_again, monkeypatch, caplog):
    def broken(*_: object) -> None:
        raise RuntimeError("LLVM says no")

    name = "pipeline.nn.bytes_compiled"
    if fault == "missing":
        monkeypatch.setitem(sys.modules, name, None)
    else:
        monkeypatch.delitem(sys.modules, name)
        monkeypatch.setattr(compiling, "compiled", broken)
    monkeypatch.delattr(name, raising=False)
    assert bytewise.bytewise() is None
    assert ("decoders go on without Numba" in caplog.text) == (fault == "broken")


def test_a_decoder_makes_the_same_picture_with_it_and_without(model, monkeypatch):
    """With 1, 2 and 3 threads, of positions that do not fill them, with tapes and without."""
    assert exact.bytewise() is bytes_compiled
    y_hat = torch.from_numpy(np.random.default_rng(0).laplace(0, 3, (model[0].latent, 21, 30))).float()
    synthesis, before = ExactSynthesis(*model, CPU), torch.get_num_threads()
    monkeypatch.setattr(parted, "STRIP_ROWS", 600)
    found = list[torch.Tensor]()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        try:
            tapes = list[exact.Tape]()
            found += [synthesis(y_hat.clone(), torch.tensor([4321]), each) for each in (None, tapes)]
            assert len(tapes) == model[0].decoder_blocks
        finally:
            torch.set_num_threads(before)
    monkeypatch.setattr(exact, "bytewise", lambda: None)
    wanted = synthesis(y_hat.clone(), torch.tensor([4321]))
    assert all(torch.equal(each, wanted) for each in found)


@pytest.fixture(scope="module")
def model():
    from pipeline.codecs.learned import weights
    from pipeline.nn.spec import HyperpriorSpec

    found = weights.packaged_model(weights.default_model_id("cnn"))
    return HyperpriorSpec(**found.spec), found.arrays


def test_gates_are_far_from_where_they_would_be_rounded_otherwise():
    """None is nearer than 0.003 of 256, and what is compiled finds each of them."""
    v = np.arange(-200, 201)
    true = 256 / (1 + np.exp(-v / 16))
    assert np.abs(true - np.floor(true) - 0.5).min() > 0.003
    found, seven = v[None].astype(np.float32), (7 / np.maximum(np.abs(v), 0.5)).astype(np.float32)
    bytes_compiled.spread(found, seven, np.float32(2047))
    gates, one = gate(torch.from_numpy(v).float()).numpy(), v.astype(np.float32)
    assert np.array_equal(found[0], np.rint(gates * one * seven))
    assert np.array_equal(np.abs(found[0]), np.where(v == 0, 0, 7 * gates))


@pytest.mark.parametrize("rows", [1, 511, 1024, 1025, 5000])
def test_every_row_is_seen_once_by_whichever_thread(rows):
    x, other = torch.zeros(rows, 3), np.arange(rows)
    sizes, lock, before = Counter[int](), threading.Lock(), torch.get_num_threads()

    def count(part: np.ndarray, numbers: np.ndarray, amount: int) -> None:
        part += amount
        part[:, 2] += numbers
        with lock:
            sizes[len(part)] += 1

    torch.set_num_threads(3)
    try:
        parted.over_rows(count, (x, other), 2)
        assert sum(len(range(rows)[strip]) for strip in parted.strips(rows)) == rows
    finally:
        torch.set_num_threads(before)
    assert torch.equal(x[:, :2], torch.full((rows, 2), 2.0))
    assert torch.equal(x[:, 2], 2.0 + torch.arange(rows))
    assert sizes.total() == min(3, max(1, rows // parted.LEAST_ROWS))


def test_what_fails_in_a_thread_is_raised():
    def refuse(_: np.ndarray) -> None:
        raise ValueError("no")

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(ValueError, match="no"):
            parted.over_rows(refuse, (torch.zeros(4096, 1),))
    finally:
        torch.set_num_threads(before)
