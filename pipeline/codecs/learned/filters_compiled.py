"""Filters, compiled for the processor they run on.

Sums are of integers below 2^24 in float32, so that products may be fused into them. What a loop stores is in one array
and what it loads in another, at distances that are constants, or compilers would not vectorise it.
"""

from __future__ import annotations

import numba
import numpy as np

from pipeline.compiling import compiled

AT_ONCE, ROWS = 256, 24
"""So many columns and rows of a picture are in the cache at once, with two more all around."""
_PITCH, _ROW = AT_ONCE + 16, 4 * (AT_ONCE + 16)
"""From a row of one colour to that of the next, red, green, blue and their brightness, and from those to the next."""
_MAGIC, _ZERO, _QUARTER = np.float32(3 << 22), np.float32(0), np.float32(0.25)
_inlined = numba.njit(nogil=True, error_model="numpy")
_fused = numba.njit(nogil=True, error_model="numpy", fastmath={"contract"})


@_inlined
def _within(one, other, here, limit, both):  # type: ignore[no-untyped-def]
    """What `one` and `other` have more than `here`, each within the limit; `both` takes it."""
    least = -limit
    for x in range(len(here)):
        a, b = one[x] - here[x], other[x] - here[x]
        a = limit if a > limit else a
        b = limit if b > limit else b
        both[x] = (least if a < least else a) + (least if b < least else b)


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
                _within(one, other, here, limits[number], out[number, k, row])


@_inlined
def _whole(value, units, most):  # type: ignore[no-untyped-def]
    value = value * units
    value = most if value > most else value
    value = _ZERO if value < _ZERO else value
    return (value + _MAGIC) - _MAGIC


@_inlined
def _read(row, left, count, gray, units, most, seen, at):  # type: ignore[no-untyped-def]
    """Colours of `row` (C W,) from column `left` on, and their brightness, into `seen` from place `at` on."""
    if gray:
        for x in range(count):
            value = _whole(row[left + x], units, most)
            seen[at + x] = value
            seen[at + 3 * _PITCH + x] = value
    else:
        for x in range(count):
            red, green, blue = (
                _whole(row[3 * (left + x)], units, most),
                _whole(row[3 * (left + x) + 1], units, most),
                _whole(row[3 * (left + x) + 2], units, most),
            )
            seen[at + x] = red
            seen[at + _PITCH + x] = green
            seen[at + 2 * _PITCH + x] = blue
            seen[at + 3 * _PITCH + x] = np.floor((red + green + green + blue) * _QUARTER)


@_inlined
def _copied(seen, source, to):  # type: ignore[no-untyped-def]
    for colour in range(4):
        seen[to + colour * _PITCH] = seen[source + colour * _PITCH]


@_fused
def _centred(here, t, sums, count):  # type: ignore[no-untyped-def]
    """`sums` become `t` (from, to) times the colours `here`."""
    t00, t01, t02, t10, t11, t12 = t[0, 0], t[0, 1], t[0, 2], t[1, 0], t[1, 1], t[1, 2]
    t20, t21, t22 = t[2, 0], t[2, 1], t[2, 2]
    for x in range(count):
        red, green, blue = here[x], here[_PITCH + x], here[2 * _PITCH + x]
        sums[x] = t00 * red + t10 * green + t20 * blue
        sums[AT_ONCE + x] = t01 * red + t11 * green + t21 * blue
        sums[2 * AT_ONCE + x] = t02 * red + t12 * green + t22 * blue


@_fused
def _add_linear(one, other, t, sums, count):  # type: ignore[no-untyped-def]
    """Adds `t` (from, to) times the colours of both of a pair."""
    t00, t01, t02, t10, t11, t12 = t[0, 0], t[0, 1], t[0, 2], t[1, 0], t[1, 1], t[1, 2]
    t20, t21, t22 = t[2, 0], t[2, 1], t[2, 2]
    for x in range(count):
        red, green = one[x] + other[x], one[_PITCH + x] + other[_PITCH + x]
        blue = one[2 * _PITCH + x] + other[2 * _PITCH + x]
        sums[x] += t00 * red + t10 * green + t20 * blue
        sums[AT_ONCE + x] += t01 * red + t11 * green + t21 * blue
        sums[2 * AT_ONCE + x] += t02 * red + t12 * green + t22 * blue


@_fused
def _add_clipped(one, other, here, limits, t, sums, count):  # type: ignore[no-untyped-def]
    """Adds `t` (limits, to) times what both of a pair are brighter, within each of two limits."""
    low, high, least, lowest = limits[0], limits[1], -limits[0], -limits[1]
    t00, t01, t02, t10, t11, t12 = t[0, 0], t[0, 1], t[0, 2], t[1, 0], t[1, 1], t[1, 2]
    for x in range(count):
        a, b = one[x] - here[x], other[x] - here[x]
        c, d = low if a > low else a, low if b > low else b
        narrow = (least if c < least else c) + (least if d < least else d)
        e, f = high if a > high else a, high if b > high else b
        wide = (lowest if e < lowest else e) + (lowest if f < lowest else f)
        sums[x] += t00 * narrow + t10 * wide
        sums[AT_ONCE + x] += t01 * narrow + t11 * wide
        sums[2 * AT_ONCE + x] += t02 * narrow + t12 * wide


@_inlined
def _write(sums, unit, gray, left, count, row):  # type: ignore[no-untyped-def]
    if gray:
        for x in range(count):
            row[left + x] = sums[x] * unit
    else:
        for x in range(count):
            row[3 * (left + x)] = sums[x] * unit
            row[3 * (left + x) + 1] = sums[AT_ONCE + x] * unit
            row[3 * (left + x) + 2] = sums[2 * AT_ONCE + x] * unit


def _filtered(out, places, levels, gray, units, most, unit, centre, taps, limits, clipped, pairs):  # type: ignore[no-untyped-def]
    """Rows `places` (n,) of a picture `levels` (H, C W), filtered, to `out` (n, C W); places follow one another.

    Levels are read in `units`, to integers of 0 to `most`, and what is summed up is told in `unit`. Taps are integers:
    `centre` (from, to) and `taps` (pairs, from, to) of colours, `clipped` (pairs, limits, to) of what is within
    `limits`, of which there are two, as there are three colours; those that are not have taps of 0.
    """
    height, width = len(levels), levels.shape[1] if gray else levels.shape[1] // 3
    seen, sums = np.zeros((ROWS + 4) * _ROW, np.float32), np.empty(3 * AT_ONCE, np.float32)
    bounded = limits[0] > _ZERO or limits[1] > _ZERO
    for left in range(0, width, AT_ONCE):
        count = min(AT_ONCE, width - left)
        begin, end = max(0, left - 2), min(width, left + count + 2)
        for first in range(0, len(places), ROWS):
            rows = min(ROWS, len(places) - first)
            for row in range(rows + 4):
                y, at = min(max(places[first] + row - 2, 0), height - 1), row * _ROW
                _read(levels[y], begin, end - begin, gray, units, most, seen, at + begin - left + 2)
                for x in range(2):  # what lies outside is as the edge
                    if left == 0:
                        _copied(seen, at + 2, at + x)
                    if end < left + count + 2 - x:
                        _copied(seen, at + end - left + 1, at + count + 3 - x)
            for row in range(rows):
                at = (row + 2) * _ROW + 2
                here, bright = seen[at:], seen[at + 3 * _PITCH :]
                _centred(here, centre, sums, count)
                for k in range(len(pairs)):
                    away = pairs[k, 0] * _ROW + pairs[k, 1]
                    one, other = seen[at + away :], seen[at - away :]
                    _add_linear(one, other, taps[k], sums, count)
                    if bounded:
                        _add_clipped(one[3 * _PITCH :], other[3 * _PITCH :], bright, limits, clipped[k], sums, count)
                _write(sums, unit, gray, left, count, out[first + row])


_rows, _places, _three = "float32[:, ::1]", "int64[::1]", "float32[:, :, ::1]"
pairs = compiled(f"void({_three}, float32[::1], int64[:, ::1], float32[:, :, :, ::1])", _pairs)
filtered = compiled(
    f"void({_rows}, {_places}, {_rows}, boolean, float32, float32, float32, {_rows}, {_three}, float32[::1], {_three}, "
    "int64[:, ::1])",
    _filtered,
)
