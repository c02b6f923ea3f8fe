"""What lies between the hyper-decoder, symbols and y_hat, compiled: a pass over memory instead of several.

In single IEEE operations, none contracted, as `symbols` has them in NumPy. Arrays are (M, n).
"""

from __future__ import annotations

import numpy as np

from pipeline.compiling import compiled
from pipeline.nn.integer import ACTIVATION_BITS, INDEX_COUNT, SCALE_BITS

_ZERO, _HALF, _FARTHEST = np.float32(0), np.float32(0.5), np.float32(INDEX_COUNT - 1 << SCALE_BITS)
_TO_NEAREST, _OF_STEP, _OF_MEAN = (
    np.float32(1 << SCALE_BITS - 1),
    np.float32(0.5**SCALE_BITS),
    np.float32(0.5**ACTIVATION_BITS),
)


def _placed(offset, base, origin, position, index):  # type: ignore[no-untyped-def]
    """Positions of scales, and the index of each: base (M,) plus `offset` plus `origin`, within tables."""
    for row in range(offset.shape[0]):
        here, to, nearest, own = offset[row], position[row], index[row], base[row]
        for k in range(len(here)):
            value = (own + here[k]) + origin
            value = value if value <= _FARTHEST else _FARTHEST
            value = _ZERO if value < _ZERO else value
            to[k] = value
            nearest[k] = np.uint8(np.int32((value + _TO_NEAREST) * _OF_STEP))


def _mu(position, mean, sigmas, out):  # type: ignore[no-untyped-def]
    """`mean` in sigmas in quantiser steps."""
    for row in range(position.shape[0]):
        places, means, to = position[row], mean[row], out[row]
        for k in range(len(places)):
            to[k] = means[k] * _OF_MEAN * sigmas[np.int64(places[k])]


def _add_symbols(y, index, shifts, step, out):  # type: ignore[no-untyped-def]
    """Adds symbols y at the centroids of their bins."""
    for row in range(y.shape[0]):
        symbols, tables, to = y[row], index[row], out[row]
        for k in range(len(symbols)):
            symbol = np.float32(symbols[k])
            if symbol != _ZERO:
                second = _HALF if tables[k] >= INDEX_COUNT else _ZERO
                magnitude = (abs(symbol) - second) * step - shifts[tables[k]]
                to[k] += magnitude if symbol > _ZERO else -magnitude


_rows, _bytes, _row = "float32[:, ::1]", "uint8[:, ::1]", "float32[::1]"
placed = compiled(f"void({_rows}, {_row}, float32, {_rows}, {_bytes})", _placed)
mu = compiled(f"void({_rows}, {_rows}, {_row}, {_rows})", _mu)
add_symbols = compiled(f"void(int16[:, ::1], {_bytes}, {_row}, float32, {_rows})", _add_symbols)
