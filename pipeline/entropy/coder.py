"""Integers to bits and back: asymmetric numeral systems over frozen tables, grouped by scale index.

All symbols that share a table are coded in one call, which costs 5 to 30 ns a symbol (`order`). What a table does not
reach is coded as an escape, its value in a byte string of its own. What decodes is constriction's `AnsCoder` (Bamler,
arXiv 2201.01741); it holds the GIL, so scale it with processes. What encodes is `compiled`, to the same words.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import constriction
import numpy as np

from pipeline.entropy import order
from pipeline.entropy.tables import FrequencyTables
from pipeline.errors import BitstreamError, ConfigError

VALUE_LIMIT = 32767


@contextmanager
def needing_numba() -> Iterator[None]:
    """For imports of what Numba compiles. Raises ConfigError without Numba."""
    try:
        yield
    except ImportError as error:
        raise ConfigError(
            f"numba: {error}; encoders of learned codecs need it, install what shardpress depends on"
        ) from error


def _compiled() -> ModuleType:
    with needing_numba():
        from pipeline.entropy import compiled
    return compiled


class Words:
    """One coder's output: little-endian 32-bit words, checked for length."""

    def __init__(self, data: bytes) -> None:
        if len(data) % 4:
            raise BitstreamError(f"symbol stream: found {len(data)} bytes; expected a multiple of 4; it is damaged")
        self.array = np.frombuffer(data, dtype="<u4").astype(np.uint32)


class SymbolEncoder:
    """Encodes arrays of symbols, each into words of its own; values beyond the tables collect in `escapes`."""

    def __init__(self, tables: FrequencyTables) -> None:
        self._tables = tables
        self._escaped: list[int] = []

    def encode(self, symbols: np.ndarray, indexes: np.ndarray, skip_below: int = 0) -> bytes:
        """Words of `symbols` (n,) int16 under tables `indexes` (n,) uint8; those below `skip_below` cost nothing.

        Raises ConfigError without Numba.
        """
        at, _, _ = _compiled().steps(indexes, skip_below)
        return self._words(symbols[at], indexes[at], self._tables)

    def encode_trellis(
        self, symbols: np.ndarray, indexes: np.ndarray, skip_below: int, tables: FrequencyTables, states: int
    ) -> bytes:
        """The same along the trellis of `states`, under `tables` of the first quantiser and then of the second."""
        compiled = _compiled()
        steps = compiled.steps(indexes, skip_below)
        # Arrays from another process cannot be written to, which is another type to Numba.
        own = np.require(symbols, requirements=["C", "W"])
        values, chosen = compiled.sequence(own, *steps, len(tables) // 2, *order.CODES[states])
        return self._words(values, chosen, tables)

    def _words(self, values: np.ndarray, indexes: np.ndarray, tables: FrequencyTables) -> bytes:
        """Of what is coded one after the other, and under which tables."""
        words, escaped = _compiled().words(values, indexes, *tables.end_to_end)
        self._escaped.extend(escaped.tolist())
        return bytes(words.astype("<u4").tobytes())

    def escapes(self) -> bytes:
        """All escaped values so far, zigzag LEB128."""
        return b"".join(_leb128(v * 2 if v >= 0 else -v * 2 - 1) for v in self._escaped)


class SymbolDecoder:
    """Reads what `SymbolEncoder` wrote, array by array in the same order.

    Raises:
        BitstreamError: words or escapes that no `SymbolEncoder` can have written.
    """

    def __init__(self, tables: FrequencyTables, escapes: bytes) -> None:
        self._tables = tables
        self._escapes = iter(_parse_escapes(escapes))

    def decode(self, words: Words, indexes: np.ndarray, skip_below: int = 0) -> np.ndarray:
        """The symbols (n,) int16 coded under `indexes` (n,) uint8; zeros where skipped."""
        symbols = np.zeros(indexes.shape, dtype=np.int16)
        self._fill(symbols, words, self._tables, order.groups(indexes, skip_below))
        return symbols

    def decode_trellis(
        self, words: Words, indexes: np.ndarray, skip_below: int, tables: FrequencyTables, states: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Trellis-coded symbols (n,) int16, and the tables (n,) uint8 that they turned out to be coded under."""
        symbols, used = np.zeros(indexes.shape, dtype=np.int16), indexes.copy()
        calls = order.halves(indexes, skip_below, len(tables) // 2, symbols, states)
        self._fill(symbols, words, tables, calls, used)
        return symbols, used

    def _fill(
        self,
        symbols: np.ndarray,
        words: Words,
        tables: FrequencyTables,
        calls: order.Calls,
        used: np.ndarray | None = None,
    ) -> None:
        try:
            coder = constriction.stream.stack.AnsCoder(words.array)
        except ValueError as error:
            raise BitstreamError(f"symbol stream: {error}; the payload is damaged") from error
        for table, positions in calls:
            reach = int(tables.reaches[table])
            values = coder.decode(tables.models[table], len(positions)) - reach
            if np.maximum.reduce(values) > reach:
                self._fill_escapes(values, reach)
            symbols[positions] = values
            if used is not None:
                used[positions] = table
        if not coder.is_empty():
            raise BitstreamError("symbol stream: words are left over after the last symbol; the payload is damaged")

    def _fill_escapes(self, values: np.ndarray, reach: int) -> None:
        for k in np.flatnonzero(values > reach):
            value = next(self._escapes, None)
            if value is None or not reach < abs(value) <= VALUE_LIMIT:
                raise BitstreamError(f"symbol stream: escaped value {value} is not beyond {reach}; it is damaged")
            values[k] = value

    def finish(self) -> None:
        """Raises BitstreamError unless every escape has been read."""
        if next(self._escapes, None) is not None:
            raise BitstreamError("symbol stream: escaped values are left over; the payload is damaged")


def _leb128(value: int) -> bytes:
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _parse_escapes(data: bytes) -> list[int]:
    values, value, shift = [], 0, 0
    for byte in data:
        value |= (byte & 127) << shift
        shift += 7
        if shift > 21:
            raise BitstreamError("symbol stream: an escaped value is too large; the payload is damaged")
        if byte < 128:
            values.append(-(value + 1) // 2 if value & 1 else value // 2)
            value, shift = 0, 0
    if shift:
        raise BitstreamError("symbol stream: the last escaped value is cut short; the payload is damaged")
    return values
