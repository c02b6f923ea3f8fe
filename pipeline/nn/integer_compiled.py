"""What ends a layer of integers, compiled: a pass over its sums instead of four."""

from __future__ import annotations

import numpy as np

from pipeline.compiling import compiled


def _floored(total, offset, low, high, out, first):  # type: ignore[no-untyped-def]
    """floor(total (m, n) + offset (m,)) within bounds, to columns of `out` (m, columns) from `first` on."""
    for row in range(total.shape[0]):
        here, more, to = total[row], offset[row], out[row, first : first + total.shape[1]]
        for column in range(len(here)):
            value = np.floor(here[column] + more)
            value = high if value > high else value
            to[column] = np.float32(low if value < low else value)


floored = compiled(
    "void(float64[:, ::1], float64[::1], float64, float64, float32[:, ::1], int64)",
    _floored,
)
