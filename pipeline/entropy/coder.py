"""Integers to bits and back: asymmetric numeral systems over frozen tables, grouped by scale index.

All symbols that share a table are coded one after the other (`order`). What a table does not reach is coded as an
escape, its value in a byte string of its own. The coder is constriction's `AnsCoder` (Bamler, arXiv 2201.01741), which
reads where there is no Numba; `compiled` writes and reads the same words, and other threads run meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache, cached_property
from types import ModuleType

import constriction
import numpy as np

from pipeline.entropy import order
from pipeline.entropy.tables import FrequencyTables
from pipeline.errors import BitstreamError, ConfigError

VALUE_LIMIT = 32767
LEFT_OVER = "symbol stream: words are left over after the last symbol; the payload is damaged"


class MiscompiledError(ConfigError):
    """What Numba compiled does not do what it should."""


@contextmanager
def needing_numba() -> Iterator[None]:
    """For imports of what Numba compiles. Raises ConfigError without Numba."""
    try:
        yield
    except ImportError as error:
        raise ConfigError(
            f"numba: {error}; encoders of learned codecs need it, install what shardpress depends on"
        ) from error


@cache
def compiled() -> ModuleType:
    """The module of that name, once it has been seen to do what constriction does.

    Raises ConfigError without Numba, or where what it compiled is wrong.
    """
    with needing_numba():
        from pipeline.entropy import compiled
    if not compiled.agrees():
        raise MiscompiledError(
            "numba: what it compiled for this processor writes other words than constriction, so nothing is encoded; "
            "delete its cache (NUMBA_CACHE_DIR, or __pycache__ beside the package), or install another version"
        )
    return compiled


@cache
def _compiled_if_any() -> ModuleType | None:
    """Decoders can do without."""
    try:
        return compiled()
    except MiscompiledError as error:
        logging.getLogger(__name__).warning("decoding goes on with constriction: %s", error)
        return None
    except ConfigError:
        return None
    except Exception as error:  # whatever LLVM has to say
        logging.getLogger(__name__).warning("decoding goes on without Numba, which failed: %s", error)
        return None


class Words:
    """One coder's output, little-endian 32-bit words, and how far it has been read: to be read once."""

    def __init__(self, data: bytes) -> None:
        if len(data) % 4:
            raise BitstreamError(f"symbol stream: found {len(data)} bytes; expected a multiple of 4; it is damaged")
        self.array = np.frombuffer(data, dtype="<u4").astype(np.uint32)
        if len(self.array) and not self.array[-1]:
            raise BitstreamError("symbol stream: its last word is 0, which no coder writes; the payload is damaged")
        self.left, self.state = max(0, len(self.array) - 2), 0
        for word in self.array[: -3 if len(self.array) > 2 else None : -1]:
            self.state = self.state << 32 | int(word)

    def require_read(self) -> None:
        """Raises BitstreamError unless all has been read."""
        if self.left or self.state:
            raise BitstreamError(LEFT_OVER)

    @cached_property
    def coder(self) -> constriction.stream.stack.AnsCoder:
        """What reads them without Numba."""
        return constriction.stream.stack.AnsCoder(self.array)


class SymbolEncoder:
    """Encodes arrays of symbols, each into words of its own; values beyond the tables collect in `escapes`."""

    def __init__(self, tables: FrequencyTables) -> None:
        self._tables = tables
        self._escaped: list[int] = []

    def encode(self, symbols: np.ndarray, indexes: np.ndarray, skip_below: int = 0) -> bytes:
        """Words of `symbols` (n,) int16 under tables `indexes` (n,) uint8; those below `skip_below` cost nothing.

        Raises ConfigError without Numba.
        """
        at, _, _ = compiled().steps(indexes, skip_below)
        return self._words(symbols[at], indexes[at], self._tables)

    def encode_trellis(
        self, symbols: np.ndarray, indexes: np.ndarray, skip_below: int, tables: FrequencyTables, states: int
    ) -> bytes:
        """The same along the trellis of `states`, under `tables` of the first quantiser and then of the second."""
        made = compiled()
        steps = made.steps(indexes, skip_below)
        # Arrays from another process cannot be written to, which is another type to Numba.
        own = np.require(symbols, requirements=["C", "W"])
        values, chosen = made.sequence(own, *steps, len(tables) // 2, *order.CODES[states])
        return self._words(values, chosen, tables)

    def _words(self, values: np.ndarray, indexes: np.ndarray, tables: FrequencyTables) -> bytes:
        """Of what is coded one after the other, and under which tables."""
        words, escaped = compiled().words(values, indexes, *tables.end_to_end)
        self._escaped.extend(escaped.tolist())
        return bytes(words.astype("<u4").tobytes())

    def encode_turns(self, turns: Iterable[tuple[np.ndarray, np.ndarray]], tables: FrequencyTables) -> bytes:
        """Words of several turns of `encode`, under `tables`, that `SymbolDecoder.decode_turn` reads one by one."""
        values, chosen = [np.zeros(0, np.int16)], [np.zeros(0, np.uint8)]
        for symbols, indexes in turns:
            at, _, _ = compiled().steps(indexes, 0)
            values.append(symbols[at])
            chosen.append(indexes[at])
        return self._words(np.concatenate(values), np.concatenate(chosen), tables)

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
        self._escapes, self._read_escapes = np.array(_parse_escapes(escapes), np.int64), 0

    def decode(self, words: Words, indexes: np.ndarray, skip_below: int = 0) -> np.ndarray:
        """The symbols (n,) int16 coded under `indexes` (n,) uint8; zeros where skipped."""
        symbols = self.decode_turn(words, indexes, self._tables, skip_below)
        words.require_read()
        return symbols

    def decode_turn(
        self, words: Words, indexes: np.ndarray, tables: FrequencyTables, skip_below: int = 0
    ) -> np.ndarray:
        """The next symbols of `words`, (n,) int16, coded under `indexes` (n,) uint8 of `tables`; more may follow."""
        symbols, used = np.zeros(indexes.shape, dtype=np.int16), indexes.copy()
        if (made := _compiled_if_any()) is not None:
            self._read(made, symbols, used, words, tables, skip_below)
        else:
            self._fill(symbols, used, words, tables, order.groups(indexes, skip_below))
        return symbols

    def decode_trellis(
        self, words: Words, indexes: np.ndarray, skip_below: int, tables: FrequencyTables, states: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Trellis-coded symbols (n,) int16, and the tables (n,) uint8 that they turned out to be coded under."""
        symbols, used = np.zeros(indexes.shape, dtype=np.int16), indexes.copy()
        if (made := _compiled_if_any()) is not None:
            self._read(made, symbols, used, words, tables, skip_below, states)
        else:
            calls = order.halves(indexes, skip_below, len(tables) // 2, symbols, states)
            self._fill(symbols, used, words, tables, calls)
        words.require_read()
        return symbols, used

    def _read(
        self,
        made: ModuleType,
        symbols: np.ndarray,
        used: np.ndarray,
        words: Words,
        tables: FrequencyTables,
        skip_below: int,
        states: int = 0,
    ) -> None:
        """As `_fill` does, compiled."""
        along = (len(tables) // 2, *order.CODES[states]) if states else (0, 0, 0)
        steps, escapes = made.steps(used, skip_below), self._escapes[self._read_escapes :]
        ranges = *tables.end_to_end, tables.shortcuts
        at = words.array, words.left, np.uint64(words.state), escapes
        read, words.left, state = made.read(*at, *steps, *along, VALUE_LIMIT, *ranges, symbols, used)
        if read < 0:
            raise _not_beyond(int(escapes[-1 - read]) if -1 - read < len(escapes) else None)
        words.state = int(state)
        self._read_escapes += read

    def _fill(
        self, symbols: np.ndarray, used: np.ndarray, words: Words, tables: FrequencyTables, calls: order.Calls
    ) -> None:
        for table, positions in calls:
            reach = int(tables.reaches[table])
            values = words.coder.decode(tables.models[table], len(positions)) - reach
            if np.maximum.reduce(values) > reach:
                self._fill_escapes(values, reach)
            symbols[positions], used[positions] = values, table
        if words.coder.is_empty():
            words.left, words.state = 0, 0

    def _fill_escapes(self, values: np.ndarray, reach: int) -> None:
        for k in np.flatnonzero(values > reach):
            value = int(self._escapes[self._read_escapes]) if self._read_escapes < len(self._escapes) else None
            if value is None or not reach < abs(value) <= VALUE_LIMIT:
                raise _not_beyond(value)
            values[k] = value
            self._read_escapes += 1

    def finish(self) -> None:
        """Raises BitstreamError unless every escape has been read."""
        if self._read_escapes < len(self._escapes):
            raise BitstreamError("symbol stream: escaped values are left over; the payload is damaged")


def _not_beyond(value: int | None) -> BitstreamError:
    return BitstreamError(f"symbol stream: escaped value {value} is not beyond what its table reaches; it is damaged")


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
