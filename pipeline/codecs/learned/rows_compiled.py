"""What an encoder does between products of bytes, compiled: each value is read once and written once.

Arrays have a row for each position, x (n, C) float32 and the like, and those that all rows share come last. A row
goes into a product as bytes, 128 more than values in a unit of its own, in which the largest is 127. Nothing here is
sent, so that compilers may contract and reorder.
"""

from __future__ import annotations

import numba
import numpy as np

from pipeline.compiling import compiled

_TIE = np.float32(128.5)
_FLAT, _ONE, _HALF, _MOST = np.float32(8), np.float32(1), np.float32(0.5), np.float32(127)
_LEAST, _WITHOUT_SIGN = np.int32(1 << 28), np.int32(0x7FFFFFFF)
"""The first is 2.5e-29 as a float."""
_P0, _P1, _P2 = np.float32(0.24999961493748474), np.float32(0.007375794992476019), np.float32(2.7236929877744593e-05)
_Q1, _Q2, _Q3 = np.float32(0.11283481719466382), np.float32(0.0011790585120396027), np.float32(1.1288104670647756e-06)
_inlined = numba.njit(nogil=True, error_model="numpy", fastmath=True)


@_inlined
def _sigmoid(v):  # type: ignore[no-untyped-def]
    v = _FLAT if v > _FLAT else v
    v = -_FLAT if v < -_FLAT else v
    s = v * v
    return _HALF + v * (_P0 + s * (_P1 + s * _P2)) / (_ONE + s * (_Q1 + s * (_Q2 + s * _Q3)))


@_inlined
def _pack(x, place, sizes, codes, units, whole, row):  # type: ignore[no-untyped-def]
    """The row at `place` of x as bytes, and their unit. `sizes` and `whole` are the same floats as integers, whose
    maximum compilers vectorise.
    """
    values, own, out, most = x[place], sizes[place], codes[row], _LEAST
    for c in range(x.shape[1]):
        size = own[c] & _WITHOUT_SIGN
        most = size if size > most else most
    whole[row] = most
    factor = _MOST / units[row]
    for c in range(x.shape[1]):
        out[c] = np.uint8(np.int32(values[c] * factor + _TIE))
    units[row] /= _MOST


def _entered(x, codes, units):  # type: ignore[no-untyped-def]
    """The bytes of x, and their units (n,)."""
    sizes, whole = x.view(np.int32), units.view(np.int32)
    for row in range(x.shape[0]):
        _pack(x, row, sizes, codes, units, whole, row)


def _silu(v, units, bias):  # type: ignore[no-untyped-def]
    """SiLU of v in `units` plus bias, in place."""
    for row in range(v.shape[0]):
        here, unit = v[row], units[row]
        for c in range(v.shape[1]):
            value = here[c] * unit + bias[c]
            here[c] = value * _sigmoid(value)


def _added(x, more, codes, units, bias, limit):  # type: ignore[no-untyped-def]
    """x + `more` in `units` + bias, within `limit`, in place; its bytes, and their units in place of those."""
    sizes, whole = x.view(np.int32), units.view(np.int32)
    for row in range(x.shape[0]):
        here, added, unit = x[row], more[row], units[row]
        for c in range(x.shape[1]):
            value = here[c] + added[c] * unit + bias[c]
            value = limit[c] if value > limit[c] else value
            here[c] = -limit[c] if value < -limit[c] else value
        _pack(x, row, sizes, codes, units, whole, row)


def _gated(both, codes, units, bias, limit):  # type: ignore[no-untyped-def]
    """The bytes of u sigmoid(v) within `limit` of [u, v] (n, 2 C) in `units` plus bias, and their units in place."""
    half, whole = codes.shape[1], units.view(np.int32)
    out = np.empty((1, half), np.float32)
    sizes = out.view(np.int32)
    for row in range(both.shape[0]):
        u, v, unit = both[row, :half], both[row, half:], units[row]
        for c in range(half):
            value = (u[c] * unit + bias[c]) * _sigmoid(v[c] * unit + bias[half + c])
            value = limit[c] if value > limit[c] else value
            out[0, c] = -limit[c] if value < -limit[c] else value
        _pack(out, 0, sizes, codes, units, whole, row)


def _gate_back(over, gates, slopes, codes, units, factor):  # type: ignore[no-untyped-def]
    """Slopes over what passed a gate, `over` in `units`, as slopes over u and v times `factor` (2 C,): bytes, and their
    units in place. `gates` and `slopes` are those of `exact.Tape`.
    """
    half, whole = over.shape[1], units.view(np.int32)
    out = np.empty((1, 2 * half), np.float32)
    sizes = out.view(np.int32)
    for row in range(over.shape[0]):
        here, gate, slope, unit = over[row], gates[row], slopes[row], units[row]
        of_u, of_v = out[0, :half], out[0, half:]
        for c in range(half):
            value = here[c] * unit
            of_u[c] = value * factor[c] * np.float32(gate[c])
            of_v[c] = value * factor[half + c] * np.float32(slope[c])
        _pack(out, 0, sizes, codes, units, whole, row)


def _silu_back(over, slopes, codes, units, factor):  # type: ignore[no-untyped-def]
    """Bytes of slopes over v times `factor`, from those over its SiLU, and their units."""
    out, whole = np.empty((1, over.shape[1]), np.float32), units.view(np.int32)
    sizes = out.view(np.int32)
    for row in range(over.shape[0]):
        here, slope, values = over[row], slopes[row], out[0]
        for c in range(over.shape[1]):
            values[c] = here[c] * factor[c] * np.float32(slope[c])
        _pack(out, 0, sizes, codes, units, whole, row)


def _plus(x, more, codes, units, factor):  # type: ignore[no-untyped-def]
    """(x + `more` in `units`) times `factor`, in place; its bytes, and their units in place of those."""
    sizes, whole = x.view(np.int32), units.view(np.int32)
    for row in range(x.shape[0]):
        here, added, unit = x[row], more[row], units[row]
        for c in range(x.shape[1]):
            here[c] = (here[c] + added[c] * unit) * factor[c]
        _pack(x, row, sizes, codes, units, whole, row)


_rows, _bytes, _signed, _shorts = "float32[:, ::1]", "uint8[:, ::1]", "int8[:, ::1]", "int16[:, ::1]"
_floats = "float32[::1]"
_packed = f"{_bytes}, {_floats}"
entered = compiled(f"void({_rows}, {_packed})", _entered, fastmath=True)
silu = compiled(f"void({_rows}, {_floats}, {_floats})", _silu, fastmath=True)
added = compiled(f"void({_rows}, {_rows}, {_packed}, {_floats}, {_floats})", _added, fastmath=True)
gated = compiled(f"void({_rows}, {_packed}, {_floats}, {_floats})", _gated, fastmath=True)
gate_back = compiled(f"void({_rows}, {_bytes}, {_shorts}, {_packed}, {_floats})", _gate_back, fastmath=True)
silu_back = compiled(f"void({_rows}, {_signed}, {_packed}, {_floats})", _silu_back, fastmath=True)
plus = compiled(f"void({_rows}, {_rows}, {_packed}, {_floats})", _plus, fastmath=True)
