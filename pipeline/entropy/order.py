"""In which order symbols are coded, and under which of their tables: the same for encoder and decoder, in integers.

Plainly, all symbols that share a table are coded in one call. Trellis-coded, each scale index has two tables, one for
each of two quantisers that are half a step apart, and which one a symbol came from is not sent but follows from the
symbols before it: those with one scale index are dealt out to lanes, and each lane keeps the state of a convolutional
code of parities. An encoder that chooses whole sequences has finer steps to choose from than it pays for.

Marcellin & Fischer, "Trellis Coded Quantization", IEEE Trans. Communications 1990; tables chosen by state as in VVC:
Schwarz et al., "Hybrid Video Coding with Trellis-Coded Quantization", DCC 2019. Codes are those for amplitudes of
Ungerboeck, "Channel Coding with Multilevel/Phase Signals", IEEE Trans. Information Theory 1982, table I.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

LANES = 4096
SYMBOLS_A_LANE = 64
"""Longer lanes gain 0.1 % and fewer of them go slower: calls are as many as a lane is long."""
Calls = Iterator[tuple[int, np.ndarray]]
"""(table, positions) of the symbols of one call of the coder."""


class Code(NamedTuple):
    """A trellis: bit 0 of a state says which quantiser a symbol is of, and with its parity which state comes next.

    after_odd, after_second  what is added, modulo 2, to a state moved down by one bit, where the symbol is odd and
        where it is of the second quantiser: the parity-check polynomials h1 and h0 without their last bits.
    """

    after_odd: int
    after_second: int

    def table(self) -> np.ndarray:
        """Both together, (4,) uint8, at twice the quantiser and the parity."""
        return np.array([0, self.after_odd, self.after_second, self.after_odd ^ self.after_second], np.uint8)


CODES = {16: Code(0o4 >> 1, 0o31 >> 1), 128: Code(0o126 >> 1, 0o235 >> 1)}
"""By the number of their states; that of 16 is read backwards."""


def groups(indexes: np.ndarray, skip_below: int) -> Calls:
    """(table, positions) for every table in use, in rising order; positions rise within each."""
    coded = np.flatnonzero(indexes >= skip_below)
    tables = indexes[coded]
    # NumPy sorts uint8 by radix, 6 ns an element; int32 would take 40 to 80.
    order = coded[np.argsort(tables, kind="stable")]
    counts = np.bincount(tables, minlength=256)
    ends = np.cumsum(counts)
    for table in np.flatnonzero(counts):
        yield int(table), order[ends[table] - counts[table] : ends[table]]


def steps(indexes: np.ndarray, skip_below: int) -> list[tuple[int, np.ndarray]]:
    """(scale index, positions) of what is coded side by side, one symbol a lane: groups in pieces of `lanes_of`."""
    found = list(groups(indexes, skip_below))
    lanes = lanes_of(sum([len(positions) for _, positions in found]))
    return [(index, at[first : first + lanes]) for index, at in found for first in range(0, len(at), lanes)]


def lanes_of(count: int) -> int:
    """How many lanes `count` symbols have: the largest power of two that leaves each 64, from 1 to 4096."""
    return min(LANES, 1 << max(0, (count // SYMBOLS_A_LANE).bit_length() - 1))


def halves(indexes: np.ndarray, skip_below: int, count: int, symbols: np.ndarray, states: int) -> Calls:
    """`groups` of symbols along the trellis of `states`: tables from `count` on are those of the second quantiser.

    `symbols` (n,) is read where positions have been handed out before, so that a decoder may fill it in on the way.
    """
    found, added = steps(indexes, skip_below), CODES[states].table()
    state = np.zeros(max([len(at) for _, at in found], default=0), np.uint8)
    for index, at in found:
        now = state[: len(at)]
        second = now & 1
        chosen = second.view(bool)
        for table, taken in ((index, at[~chosen]), (index + count, at[chosen])):
            if len(taken):
                yield table, taken
        state[: len(at)] = (now >> 1) ^ added[2 * second + (symbols[at] & 1)]


def tables_of(indexes: np.ndarray, skip_below: int, count: int, symbols: np.ndarray, states: int) -> np.ndarray:
    """The table of each trellis-coded symbol, in the shape of `indexes`; the scale index itself where skipped."""
    found = indexes.ravel().copy()
    for table, at in halves(indexes.ravel(), skip_below, count, symbols.ravel(), states):
        found[at] = table
    return found.reshape(indexes.shape)
