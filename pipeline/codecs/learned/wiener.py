"""A Wiener filter of its own for each picture: what the encoder can say of the decoder's error in a hundred bytes.

The decoder is trained for all photos. What its error has in common with one photo's colours and textures, the encoder
finds by least squares, and sends as the taps of a 5x5 filter over all colours: 4 to 8 % of the bytes (training/LOG.md).
It is symmetric around its centre and leaves flat colour as it is but for the differences between colours, so that
12 pairs of neighbours for each colour, in colour pictures two differences, and the same pairs in brightness, clipped to
each of two limits, are all it has. This module is what both ends know of it, in integers; `filtering` finds it,
`filters` applies it, `clipping` is the part that is not linear.

Video coders do so in their loop: Tsai et al., "Adaptive Loop Filtering for Video Coding", IEEE J. Sel. Topics in
Signal Processing 2013, is what ALF of VVC comes from; AV1 calls its own loop restoration.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np

from pipeline.entropy.coder import SymbolDecoder, SymbolEncoder, Words
from pipeline.entropy.tables import FrequencyTables
from pipeline.errors import BitstreamError

RADIUS = 2
PAIRS = tuple((dy, dx) for dy in range(RADIUS + 1) for dx in range(-RADIUS, RADIUS + 1) if (dy, dx) > (0, 0))
"""(down, right) of one neighbour of each pair; the other is across the centre."""
INNER = tuple(max(abs(dy), abs(dx)) == 1 for dy, dx in PAIRS)
LEVEL_UNITS, LEVEL_LIMIT = 8, 255 * 8
"""Levels 0 .. 255 go in eighths."""
SHIFT_LIMIT = 10
SUM_LIMIT = 1 << 24
"""Every integer up to here is a float32."""
MOST_LIMITS, LIMIT_UNITS = 2, 2
"""Limits go in quarters of a level, 1 .. 255, which are so many eighths."""
INNER_RING, OUTER_RING, DIFFERENCES = range(3)


@cache
def groups_of(colours: int, limits: int) -> np.ndarray:
    """Which group of taps, each with a table of its own, each column of taps is of; each limit has one."""
    rings = np.repeat(np.where(INNER, INNER_RING, OUTER_RING), colours)
    differences = np.full(2 if colours == 3 else 0, DIFFERENCES)
    first = int(max(rings.max(), differences.max(initial=0))) + 1
    return np.concatenate([rings, differences, np.repeat(np.arange(first, first + limits), len(PAIRS))])


@dataclass(frozen=True, eq=False)
class Wiener:
    """taps (colours, 12 colours + 2 + 12 limits), integers in units of 2^-shift; without the 2 for a gray picture.

    Row c is what is added to colour c. Column colours * k + d is times the sum of pair k of colour d less twice the
    centre; the next two are times what colours c + 1 and c + 2, modulo 3, have more than colour c at the centre. The
    last 12 for each of `limits` are times how much brighter than the centre both of pair k are, each within that limit,
    in quarters of a level (`clipping`).
    """

    shift: int
    taps: np.ndarray
    limits: tuple[int, ...] = ()

    def to_bytes(self, tables: FrequencyTables) -> bytes:
        """Section 6 of a container; `tables` are those of the model."""
        groups, sizes = groups_of(len(self.taps), len(self.limits)), np.abs(self.taps)
        indexes = []
        for group in np.unique(groups):
            indexes.append(_cheapest(tables, sizes[:, groups == group].astype(np.int64)))
        spread = np.broadcast_to(np.array(indexes, np.uint8)[groups], self.taps.shape)
        head = bytes([self.shift | len(self.limits) << 4, *self.limits, *indexes])
        return head + SymbolEncoder(tables).encode(self.taps.ravel(), spread.ravel())

    @classmethod
    def of(cls, section: bytes, tables: FrequencyTables, gray: bool) -> Wiener:
        """Reads what `to_bytes` wrote. Raises BitstreamError for what it cannot have written."""
        colours = 1 if gray else 3
        head = np.frombuffer(section, np.uint8)
        shift, limited = (section[0] & 15, section[0] >> 4) if section else (0, 0)
        groups = groups_of(colours, min(limited, MOST_LIMITS))
        count = groups.max() + 1
        start = 1 + limited + count
        limits, chosen = head[1 : 1 + limited], head[1 + limited : start]
        whole = len(head) >= start and shift <= SHIFT_LIMIT and limited <= MOST_LIMITS
        if not (whole and limits.all() and chosen.max() < len(tables)):
            raise BitstreamError(
                f"payload: a filter that starts with {section[:start].hex(' ') or 'nothing'}; expected a shift of 0 to "
                f"{SHIFT_LIMIT}, up to {MOST_LIMITS} limits, and {count} tables below {len(tables)}; it is damaged"
            )
        spread = np.broadcast_to(chosen[groups], (colours, len(groups)))
        taps = SymbolDecoder(tables, b"").decode(Words(section[start:]), spread.ravel()).reshape(spread.shape)
        found = cls(shift, taps, tuple(limits.tolist()))
        if not found.is_exact:
            raise BitstreamError(f"payload: a filter of taps up to {np.abs(found.taps).max()}; it is damaged")
        return found

    @property
    def is_exact(self) -> bool:
        """Whether every sum of the filter is a float32, in any order."""
        most = 2 * LIMIT_UNITS * np.array(self.limits, np.int64)
        clipped = (np.abs(self.clipped).sum(1) * most[:, None]).sum(0)
        return bool((np.abs(self.kernel).sum((1, 2, 3)) * LEVEL_LIMIT + clipped).max() < SUM_LIMIT)

    @cached_property
    def kernel(self) -> np.ndarray:
        """What is linear as a 5x5 convolution (cross-correlation) of levels: (out, in, 5, 5) int64, 2^shift for one."""
        colours = len(self.taps)
        out = np.zeros((colours, colours, 2 * RADIUS + 1, 2 * RADIUS + 1), np.int64)
        here = out[:, :, RADIUS, RADIUS]
        here += np.eye(colours, dtype=np.int64) << self.shift
        for k, (dy, dx) in enumerate(PAIRS):
            taps = self.taps[:, k * colours : (k + 1) * colours]
            out[:, :, RADIUS + dy, RADIUS + dx] += taps
            out[:, :, RADIUS - dy, RADIUS - dx] += taps
            here -= 2 * taps.astype(np.int64)
        for k in range(2 if colours == 3 else 0):
            for colour in range(colours):
                tap = int(self.taps[colour, len(PAIRS) * colours + k])
                here[colour, (colour + 1 + k) % colours] += tap
                here[colour, colour] -= tap
        return out

    @cached_property
    def clipped(self) -> np.ndarray:
        """What is not: taps (limits, 12, colours) int64, 2^shift for one."""
        size = len(PAIRS) * len(self.limits)
        taps = self.taps[:, self.taps.shape[1] - size :].astype(np.int64)
        return np.moveaxis(taps.reshape(len(self.taps), len(self.limits), len(PAIRS)), 0, -1)


def _cheapest(tables: FrequencyTables, sizes: np.ndarray) -> int:
    """The table, of every fourth, that these magnitudes take the fewest bits under; the last one holds them all."""
    able = [index for index in range(len(tables) - 1, -1, -4) if tables.reaches[index] >= sizes.max()]
    bits = [np.add.reduce(tables.bits(index)[sizes + tables.reaches[index]], axis=None) for index in able]
    return able[int(np.argmin(bits))]
