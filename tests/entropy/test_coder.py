import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.entropy.coder import SymbolDecoder, SymbolEncoder, Words
from pipeline.entropy.tables import freeze, logistic_pmf
from pipeline.errors import BitstreamError

TABLES = freeze([logistic_pmf(2.0 ** (i / 2 - 3), 4 + 2 * i) for i in range(12)])


def read_all(words: bytes, escapes: bytes, indexes: np.ndarray, skip_below: int = 0) -> np.ndarray:
    decoder = SymbolDecoder(TABLES, escapes)
    symbols = decoder.decode(Words(words), indexes, skip_below)
    decoder.finish()
    return symbols


def round_trip(symbols: np.ndarray, indexes: np.ndarray, skip_below: int = 0) -> np.ndarray:
    encoder = SymbolEncoder(TABLES)
    words = encoder.encode(symbols, indexes, skip_below)
    return read_all(words, encoder.escapes(), indexes, skip_below)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-32767, 32767), st.integers(0, 11)), max_size=200),
    st.integers(0, 11),
)
def test_any_symbols_under_any_tables_come_back(pairs, skip_below):
    symbols = np.array([s for s, _ in pairs], dtype=np.int16)
    indexes = np.array([i for _, i in pairs], dtype=np.uint8)
    expected = np.where(indexes < skip_below, 0, symbols)
    assert np.array_equal(round_trip(symbols, indexes, skip_below), expected)


def test_size_is_close_to_the_entropy():
    rng = np.random.default_rng(0)
    indexes = rng.integers(0, 12, 100_000).astype(np.uint8)
    symbols = np.round(rng.normal(size=100_000) * 2.0 ** (indexes / 2 - 3)).astype(np.int16)
    ideal_bits = sum(
        TABLES.bits(i)[np.minimum(symbols[indexes == i] + TABLES.reaches[i], 2 * TABLES.reaches[i] + 1)].sum()
        for i in range(12)
    )
    assert len(SymbolEncoder(TABLES).encode(symbols, indexes)) * 8 < ideal_bits * 1.001 + 64


def test_escaped_values_at_the_limits_come_back():
    symbols = np.array([-32767, 32767, 5, -5, 0], dtype=np.int16)
    assert np.array_equal(round_trip(symbols, np.zeros(5, dtype=np.uint8)), symbols)


@pytest.mark.parametrize("damage", ["cut", "extra_words", "no_escapes", "extra_escapes", "odd_length"])
def test_what_no_encoder_wrote_is_refused(damage):
    indexes = np.full(300, 5, dtype=np.uint8)
    symbols = np.arange(300, dtype=np.int16)
    encoder = SymbolEncoder(TABLES)
    words, escapes = encoder.encode(symbols, indexes), encoder.escapes()
    words = {"cut": words[:-8], "extra_words": b"\1\2\3\4" + words, "odd_length": words[:-1]}.get(damage, words)
    escapes = {"no_escapes": b"", "extra_escapes": escapes + b"\x7f"}.get(damage, escapes)
    with pytest.raises(BitstreamError):
        read_all(words, escapes, indexes)


@pytest.mark.parametrize("escapes", [b"\x80", b"\xff\xff\xff\xff\x01"])
def test_malformed_escapes_are_refused(escapes):
    with pytest.raises(BitstreamError, match="escaped value"):
        SymbolDecoder(TABLES, escapes)
