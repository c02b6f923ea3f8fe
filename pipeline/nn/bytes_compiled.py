"""What lies between products of bytes, compiled: each value is read once and written once.

Arrays have a row for each position, x (n, C) and the like, and those that all rows share come last. Floats stay
float32, one IEEE operation at a time and none contracted, so that results are those of the same operations in torch,
to the last bit; tapes, which only slopes read, are not as exact.
"""

from __future__ import annotations

import numba
import numpy as np

from pipeline.compiling import compiled

_MAGIC = np.float32(3 << 22)
"""Adding and subtracting it rounds what is less than 2^22, ties to even."""
_LIMIT, _MIDDLE = np.float32(127), np.int32(128)
_FLAT = np.float32(8)
"""The sigmoid is taken to be from there on what it is there."""
_P0, _P1, _P2 = np.float32(0.24999961493748474), np.float32(0.007375794992476019), np.float32(2.7236929877744593e-05)
_Q1, _Q2, _Q3 = np.float32(0.11283481719466382), np.float32(0.0011790585120396027), np.float32(1.1288104670647756e-06)
_ONE, _HALF, _HALF_GATE, _GATE = np.float32(1), np.float32(0.5), np.float32(128), np.float32(256)
_UNIT, _SHARE = np.float32(1 / 16), np.float32(1 / 256)
_HUNDRED, _ALMOST, _FINER, _FARTHEST = np.float32(100), np.float32(255 / 256), np.float32(16), np.float32(32767)
_inlined = numba.njit(nogil=True, error_model="numpy")


@_inlined
def _beyond_half(v):  # type: ignore[no-untyped-def]
    """sigmoid(v) - 1/2 within 2e-7 up to 8: a rational function, which compilers vectorise."""
    v = _FLAT if v > _FLAT else v
    v = -_FLAT if v < -_FLAT else v
    s = v * v
    return v * (_P0 + s * (_P1 + s * _P2)) / (_ONE + s * (_Q1 + s * (_Q2 + s * _Q3)))


@_inlined
def _gate(v):  # type: ignore[no-untyped-def]
    """256 times the sigmoid of round(v) / 16, rounded, as `codes.gate`: this errs by less than any is off a tie."""
    v = (v + _MAGIC) - _MAGIC
    return ((_HALF_GATE + _GATE * _beyond_half(v * _UNIT)) + _MAGIC) - _MAGIC


@_inlined
def _held(value, limit):  # type: ignore[no-untyped-def]
    value = limit if value > limit else value
    return -limit if value < -limit else value


@_inlined
def _code(value):  # type: ignore[no-untyped-def]
    return np.uint8(np.int32((value + _MAGIC) - _MAGIC) + _MIDDLE)


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
