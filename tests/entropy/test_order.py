"""The order of trellis-coded symbols, against the rule as FORMAT.md tells it, one symbol at a time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.entropy import order
from pipeline.entropy.coder import SymbolDecoder, SymbolEncoder, Words
from pipeline.entropy.tables import freeze, logistic_pmf
from pipeline.errors import BitstreamError

COUNT = 6
TABLES = freeze([logistic_pmf(2.0 ** (i - 2), 4 + 2 * i, 1.2, half) for half in (0.0, 0.5) for i in range(COUNT)])


def told(symbols: np.ndarray, indexes: np.ndarray, skip_below: int, states: int) -> list[tuple[int, int]]:
    """(position, quantiser) of every coded symbol in the order of its lane and taking.

    The quantiser of a symbol of 16 states is the sum of the parity two before it and the quantisers three and four
    before it; of 128, of the parities one, two, four and six, and the quantisers two, three, four and seven before it.
    """
    parities, seconds = {16: ({2}, {3, 4}), 128: ({1, 2, 4, 6}, {2, 3, 4, 7})}[states]
    coded = sorted((int(index), at) for at, index in enumerate(indexes) if index >= skip_below)
    lanes = 1
    while 2 * lanes <= min(len(coded) / 64, 4096):
        lanes *= 2
    before, found, lane, last = [[] for _ in range(lanes)], [], 0, -1
    for index, at in coded:
        lane = 0 if index != last or lane == lanes else lane
        past = before[lane]
        now = sum(
            parity * (back in parities) + second * (back in seconds) for back, (parity, second) in enumerate(past, 1)
        )
        found.append((at, now % 2))
        past.insert(0, (int(symbols[at]) % 2, now % 2))
        lane, last = lane + 1, index
    return found


def made(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    indexes = random.integers(0, COUNT, count).astype(np.uint8)
    return np.round(random.normal(size=count) * 2.0 ** (indexes - 2.0)).astype(np.int16), indexes


@pytest.mark.parametrize("count", [0, 1, 63, 128, 1000, 30_000])
@pytest.mark.parametrize("skip_below", [0, 2])
@pytest.mark.parametrize("states", order.CODES)
def test_each_symbol_has_the_table_of_the_rule(count, skip_below, states):
    symbols, indexes = made(count)
    symbols[indexes < skip_below] = 0
    found = order.tables_of(indexes, skip_below, COUNT, symbols, states)
    expected = indexes.copy()
    for at, quantiser in told(symbols, indexes, skip_below, states):
        expected[at] += quantiser * COUNT
    assert np.array_equal(found, expected)
    if count > 100:
        assert 0.1 < (found >= COUNT).mean() < 0.9


@pytest.mark.parametrize("states", order.CODES)
def test_calls_take_the_first_quantiser_first_and_lanes_in_order(states):
    """Each position comes up where the rule has it, once those of one taking are sorted by quantiser."""
    symbols, indexes = made(5000)
    by_rule, taking = list[tuple[int, int, int]](), -1
    lane, last = 0, -1
    for at, quantiser in told(symbols, indexes, 0, states):
        if indexes[at] != last or lane == order.lanes_of(5000):
            taking, lane = taking + 1, 0
        by_rule.append((taking, quantiser, at))
        lane, last = lane + 1, int(indexes[at])
    calls = order.halves(indexes, 0, COUNT, symbols, states)
    assert [at for _, positions in calls for at in positions] == [at for _, _, at in sorted(by_rule)]


@pytest.mark.parametrize(
    ("count", "lanes"), [(0, 1), (127, 1), (128, 2), (262_143, 2048), (262_144, 4096), (10**7, 4096)]
)
def test_lanes_leave_each_64_symbols_and_are_no_more_than_4096(count, lanes):
    assert order.lanes_of(count) == lanes


def test_the_calls_of_one_taking_are_in_the_order_of_the_lanes():
    symbols, indexes = made(5000)
    calls = list(order.halves(indexes, 0, COUNT, symbols, 128))
    assert sorted(at for _, positions in calls for at in positions) == list(range(5000))
    assert all((np.diff(positions) > 0).all() for _, positions in calls)
    assert [table % COUNT for table, _ in calls] == sorted(table % COUNT for table, _ in calls)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-32767, 32767), st.integers(0, COUNT - 1)), max_size=300),
    st.integers(0, COUNT - 1),
    st.sampled_from(list(order.CODES)),
)
def test_any_trellis_coded_symbols_come_back_with_their_tables(pairs, skip_below, states):
    symbols = np.array([s for s, _ in pairs], dtype=np.int16)
    indexes = np.array([i for _, i in pairs], dtype=np.uint8)
    encoder = SymbolEncoder(TABLES)
    words = encoder.encode_trellis(symbols, indexes, skip_below, TABLES, states)
    decoder = SymbolDecoder(TABLES, encoder.escapes())
    found, used = decoder.decode_trellis(Words(words), indexes, skip_below, TABLES, states)
    decoder.finish()
    expected = np.where(indexes < skip_below, 0, symbols)
    assert np.array_equal(found, expected)
    assert np.array_equal(used, order.tables_of(indexes, skip_below, COUNT, expected, states))


def test_words_that_are_too_few_or_too_many_are_refused():
    symbols, indexes = made(3000)
    encoder = SymbolEncoder(TABLES)
    words = encoder.encode_trellis(symbols, indexes, 0, TABLES, 128)
    for damaged in (words[:-8], b"\1\2\3\4" + words):
        with pytest.raises(BitstreamError):
            SymbolDecoder(TABLES, encoder.escapes()).decode_trellis(Words(damaged), indexes, 0, TABLES, 128)
