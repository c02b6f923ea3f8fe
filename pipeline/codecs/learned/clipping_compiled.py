"""`clipping`, compiled for the processor it runs on: a part of a row at a time, for its sums to stay in the cache."""

from __future__ import annotations

import numba
import numpy as np

from pipeline.compiling import compiled

AT_ONCE = 512


def _within(one, other, here, limit, both):  # type: ignore[no-untyped-def]
    """What `one` and `other` have more than `here`, each within the limit; `both` takes it."""
    least = -limit
    for x in range(len(here)):
        a, b = one[x] - here[x], other[x] - here[x]
        a = limit if a > limit else a
        b = limit if b > limit else b
        both[x] = (least if a < least else a) + (least if b < least else b)


_inlined = numba.njit(nogil=True, error_model="numpy")(_within)


def _pairs(seen, limits, pairs, out):  # type: ignore[no-untyped-def]
    """Of rows `seen` (n, 5, W), for `pairs` (m, 2), (down, right): `out` (limits, m, n, W - 4)."""
    inner = seen.shape[2] - 4
    for row in range(len(seen)):
        here = seen[row, 2, 2 : 2 + inner]
        for k in range(len(pairs)):
            down, right = pairs[k, 0], pairs[k, 1]
            one = seen[row, 2 + down, 2 + right : 2 + right + inner]
            other = seen[row, 2 - down, 2 - right : 2 - right + inner]
            for number in range(len(limits)):
                _inlined(one, other, here, limits[number], out[number, k, row])


def _add(out, seen, limits, taps, pairs):  # type: ignore[no-untyped-def]
    """`taps` (limits, m, C) of `pairs` (m, 2) of `seen` (H + 4, W + 4) into `out` (H, W, C)."""
    height, width, colours = out.shape
    sums, both = np.empty((colours, AT_ONCE), np.float32), np.empty(AT_ONCE, np.float32)
    for y in range(height):
        for left in range(0, width, AT_ONCE):
            count = min(AT_ONCE, width - left)
            sums[:] = 0
            here = seen[y + 2, left + 2 : left + 2 + count]
            for k in range(len(pairs)):
                down, right, begin = pairs[k, 0], pairs[k, 1], left + 2
                one = seen[y + 2 + down, begin + right : begin + right + count]
                other = seen[y + 2 - down, begin - right : begin - right + count]
                for number in range(len(limits)):
                    _inlined(one, other, here, limits[number], both)
                    for c in range(colours):
                        tap = taps[number, k, c]
                        if tap != 0:
                            for x in range(count):
                                sums[c, x] += tap * both[x]
            for c in range(colours):
                for x in range(count):
                    out[y, left + x, c] += sums[c, x]


pairs = compiled("void(float32[:, :, ::1], float32[::1], int64[:, ::1], float32[:, :, :, ::1])", _pairs)
add = compiled("void(float32[:, :, :], float32[:, ::1], float32[::1], float32[:, :, ::1], int64[:, ::1])", _add)
