"""Piecewise cubics through given points, integrated exactly: PCHIP and Akima, the two that BD-rate is reported with.

Both fix a slope at every knot and join knots by Hermite cubics; they differ in the slopes only. Written out here
because SciPy is not a dependency; tests hold them against it.

Fritsch & Butland, "A Method for Constructing Local Monotone Piecewise Cubic Interpolants", SIAM J. Sci. Stat.
Comput. 1984; Akima, "A New Method of Interpolation and Smooth Curve Fitting", J. ACM 1970.
"""

from __future__ import annotations

import numpy as np


def integral(x: np.ndarray, y: np.ndarray, slopes: np.ndarray, low: float, high: float) -> float:
    """Area below the cubic through (x, y) from `low` to `high`, both within [x[0], x[-1]]."""
    knots = np.concatenate([[low], x[(x > low) & (x < high)], [high]])
    left = np.clip(np.searchsorted(x, knots[:-1], side="right") - 1, 0, len(x) - 2)
    # Simpson's rule is exact for cubics.
    middle = (knots[:-1] + knots[1:]) / 2
    values = [_hermite(x, y, slopes, left, at) for at in (knots[:-1], middle, knots[1:])]
    return float(np.sum(np.diff(knots) / 6 * (values[0] + 4 * values[1] + values[2])))


def pchip_slopes(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Slopes that keep the curve monotone wherever the points are; at least three points."""
    h, d = np.diff(x), np.diff(y) / np.diff(x)
    slopes = np.empty_like(y)
    w1, w2 = 2 * h[1:] + h[:-1], h[1:] + 2 * h[:-1]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        harmonic = (w1 + w2) / (w1 / d[:-1] + w2 / d[1:])
    slopes[1:-1] = np.where(d[:-1] * d[1:] > 0, harmonic, 0.0)
    slopes[0] = _pchip_end(h[0], h[1], d[0], d[1])
    slopes[-1] = _pchip_end(h[-1], h[-2], d[-1], d[-2])
    return slopes


def akima_slopes(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Slopes weighted towards the side that bends less; at least three points."""
    d = np.diff(y) / np.diff(x)
    d = np.concatenate([[3 * d[0] - 2 * d[1], 2 * d[0] - d[1]], d, [2 * d[-1] - d[-2], 3 * d[-1] - 2 * d[-2]]])
    bend = np.abs(np.diff(d))
    before, after = bend[:-2], bend[2:]
    total = before + after
    bends = total > 1e-9 * total.max()
    share = np.divide(before, total, out=np.full_like(total, 0.5), where=bends)
    # Where nothing bends, SciPy averages the two outer slopes; the inner two are equal to them then.
    return np.where(bends, d[1:-2] + share * (d[2:-1] - d[1:-2]), (d[3:] + d[:-3]) / 2)


def _pchip_end(h0: float, h1: float, d0: float, d1: float) -> float:
    """Three-point slope at an end, limited so that the curve does not turn there."""
    slope = ((2 * h0 + h1) * d0 - h0 * d1) / (h0 + h1)
    if np.sign(slope) != np.sign(d0):
        return 0.0
    return 3 * d0 if np.sign(d0) != np.sign(d1) and abs(slope) > 3 * abs(d0) else float(slope)


def _hermite(x: np.ndarray, y: np.ndarray, slopes: np.ndarray, left: np.ndarray, at: np.ndarray) -> np.ndarray:
    h = x[left + 1] - x[left]
    t = (at - x[left]) / h
    rise = y[left] + (y[left + 1] - y[left]) * t * t * (3 - 2 * t)
    return rise + h * t * (1 - t) * (slopes[left] * (1 - t) - slopes[left + 1] * t)
