"""What lies between products of bytes, compiled: each value is read once and written once.

Arrays have a row for each position, x (n, C) and the like, and those that all rows share come last. Floats stay
float32, one IEEE operation at a time and none contracted, so that results are those of the same operations in torch,
to the last bit; tapes, which only slopes read, are not as exact.
"""

from __future__ import annotations

import numba
import numpy as np

from pipeline.compiling import compiled
from pipeline.nn.ends import ASINH_LIMIT, Y_HIGH, Y_LIMIT

_MAGIC = np.float32(3 << 22)
"""Adding and subtracting it rounds what is less than 2^22, ties to even."""
_BYTE = np.float32((3 << 22) + 128)
"""The same, and what is left at the end is a byte, 128 more than the value."""
_LIMIT = np.float32(127)
_P0, _P1 = np.float32(3.994912624359131), np.float32(0.0003309829335194081)
_Q1, _Q2 = np.float32(0.0004060390929225832), np.float32(6.682923991974121e-09)
_ONE, _HALF, _HALF_GATE = np.float32(1), np.float32(0.5), np.float32(128)
_UNIT, _SHARE = np.float32(1 / 16), np.float32(1 / 256)
_HUNDRED, _ALMOST, _FINER, _FARTHEST = np.float32(100), np.float32(255 / 256), np.float32(16), np.float32(32767)
_ZERO, _BRIGHTEST = np.float32(0), np.float32(255)
_FARTHEST_Y, _FARTHEST_ASINH = np.float32(Y_LIMIT), np.float32(ASINH_LIMIT)
_HIGH, _OF_HIGH = np.float32(Y_HIGH), np.float32(1 / Y_HIGH)
_inlined = numba.njit(nogil=True, error_model="numpy")


@_inlined
def _gate(v):  # type: ignore[no-untyped-def]
    """256 times the sigmoid of round(v) / 16, rounded, as `codes.gate`, for v within 128.

    By a rational function, which compilers vectorise: it errs by up to 0.3, but for none of these 257 values by as much
    as that is off a tie.
    """
    v = (v + _MAGIC) - _MAGIC
    s = v * v
    return ((_HALF_GATE + v * (_P0 + s * _P1) / (_ONE + s * (_Q1 + s * _Q2))) + _MAGIC) - _MAGIC


@_inlined
def _held(value, limit):  # type: ignore[no-untyped-def]
    value = value if value <= limit else limit  # which is also what becomes of NaN
    return -limit if value < -limit else value


@_inlined
def _code(value):  # type: ignore[no-untyped-def]
    return np.uint8(np.float32(value + _BYTE).view(np.int32) & 255)


def _entered(x, codes, rescale):  # type: ignore[no-untyped-def]
    """x, in other units and held within codes, and its `codes`."""
    for row in range(x.shape[0]):
        here, out = x[row], codes[row]
        for c in range(x.shape[1]):
            value = _held(here[c] * rescale[c], _LIMIT)
            here[c], out[c] = value, _code(value)


def _coded(x, codes, bias):  # type: ignore[no-untyped-def]
    """The codes of x + bias."""
    for row in range(x.shape[0]):
        here, out = x[row], codes[row]
        for c in range(x.shape[1]):
            out[c] = _code(_held(here[c] + bias[c], _LIMIT))


def _added(x, more, codes):  # type: ignore[no-untyped-def]
    """x + more, in place, and its codes."""
    for row in range(x.shape[0]):
        here, added, out = x[row], more[row], codes[row]
        for c in range(x.shape[1]):
            value = here[c] + added[c]
            here[c], out[c] = value, _code(_held(value, _LIMIT))


def _added_and_entered(x, more, codes, rescale):  # type: ignore[no-untyped-def]
    """`_entered` of x + more."""
    for row in range(x.shape[0]):
        here, added, out = x[row], more[row], codes[row]
        for c in range(x.shape[1]):
            value = _held((here[c] + added[c]) * rescale[c], _LIMIT)
            here[c], out[c] = value, _code(value)


def _spread(v, factor, limit):  # type: ignore[no-untyped-def]
    """round(gate(v) v factor) within `limit`, in place."""
    for row in range(v.shape[0]):
        here = v[row]
        for c in range(v.shape[1]):
            value = _gate(_held(here[c], _HALF_GATE)) * here[c] * factor[c]
            here[c] = (_held(value, limit) + _MAGIC) - _MAGIC


def _spread_taped(v, tape, factor, limit):  # type: ignore[no-untyped-def]
    """`_spread`, and what it does to slopes: `tape` takes the derivative of SiLU in hundredths."""
    for row in range(v.shape[0]):
        here, slope = v[row], tape[row]
        for c in range(v.shape[1]):
            value, held = here[c], _held(here[c], _HALF_GATE)
            gate = _gate(held)
            share = gate * _SHARE
            slope[c] = np.int8((_HUNDRED * (share + held * _UNIT * share * (_ONE - share)) + _MAGIC) - _MAGIC)
            here[c] = (_held(gate * value * factor[c], limit) + _MAGIC) - _MAGIC


def _passed(both, codes):  # type: ignore[no-untyped-def]
    """The codes of gate(v) u of [u, v] (n, 2 C)."""
    half = codes.shape[1]
    for row in range(both.shape[0]):
        values, of_gates, out = both[row, :half], both[row, half:], codes[row]
        for c in range(half):
            out[c] = _code(_held(_gate(_held(of_gates[c], _HALF_GATE)) * values[c], _LIMIT))


def _passed_taped(both, codes, gates, slopes):  # type: ignore[no-untyped-def]
    """`_passed`, and what it does to slopes: of u `gates`, in 255ths, of v `slopes`, in 256ths of a code."""
    half = codes.shape[1]
    for row in range(both.shape[0]):
        values, of_gates, out, kept, slope = both[row, :half], both[row, half:], codes[row], gates[row], slopes[row]
        for c in range(half):
            gate = _gate(_held(of_gates[c], _HALF_GATE))
            value = gate * values[c]
            out[c] = _code(_held(value, _LIMIT))
            kept[c] = np.uint8(np.int32(gate * _ALMOST + _HALF))
            over = _held(_FINER * value * (_ONE - gate * _SHARE), _FARTHEST)
            slope[c] = np.int16(np.int32((over + _MAGIC) - _MAGIC))


def _latents(steps, high, low, out, to_klt, to_asinh, asinh, entry):  # type: ignore[no-untyped-def]
    """See `ends.latents`."""
    channels = steps.shape[1]
    for row in range(steps.shape[0]):
        own = row if len(to_klt) > 1 else 0
        here, klt, entering, above, below, read = steps[row], to_klt[own], to_asinh[own], high[row], low[row], out[row]
        for c in range(channels):
            value = (_held(here[c] * klt[c], _FARTHEST_Y) + _MAGIC) - _MAGIC
            whole = ((value * _OF_HIGH) + _MAGIC) - _MAGIC
            above[c], below[c] = _code(_held(whole, _LIMIT)), _code(_held(value - whole * _HIGH, _LIMIT))
        for c in range(channels, len(below)):
            below[c] = above[c - channels]
        for c in range(channels):
            place = np.int64((_held(here[c] * entering[c], _FARTHEST_ASINH) + _MAGIC) - _MAGIC) + ASINH_LIMIT
            read[c] = _code(_held(asinh[place] * entry[c], _LIMIT))


def _laid_out(h, out, factor):  # type: ignore[no-untyped-def]
    """See `ends.laid_out`: h (H, W, 4 C), out (H, 4 W, C), factor (H or 1, W or 1, C)."""
    height, width, channels = h.shape[0], h.shape[1], out.shape[2]
    many = factor.shape[0] * factor.shape[1] > 1
    for y in range(height):
        for x in range(width):
            here, by = h[y, x], factor[y, x] if many else factor[0, 0]
            for place in range(4):
                row = out[y, 2 * x + (place >> 1) * 2 * width + (place & 1)]
                square = here[place * channels : (place + 1) * channels]
                for c in range(channels):
                    row[c] = square[c] * by[c]


def _joined(high, low, fine, out):  # type: ignore[no-untyped-def]
    """See `ends.joined`: high, low (H, W, 768), fine (H, 4 W, 192), out (H, 16, 48 W)."""
    height, width = high.shape[0], high.shape[1]
    both = np.empty(768, np.float32)
    for y in range(height):
        for x in range(width):
            one, other = high[y, x], low[y, x]
            for c in range(768):
                both[c] = one[c] + other[c]
            for row in range(16):
                pixels, down, begin = out[y, row], (row >> 3) * 2 * width, (row & 7) * 24
                left, right = fine[y, down + 2 * x], fine[y, down + 2 * x + 1]
                for c in range(24):
                    pixels[48 * x + c] = both[48 * row + c] + left[begin + c]
                for c in range(24):
                    pixels[48 * x + 24 + c] = both[48 * row + 24 + c] + right[begin + c]


def _rounded(levels, out):  # type: ignore[no-untyped-def]
    """Levels (n, k) as bytes."""
    for row in range(levels.shape[0]):
        here, to = levels[row], out[row]
        for x in range(levels.shape[1]):
            value = here[x]
            value = _BRIGHTEST if value > _BRIGHTEST else value
            value = _ZERO if value < _ZERO else value
            to[x] = np.uint8(np.float32(value + _MAGIC).view(np.int32) & 255)


_rows, _bytes, _signed, _shorts = "float32[:, ::1]", "uint8[:, ::1]", "int8[:, ::1]", "int16[:, ::1]"
_floats = "float32[::1]"
entered = compiled(f"void({_rows}, {_bytes}, {_floats})", _entered)
coded = compiled(f"void({_rows}, {_bytes}, {_floats})", _coded)
added = compiled(f"void({_rows}, {_rows}, {_bytes})", _added)
added_and_entered = compiled(f"void({_rows}, {_rows}, {_bytes}, {_floats})", _added_and_entered)
spread = compiled(f"void({_rows}, {_floats}, float32)", _spread)
spread_taped = compiled(f"void({_rows}, {_signed}, {_floats}, float32)", _spread_taped)
passed = compiled(f"void({_rows}, {_bytes})", _passed)
passed_taped = compiled(f"void({_rows}, {_bytes}, {_bytes}, {_shorts})", _passed_taped)
_stack = "float32[:, :, ::1]"
latents = compiled(f"void({_rows}, {_bytes}, {_bytes}, {_bytes}, {_rows}, {_rows}, {_floats}, {_floats})", _latents)
laid_out = compiled(f"void({_stack}, {_stack}, {_stack})", _laid_out)
joined = compiled(f"void({_stack}, {_stack}, {_stack}, {_stack})", _joined)
rounded = compiled(f"void({_rows}, {_bytes})", _rounded)
