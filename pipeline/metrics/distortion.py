"""Distortion between two 8-bit pictures: MSE, PSNR, SSIM and MS-SSIM in NumPy, the reference for every other one.

Values are over all channels with a data range of 255. Identical pictures have mse 0, ssim 1, ms_ssim 1 and
psnr_db = inf: the limit of the formula, which Parquet, DuckDB, Polars and pandas store, order and compare
rightly (inf is above any floor). Average mse, not psnr_db, where exact pictures may be among the rows.

Wang, Bovik, Sheikh & Simoncelli, "Image Quality Assessment: From Error Visibility to Structural Similarity",
IEEE TIP 2004.
Wang, Simoncelli & Bovik, "Multiscale Structural Similarity for Image Quality Assessment", Asilomar 2003.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from pipeline.errors import MetricError
from pipeline.metrics import window
from pipeline.records import Distortion

PEAK = 255.0
C1, C2 = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
# Samples of each picture held as floats at a time: the working set stays near the cache, whatever the picture.
_STRIP_SAMPLES = 1 << 15


def mse(reference: np.ndarray, test: np.ndarray) -> float:
    """Mean squared error over all samples, on the 0..255 scale; exact, summed in integers."""
    _check(reference, test)
    total = 0
    for rows in _strips(reference, halo=0):
        # A dot product of floats is faster alone, and 40 times slower where BLAS threads fight for busy cores.
        difference = np.subtract(reference[rows], test[rows], dtype=np.int16).astype(np.int32)
        difference *= difference
        total += int(difference.sum(dtype=np.int64))
    return total / reference.size


def psnr_db(mse: float) -> float:
    """10 log10(255^2 / mse) in dB; inf for identical pictures."""
    return 10.0 * math.log10(PEAK**2 / mse) if mse > 0 else math.inf


def ssim(reference: np.ndarray, test: np.ndarray) -> float:
    """Structural similarity, at most 1: 11 x 11 Gaussian window, sigma 1.5, mean over pixels and channels.

    Only windows that lie inside the picture count. Along a side shorter than 11 px the window is cut to the
    largest odd length that fits, so that a single pixel is compared by its value alone.
    """
    _check(reference, test)
    return float(_similarity(reference, test)[0].mean())


def ms_ssim(reference: np.ndarray, test: np.ndarray) -> float:
    """Multi-scale SSIM in [0, 1]: contrast and structure at five scales, luminance at the coarsest.

    Scales on which a side is shorter than 11 px are left out, which happens below 161 px, and the weights of the
    others scaled up to the sum of all five (1.0001 as published). Negative terms count as 0. Halving averages
    2 x 2 px, with a row or column of zeros before an odd side, as pytorch-msssim does.
    """
    _check(reference, test)
    return _multi_scale(reference, test)[1]


def measure(reference: np.ndarray, test: np.ndarray, *, full: bool = True) -> Distortion:
    """All four at once, sharing the first scale; without `full` only mse and psnr_db.

    Args:
        reference, test: (H, W, C) uint8 of equal shape, from 1 x 1 px up.

    Raises:
        MetricError: another dtype, different shapes, or no pixels.
    """
    error = mse(reference, test)
    if not full:
        return Distortion(error, psnr_db(error))
    single, multi = _multi_scale(reference, test)
    return Distortion(error, psnr_db(error), single, multi)


def _multi_scale(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """(ssim, ms_ssim) of the pair."""
    similarity, structure = _similarity(x, y)
    single, terms = float(similarity.mean()), [structure]
    while len(terms) < len(SCALE_WEIGHTS) and min((side + 1) // 2 for side in x.shape[:2]) >= window.LENGTH_PX:
        x, y = window.halved(x), window.halved(y)
        similarity, structure = _similarity(x, y)
        terms.append(structure)
    terms[-1] = similarity
    weights = np.array(SCALE_WEIGHTS[: len(terms)])
    weights *= sum(SCALE_WEIGHTS) / weights.sum()
    per_channel = np.prod(np.maximum(terms, 0.0) ** weights[:, None], axis=0)
    return single, float(per_channel.mean())


def _similarity(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean SSIM, and mean of its contrast-structure factor, of every channel: two (C,) float64."""
    height, width, channels = x.shape
    down, across = window.gaussian(height), window.gaussian(width)
    totals = np.zeros((2, channels))
    for rows in _strips(x, halo=len(down) - 1):
        means = window.filtered(_moments(x[rows], y[rows]), down, across, channels)
        luminance, structure = factors(*means)
        for k, factor in enumerate((luminance * structure, structure)):
            totals[k] += factor.sum(axis=0, dtype=np.float64).reshape(-1, channels).sum(axis=0)
    similarity, structure = totals / ((height - len(down) + 1) * (width - len(across) + 1))
    return similarity, structure


def _moments(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """s = x + y - 255, d = x - y and their squares as (4, rows, W * C) float32.

    Four maps say what the usual five do (x, y, x^2, y^2, xy). Centring s keeps its square small, so that
    float32 differs from float64 by 1e-6 on photos and 2e-5 on black against white (tests/metrics).
    """
    rows, width, channels = x.shape
    maps = np.empty((4, rows, width * channels), np.float32)
    flat_x, flat_y = x.reshape(rows, -1), y.reshape(rows, -1)
    np.add(flat_x, flat_y, out=maps[0], dtype=np.float32)
    maps[0] -= np.float32(PEAK)
    np.subtract(flat_x, flat_y, out=maps[1], dtype=np.float32)
    np.square(maps[:2], out=maps[2:])
    return maps


def factors(s: Any, d: Any, ss: Any, dd: Any) -> tuple[Any, Any]:
    """Luminance and contrast-structure of the SSIM formula, from windowed means of s, d, s^2, d^2.

    With x = (s + d) / 2 and y = (s - d) / 2, mu_x^2 + mu_y^2 = (mu_s^2 + mu_d^2) / 2, and so on. Arithmetic alone, so
    that the loss of `training.losses` puts tensors, with their gradients, through the same lines.
    """
    ss, dd = ss - s * s, dd - d * d
    s, d = (s + PEAK) ** 2, d * d
    return (s - d + 2 * C1) / (s + d + 2 * C1), (ss - dd + 2 * C2) / (ss + dd + 2 * C2)


def _strips(picture: np.ndarray, halo: int) -> Iterator[slice]:
    """Row ranges that cover the picture; each begins `halo` rows before the end of the one before."""
    height, width, channels = picture.shape
    step = max(_STRIP_SAMPLES // (width * channels), 16)
    for top in range(0, height - halo, step):
        yield slice(top, min(top + step + halo, height))


def _check(reference: np.ndarray, test: np.ndarray) -> None:
    for name, picture in (("reference", reference), ("test", test)):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.size == 0:
            raise MetricError(
                f"{name} is {picture.dtype} of shape {picture.shape}; expected uint8 of shape (height, width, "
                "channels) with at least one pixel, so convert it first"
            )
    if reference.shape != test.shape:
        raise MetricError(
            f"reference has shape {reference.shape} and test {test.shape}; distortion is defined for equal shapes, "
            "so check that the decoder gives back the size that was encoded"
        )
