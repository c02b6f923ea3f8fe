"""Frozen frequency tables: one symmetric integer distribution per scale index.

A table covers the values -reach .. reach plus an escape; its frequencies are integers that sum to 2^24, the
precision of the coder, so no float is ever consulted when a payload is read. They are built once, when a model
is exported, and stored with its weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import constriction
import numpy as np

from pipeline.errors import BitstreamError

PRECISION_BITS = 24
SHORTCUT_BITS = 8
_REACH_LIMIT = 32766


@dataclass(frozen=True, eq=False)
class FrequencyTables:
    """`frequencies` holds all tables end to end (int64), `reaches` (count,) the largest value of each.

    Table i has 2 * reaches[i] + 2 entries: the values from -reach to reach, then the escape.

    Raises:
        BitstreamError: sizes do not match, a frequency is below 1, or a table does not sum to 2^24.
    """

    frequencies: np.ndarray
    reaches: np.ndarray

    def __post_init__(self) -> None:
        reaches = self.reaches
        if reaches.ndim != 1 or not 1 <= len(reaches) <= 256 or reaches.min() < 0 or reaches.max() > _REACH_LIMIT:
            raise BitstreamError(
                f"frequency tables: found reaches of shape {reaches.shape}; expected 1 to 256 of at most {_REACH_LIMIT}"
            )
        sizes = 2 * reaches.astype(np.int64) + 2
        frequencies = self.frequencies
        if frequencies.shape != (int(sizes.sum()),) or frequencies.min() < 1 or frequencies.max() > 1 << PRECISION_BITS:
            raise BitstreamError(
                f"frequency tables: found {self.frequencies.shape[0]} entries, expected {int(sizes.sum())} from 1 to "
                f"2^{PRECISION_BITS}; the weights file is damaged, fetch it again"
            )
        for index, table in enumerate(self._split):
            if int(table.sum()) != 1 << PRECISION_BITS:
                raise BitstreamError(f"frequency table {index} sums to {int(table.sum())}; expected 2^{PRECISION_BITS}")

    @cached_property
    def _split(self) -> list[np.ndarray]:
        ends = np.cumsum(2 * self.reaches.astype(np.int64) + 2)
        return np.split(self.frequencies.astype(np.int64), ends[:-1])

    @cached_property
    def models(self) -> list[Any]:
        """One constriction model per table.

        constriction gives entry j of n the frequency floor(cumulative share of 2^24 - n) + 1. Handed
        `frequency - 1`, which sums to exactly 2^24 - n, its scale factor is 1.0 and every step is exact.
        """
        return [
            constriction.stream.model.Categorical((table - 1).astype(np.float64), perfect=False)
            for table in self._split
        ]

    @cached_property
    def end_to_end(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Frequencies (entries,) and the sums of those before in their tables, uint64; where each table begins among
        them and what it reaches, (tables,) int64.
        """
        frequencies, reaches = self.frequencies.astype(np.uint64), self.reaches.astype(np.int64)
        first = np.concatenate([[0], np.cumsum(2 * reaches + 2)[:-1]])
        below = np.concatenate([np.cumsum(table) - table for table in self._split]).astype(np.uint64)
        return frequencies, below, first, reaches

    @cached_property
    def shortcuts(self) -> np.ndarray:
        """In which entry of each table each 256th of the range begins, (tables, 256) int32."""
        begins = np.arange(1 << SHORTCUT_BITS) << PRECISION_BITS - SHORTCUT_BITS
        return np.stack([np.searchsorted(np.cumsum(table), begins, side="right") for table in self._split]).astype(
            np.int32
        )

    def bits(self, index: int) -> np.ndarray:
        """Cost in bits of each entry of a table, escape last: (2 * reach + 2,) float64."""
        return self._bits[index]

    @cached_property
    def _bits(self) -> list[np.ndarray]:
        return [PRECISION_BITS - np.log2(table) for table in self._split]

    def __len__(self) -> int:
        return len(self.reaches)


def freeze(pmfs: Sequence[np.ndarray]) -> FrequencyTables:
    """Integer tables from symmetric pmfs over -reach .. reach and the escape; each pmf sums to about 1.

    Frequencies are rounded to at least 1, and the largest entry takes up what rounding left over.
    """
    tables, reaches = [], []
    for pmf in pmfs:
        share = pmf / pmf.sum() * ((1 << PRECISION_BITS) - len(pmf))
        table = np.floor(share).astype(np.int64) + 1
        table[int(np.argmax(table))] += (1 << PRECISION_BITS) - int(table.sum())
        tables.append(table)
        reaches.append((len(pmf) - 2) // 2)
    return FrequencyTables(np.concatenate(tables), np.array(reaches, dtype=np.int32))


def logistic_pmf(sigma: float, reach: int, step: float = 1.0, offset: float = 0.0) -> np.ndarray:
    """Mass of a logistic of standard deviation sigma nearest to each of -reach .. reach, then what is beyond.

    Magnitude k > 0 stands for `step * (k - offset)`.
    """
    scale = sigma * math.sqrt(3) / math.pi
    edges = step * (np.arange(reach + 1) + 0.5 - offset)
    edges[0] = step * (1 - offset) / 2
    beyond = 2 / (1 + np.exp(np.minimum(edges / scale, 700)))
    half = np.concatenate([[1 - beyond[0]], (beyond[:-1] - beyond[1:]) / 2])
    return np.concatenate([half[:0:-1], half, [max(beyond[-1], 1e-7)]])
