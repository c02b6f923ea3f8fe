"""The search in operators of torch finds what the compiled one finds, for pictures side by side as for each alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.codecs.learned.hyperprior import packaged
from pipeline.codecs.learned.trellis import TrellisQuantiser
from pipeline.codecs.learned.viterbi_torch import Search
from pipeline.entropy import order
from pipeline.nn.integer import INDEX_COUNT, sigma_of_index

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model():
    return packaged("cnn", None)


def drawn(shape: tuple[int, ...], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale indexes, two thirds of which are coded, and residuals as spread as these say."""
    random = np.random.default_rng(seed)
    index = random.choice(np.r_[np.zeros(30, int), np.arange(INDEX_COUNT)], shape).astype(np.uint8)
    spread = np.array([sigma_of_index(k) for k in range(INDEX_COUNT)])[index]
    return torch.from_numpy(index), torch.from_numpy((random.laplace(size=shape) * spread).astype(np.float32))


def searched(quantiser: TrellisQuantiser, index, residual, prices, coded=None):
    found: Search = quantiser.search
    layout = found.layout(index, index >= quantiser.skip_below if coded is None else coded)
    return found.cheapest(layout, residual, prices)


@pytest.mark.parametrize("states", order.CODES)
@pytest.mark.parametrize("shape", [(1, 4, 5, 7), (3, 5, 8, 9), (2, 8, 60, 70)])
def test_symbols_and_values_are_those_of_the_compiled_search(model, shape, states):
    """Few symbols on one lane, and thousands on many; the second with lanes and steps of unlike number side by side."""
    quantiser = TrellisQuantiser(model, model.trellis, CPU, states)
    index, residual = drawn(shape, sum(shape) + states)
    index[0, : shape[1] // 2] = 0
    residual[-1, 0, 0, 0], residual[-1, -1, 0, 0] = 32767, 0
    prices = torch.rand(shape[1], 1, 1) * 8 + 1
    symbols, values = searched(quantiser, index, residual, prices)
    for k in range(shape[0]):
        expected, stands_for = quantiser.cheapest(residual[k], index[k], prices)
        assert torch.equal(symbols[k], expected)
        torch.testing.assert_close(values[k], stands_for)


def test_prices_of_each_symbol(model):
    quantiser = TrellisQuantiser(model, model.trellis, CPU)
    index, residual = drawn((1, 4, 30, 30), 5)
    prices = torch.rand(4, 30, 30) * 8 + 1
    symbols, _ = searched(quantiser, index, residual, prices)
    assert torch.equal(symbols[0], quantiser.cheapest(residual[0], index[0], prices)[0])


def test_what_is_beyond_a_picture_takes_no_part(model):
    """Pictures of unlike sizes, padded to one: each finds what it would alone."""
    quantiser = TrellisQuantiser(model, model.trellis, CPU)
    index, residual = drawn((2, 6, 20, 24), 7)
    coded = index >= quantiser.skip_below
    coded[1, :, 13:], coded[1, :, :, 17:] = False, False
    prices = torch.rand(6, 1, 1) * 8 + 1
    symbols, values = searched(quantiser, index, residual, prices, coded)
    assert not symbols[1, :, 13:].any()
    assert not values[1, :, :, 17:].any()
    for k, (rows, columns) in enumerate([(20, 24), (13, 17)]):
        own = slice(None), slice(rows), slice(columns)
        expected, _ = quantiser.cheapest(residual[k][own], index[k][own].contiguous(), prices)
        assert torch.equal(symbols[k][own], expected)


def test_nothing_to_code_is_nothing(model):
    quantiser = TrellisQuantiser(model, model.trellis, CPU)
    index, residual = torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.randn(2, 3, 4, 4)
    symbols, values = searched(quantiser, index, residual, torch.ones(3, 1, 1))
    assert not symbols.any()
    assert not values.any()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device; the tests above run the same operators")
def test_a_gpu_finds_the_same(model):
    there = TrellisQuantiser(model, model.trellis, torch.device("cuda"))
    index, residual = drawn((2, 4, 50, 60), 9)
    prices = torch.rand(4, 1, 1) * 8 + 1
    symbols, values = searched(there, index.cuda(), residual.cuda(), prices.cuda())
    for k in range(2):
        expected, stands_for = there.cheapest(residual[k].cuda(), index[k].cuda(), prices.cuda())
        assert (symbols[k].cpu() != expected).float().mean() < 1e-3
        assert (values[k] - stands_for).square().mean() < 1e-3
