"""z in turns: each position once, told only what was decoded before it, in integers that are what was trained."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import BitstreamError
from pipeline.nn import context, integer
from pipeline.nn.context import IntegerContext, Seen, turns
from pipeline.nn.freeze import LOG2_SIGMA_UNITS, freeze_context
from pipeline.nn.hyper import HyperContext

HYPER, WIDTH = 6, 12
SIZES = [(1, 1), (1, 9), (7, 1), (8, 8), (9, 17), (23, 12), (131, 140)]


def trained(seed: int = 0, strength: float = 0.15) -> HyperContext:
    """Networks whose answers differ from place to place."""
    torch.manual_seed(seed)
    model = HyperContext(HYPER, WIDTH)
    for network in model.networks:
        torch.nn.init.normal_(network["out"].weight, std=strength)
        torch.nn.init.normal_(network["out"].bias, std=strength)
    return model.requires_grad_(False)


def arrays_of(model: HyperContext) -> dict[str, np.ndarray]:
    compression = np.round(np.arcsinh(np.arange(256)) * 2**integer.ACTIVATION_BITS).astype(np.int32)
    return freeze_context(model) | {"h_s.compression": compression}


def frozen(model: HyperContext) -> IntegerContext:
    found = context.load(arrays_of(model), HYPER)
    assert found is not None
    return found


def drawn(height: int, width: int, seed: int = 0, spread: float = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, spread, (HYPER, height, width)).round().astype(np.int16)


@pytest.mark.parametrize("size", SIZES)
def test_every_position_has_one_turn_and_sees_only_what_came_before(size):
    order = np.full(size, -1)
    for number, turn in enumerate(turns(*size)):
        assert 0 < len(turn.rows) <= context.POSITIONS
        assert (order[turn.rows, turn.columns] == -1).all()
        if turn.network is not None:
            for down, right in context.NEIGHBOURS[turn.network]:
                rows, columns = turn.rows + (down << turn.level), turn.columns + (right << turn.level)
                inside = (rows >= 0) & (rows < size[0]) & (columns >= 0) & (columns < size[1])
                assert (order[rows[inside], columns[inside]] >= 0).all()
        order[turn.rows, turn.columns] = number
    assert (order >= 0).all()


@pytest.mark.parametrize("size", SIZES)
def test_integers_say_what_was_trained(size):
    model, z, centi = trained(), drawn(*size), 6250
    exact = frozen(model)
    offset, mean = (x[0].numpy() for x in model(torch.from_numpy(z).float()[None], torch.tensor([centi / 10_000])))
    base, seen, checked = np.full(HYPER, 300.0), Seen(exact, z.shape), 0
    for turn in turns(*size):
        found = exact.expect(seen, turn, base, centi)
        log2_sigma = base[:, None] / LOG2_SIGMA_UNITS + offset[:, turn.rows, turn.columns]
        table = np.round((log2_sigma - integer.LOG2_SIGMA_MIN) * 4)
        assert np.abs(found.table // context.TABLES_A_SCALE - table).max(initial=0) <= 1
        eighths = found.whole * 8 + found.sign * (found.table % context.TABLES_A_SCALE)
        expected = mean[:, turn.rows, turn.columns] * 2.0**log2_sigma
        assert np.abs(eighths / 8 - expected).max(initial=0) < 0.07 + 0.02 * np.abs(expected).max(initial=0)
        seen.show(turn, z[:, turn.rows, turn.columns])
        checked += len(turn.rows)
    assert checked == size[0] * size[1]
    assert size == (1, 1) or np.ptp(offset) > 0.1  # and that is something


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**31), st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_what_is_expected_fits_tables_and_integers(height, width, seed, centi):
    """Whatever networks say: a file may hold any, and z may be anything."""
    exact, z = frozen(trained(seed % 7, 9.0)), drawn(height, width, seed, 3000)
    base, seen = np.linspace(-4000, 4000, HYPER), Seen(exact, z.shape)
    for turn in turns(height, width):
        table, whole, sign = exact.expect(seen, turn, base, centi)
        assert table.max(initial=0) < context.TABLE_COUNT
        assert np.abs(whole).max(initial=0) <= context.MEAN_LIMIT
        assert set(np.unique(sign)) <= {-1, 1}
        seen.show(turn, z[:, turn.rows, turn.columns])


def test_a_file_that_does_not_fit_is_refused():
    whole = arrays_of(trained())
    assert context.load({"h_s.compression": whole["h_s.compression"]}, HYPER) is None
    for name in whole.keys() - {"h_s.compression"}:
        for change in (None, whole[name].astype(np.float32), whole[name][..., :-1]):
            arrays = {k: v for k, v in whole.items() if k != name} | ({} if change is None else {name: change})
            with pytest.raises(BitstreamError, match=r"^weights: z_context"):
                context.load(arrays, HYPER)
    with pytest.raises(BitstreamError, match="has layers of"):
        context.load(whole, HYPER + 1)
    with pytest.raises(BitstreamError, match=r"sigmas are not 5633 integers up to 2\^16"):
        context.load(whole | {"z_context.sigmas": whole["z_context.sigmas"] * -1}, HYPER)
