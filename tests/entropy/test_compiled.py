"""What is compiled, against what it stands for: `order`, and constriction, which reads where there is no Numba."""

from __future__ import annotations

import sys
from unittest.mock import patch

import constriction
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.entropy import coder, compiled, order
from pipeline.entropy.coder import SymbolDecoder, SymbolEncoder, Words
from pipeline.entropy.tables import FrequencyTables, freeze, logistic_pmf
from pipeline.errors import BitstreamError, ConfigError

COUNT = 6
TABLES = freeze([logistic_pmf(2.0 ** (i % COUNT - 3), 3 + 2 * i) for i in range(2 * COUNT)])


def plainly(symbols: np.ndarray, calls: order.Calls, tables: FrequencyTables) -> tuple[bytes, list[int]]:
    """Words and escapes by constriction, call by call."""
    prepared, escaped = [], []
    for table, positions in calls:
        reach, values = int(tables.reaches[table]), symbols[positions].astype(np.int32)
        escaped += [int(value) for value in values if abs(value) > reach]
        prepared.append((table, np.where(np.abs(values) > reach, reach + 1, values) + reach))
    ans = constriction.stream.stack.AnsCoder()
    for table, values in reversed(prepared):
        ans.encode_reverse(values.astype(np.int32), tables.models[table])
    return ans.get_compressed().astype("<u4").tobytes(), escaped


def drawn(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    indexes = random.integers(0, COUNT, count).astype(np.uint8)
    return np.round(random.laplace(size=count) * 2.0 ** (indexes - 2.5)).astype(np.int16), indexes


@pytest.mark.parametrize("skip_below", [0, 2, COUNT])
@pytest.mark.parametrize("count", [0, 1, 63, 128, 5_000, 600_000])
def test_steps_are_those_of_decoders(count, skip_below):
    _, indexes = drawn(count, count)
    at, ends, scales = compiled.steps(indexes, skip_below)
    expected = order.steps(indexes, skip_below)
    assert scales.tolist() == [scale for scale, _ in expected]
    assert len(ends) == len(expected)
    for found, (_, positions) in zip(np.split(at, ends[:-1]) if len(ends) else [], expected, strict=True):
        assert np.array_equal(found, positions)


@pytest.mark.parametrize("states", order.CODES)
@pytest.mark.parametrize("count", [0, 1, 2, 77, 5_000, 300_000])
def test_words_are_those_of_the_coder_that_decoders_have(count, states):
    """To the last bit, with values that no table reaches among them."""
    symbols, indexes = drawn(count, count + states)
    symbols[:: max(1, count // 7)] = np.resize([-32767, 32767, -40, 900], len(symbols[:: max(1, count // 7)]))
    encoder = SymbolEncoder(TABLES)
    words = encoder.encode_trellis(symbols, indexes, 1, TABLES, states)
    expected, escaped = plainly(symbols, order.halves(indexes, 1, COUNT, symbols, states), TABLES)
    assert words == expected
    beyond = SymbolEncoder(TABLES)
    beyond._escaped = escaped
    assert encoder.escapes() == beyond.escapes()


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(-32767, 32767), st.integers(0, COUNT - 1)), max_size=200), st.integers(0, COUNT))
def test_any_symbols_have_the_words_of_that_coder(pairs, skip_below):
    symbols = np.array([value for value, _ in pairs], np.int16)
    indexes = np.array([table for _, table in pairs], np.uint8)
    words = SymbolEncoder(TABLES).encode_trellis(symbols, indexes, skip_below, TABLES, 128)
    assert words == plainly(symbols, order.halves(indexes, skip_below, COUNT, symbols, 128), TABLES)[0]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-32767, 32767), st.integers(0, COUNT - 1)), max_size=200), st.integers(0, COUNT))
def test_without_a_trellis_as_well(pairs, skip_below):
    symbols = np.array([value for value, _ in pairs], np.int16)
    indexes = np.array([table for _, table in pairs], np.uint8)
    encoder = SymbolEncoder(TABLES)
    words, escaped = plainly(symbols, order.groups(indexes, skip_below), TABLES)
    assert encoder.encode(symbols, indexes, skip_below) == words
    assert encoder._escaped == escaped


@pytest.mark.parametrize("reach", [0, 1, 32766])
def test_tables_of_any_reach_and_rare_entries_are_read(reach):
    """All but the first entry have a frequency of 1, and those of the widest fill some 256ths of the range alone."""
    rare = np.ones(2 * reach + 2, np.int64)
    rare[0] += (1 << 24) - len(rare)
    tables = FrequencyTables(np.concatenate([rare, rare[::-1]]), np.array([reach, reach], np.int32))
    symbols = np.resize([-reach, reach, 0, 32767, -reach, -32767, reach], 3_000).astype(np.int16)
    indexes = np.ones(3_000, np.uint8)
    encoder = SymbolEncoder(tables)
    words = encoder.encode(symbols, indexes, 1)
    left, right = read_both_ways(words, encoder.escapes(), indexes, 0, tables)
    assert left == right == [symbols.tolist()]


@pytest.fixture
def anew():
    """What was compiled is looked for, and looked at, again; and after the test once more."""
    cached = coder.compiled, coder._compiled_if_any
    for each in cached:
        each.cache_clear()
    yield
    for each in cached:
        each.cache_clear()


def test_without_numba_decoders_read_as_they_do_with_it(monkeypatch, anew):
    symbols, indexes = drawn(3_000, 4)
    encoder = SymbolEncoder(TABLES)
    words = encoder.encode_trellis(symbols, indexes, 0, TABLES, 128)
    coder.compiled.cache_clear()
    with monkeypatch.context() as without:
        without.delitem(sys.modules, "pipeline.entropy.compiled", raising=False)
        without.delattr("pipeline.entropy.compiled", raising=False)
        without.setitem(sys.modules, "numba", None)
        assert coder._compiled_if_any() is None
        read, _ = SymbolDecoder(TABLES, encoder.escapes()).decode_trellis(Words(words), indexes, 0, TABLES, 128)
    assert np.array_equal(read, symbols)


def test_what_cannot_be_written_to_is_coded_all_the_same():
    """As arrays are that come from another process."""
    symbols, indexes = drawn(3_000, 3)
    expected = SymbolEncoder(TABLES).encode_trellis(symbols, indexes, 1, TABLES, 128)
    plain = SymbolEncoder(TABLES).encode(symbols, indexes)
    symbols.flags.writeable = indexes.flags.writeable = False
    assert SymbolEncoder(TABLES).encode_trellis(symbols, indexes, 1, TABLES, 128) == expected
    assert SymbolEncoder(TABLES).encode(symbols, indexes) == plain


@pytest.mark.parametrize("part", ["steps", "sequence", "words", "read"])
def test_what_a_compiler_got_wrong_is_not_used(part, monkeypatch, anew):
    """Encoders say so, decoders go on without; each part in turn does not what NumPy and constriction do."""
    real = getattr(compiled, part)

    def wrong(*args):
        found = real(*args)
        if part == "read":
            args[-2][7] += 1
        elif part == "steps":
            found = (found[0][::-1].copy(), *found[1:])
        else:
            found[0][7] ^= 1
        return found

    assert compiled.agrees()
    symbols, indexes = drawn(3_000, 5)
    encoder = SymbolEncoder(TABLES)
    right = encoder.encode(symbols, indexes)
    coder.compiled.cache_clear()
    with monkeypatch.context() as patched:
        patched.setattr(compiled, part, wrong)
        with pytest.raises(ConfigError, match="writes other words than constriction"):
            SymbolEncoder(TABLES).encode(symbols, indexes)
        read = SymbolDecoder(TABLES, encoder.escapes()).decode(Words(right), indexes)
    assert read.tolist() == symbols.tolist()


def read_both_ways(words: bytes, escapes: bytes, indexes: np.ndarray, states: int, tables=TABLES) -> list:
    """What the compiled reader and constriction make of a stream: arrays, or the kind of their error."""
    found = []
    for reader in (compiled, None):
        with patch.object(coder, "_compiled_if_any", lambda reader=reader: reader):
            decoder = SymbolDecoder(tables, escapes)
            try:
                if states:
                    read = decoder.decode_trellis(Words(words), indexes, 1, tables, states)
                else:
                    read = (decoder.decode(Words(words), indexes, 1),)
                decoder.finish()
                found.append([array.tolist() for array in read])
            except BitstreamError as error:
                found.append(str(error))
    return found


@pytest.mark.parametrize("states", [0, *order.CODES])
@pytest.mark.parametrize("count", [0, 1, 2, 77, 5_000, 300_000])
def test_both_readers_read_the_same(count, states):
    symbols, indexes = drawn(count, count + states + 1)
    symbols[:: max(1, count // 7)] = np.resize([-32767, 32767, -40, 900], len(symbols[:: max(1, count // 7)]))
    symbols[indexes < 1] = 0
    encoder = SymbolEncoder(TABLES)
    given = (
        encoder.encode_trellis(symbols, indexes, 1, TABLES, states) if states else encoder.encode(symbols, indexes, 1)
    )
    left, right = read_both_ways(given, encoder.escapes(), indexes, states)
    assert left == right
    assert left[0] == symbols.tolist()


@settings(max_examples=300, deadline=None)
@given(
    st.integers(0, 2**32), st.integers(0, 40), st.integers(0, 120), st.binary(max_size=6), st.sampled_from([0, 16, 128])
)
def test_of_what_no_encoder_wrote_both_say_the_same(seed, count, symbols, escapes, states):
    """Words at random, mostly: refused, in the same words, and never read past their end."""
    random = np.random.default_rng(seed)
    _, indexes = drawn(symbols, seed)
    words = random.integers(0, 2**32, count, dtype=np.uint32)
    words[random.random(count) < 0.1] = 0
    try:
        SymbolDecoder(TABLES, escapes)
    except BitstreamError:
        escapes = b""
    left, right = read_both_ways(words.astype("<u4").tobytes(), escapes, indexes, states)
    assert left == right


@pytest.mark.parametrize("damage", ["cut", "longer", "no escapes", "more escapes", "an escape within reach", "zero"])
def test_damaged_streams_are_refused_by_both(damage):
    symbols, indexes = drawn(4_000, 8)
    symbols[100], symbols[2000] = 5_000, -5_000
    encoder = SymbolEncoder(TABLES)
    words, escapes = encoder.encode_trellis(symbols, indexes, 0, TABLES, 128), encoder.escapes()
    words = {"cut": words[:-4], "longer": words + b"\1\0\0\0", "zero": words + bytes(4)}.get(damage, words)
    escapes = {"no escapes": b"", "more escapes": escapes + b"\x88\x27", "an escape within reach": b"\2\2"}.get(
        damage, escapes
    )
    left, right = read_both_ways(words, escapes, indexes, 128)
    assert isinstance(left, str)
    assert left == right


def test_the_rarest_and_the_surest_entry_are_coded():
    """Frequencies of 1 and of all but three of 2^24: the divisions at their ends."""
    sure = np.array([1, (1 << 24) - 3, 1, 1], np.int64)
    tables = FrequencyTables(np.concatenate([sure, sure]), np.array([1, 1], np.int32))
    symbols = np.resize([0, 0, 0, 1, -1, 0, 5], 3_000).astype(np.int16)
    indexes = np.zeros(3_000, np.uint8)
    words = SymbolEncoder(tables).encode_trellis(symbols, indexes, 0, tables, 128)
    assert words == plainly(symbols, order.halves(indexes, 0, 1, symbols, 128), tables)[0]


def test_without_a_place_to_keep_what_is_compiled_it_is_compiled_each_time():
    """Numba keeps nothing for code that is in no file, as it keeps nothing where no folder can be written to."""
    scope: dict = {}
    exec("def twice(x):\n    return 2 * x", scope)
    assert compiled.compiled("int64(int64)", scope["twice"])(21) == 42


def test_without_numba_no_trellis_is_coded_and_the_run_says_so(monkeypatch, anew):
    monkeypatch.delitem(sys.modules, "pipeline.entropy.compiled", raising=False)
    monkeypatch.delattr("pipeline.entropy.compiled", raising=False)
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(
        ConfigError, match=r"numba: .*; encoders of learned codecs need it, install what shardpress depends on"
    ):
        SymbolEncoder(TABLES).encode_trellis(np.zeros(5, np.int16), np.zeros(5, np.uint8), 0, TABLES, 128)
    with pytest.raises(ConfigError, match="numba"):
        SymbolEncoder(TABLES).encode(np.zeros(5, np.int16), np.zeros(5, np.uint8))
