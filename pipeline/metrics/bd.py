"""Bjontegaard deltas: one number for how far apart two rate-distortion curves are.

Bjontegaard, "Calculation of average PSNR differences between RD-curves", ITU-T VCEG-M33, 2001, fits one cubic to
four points, which overshoots with more; like current practice this interpolates piecewise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline.errors import MetricError
from pipeline.metrics.interpolation import akima_slopes, integral, pchip_slopes

Method = Literal["pchip", "akima"]
MIN_POINTS = 4
_SLOPES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {"pchip": pchip_slopes, "akima": akima_slopes}


@dataclass(frozen=True, slots=True)
class RDCurve:
    """Operating points of one codec on one data set, in any order.

    bpp         bits per pixel, above 0.
    quality_db  mean PSNR in dB, or `ms_ssim_db`; both curves of a comparison mean the same.

    Raises:
        MetricError: fewer than four points, unequal lengths, values that are not finite, or two points of equal
            rate or quality.
    """

    bpp: Sequence[float]
    quality_db: Sequence[float]
    name: str = "curve"

    def __post_init__(self) -> None:
        rate, quality = np.asarray(self.bpp, float), np.asarray(self.quality_db, float)
        if rate.shape != quality.shape or rate.ndim != 1 or len(rate) < MIN_POINTS:
            raise MetricError(
                f"{self.name}: {rate.size} rates and {quality.size} qualities; expected as many of one as of the "
                f"other and at least {MIN_POINTS}, so measure more quality settings"
            )
        if not (np.isfinite(rate).all() and np.isfinite(quality).all() and (rate > 0).all()):
            raise MetricError(f"{self.name}: rates must be above 0 and all values finite; leave lossless points out")
        if len(np.unique(rate)) < len(rate) or len(np.unique(quality)) < len(quality):
            raise MetricError(f"{self.name}: two points share a rate or a quality; keep one of them")


def ms_ssim_db(ms_ssim: float) -> float:
    """-10 log10(1 - MS-SSIM): MS-SSIM on a scale on which curves can be compared; inf at 1."""
    return -10.0 * math.log10(1.0 - ms_ssim) if ms_ssim < 1 else math.inf


def bd_rate(anchor: RDCurve, test: RDCurve, method: Method = "pchip") -> float:
    """Average bit-rate change of `test` against `anchor` at equal quality, in percent; negative is smaller.

    log10(bpp) is interpolated over quality (dB) and averaged over the range both curves cover. PCHIP cannot
    overshoot between points; Akima is what `bjontegaard` and most recent papers report.

    Raises:
        MetricError: no quality range in common, or an unknown method.
    """
    gap = _mean_gap(
        (anchor.quality_db, np.log10(anchor.bpp)), (test.quality_db, np.log10(test.bpp)), method, (anchor, test)
    )
    return float((10.0**gap - 1.0) * 100.0)


def bd_psnr(anchor: RDCurve, test: RDCurve, method: Method = "pchip") -> float:
    """Average quality gain of `test` over `anchor` at equal rate, in dB; positive is better.

    Quality is interpolated over log10(bpp) and averaged over the range of rates both curves cover.

    Raises:
        MetricError: no range of rates in common, or an unknown method.
    """
    return _mean_gap(
        (np.log10(anchor.bpp), anchor.quality_db), (np.log10(test.bpp), test.quality_db), method, (anchor, test)
    )


def _mean_gap(
    anchor: tuple[Sequence[float] | np.ndarray, ...],
    test: tuple[Sequence[float] | np.ndarray, ...],
    method: str,
    curves: tuple[RDCurve, RDCurve],
) -> float:
    """Mean of test - anchor over the common range of x, for two (x, y) curves."""
    if method not in _SLOPES:
        raise MetricError(f"interpolation {method!r} is unknown; expected one of {', '.join(_SLOPES)}")
    (xa, ya), (xt, yt) = _by_x(*anchor), _by_x(*test)
    low, high = max(xa[0], xt[0]), min(xa[-1], xt[-1])
    if low >= high:
        raise MetricError(
            f"{curves[0].name} covers {xa[0]:.3f} to {xa[-1]:.3f} and {curves[1].name} {xt[0]:.3f} to {xt[-1]:.3f}; "
            "a Bjontegaard delta needs a range in common, so measure settings that overlap"
        )
    slopes = _SLOPES[method]
    gap = integral(xt, yt, slopes(xt, yt), low, high) - integral(xa, ya, slopes(xa, ya), low, high)
    return float(gap / (high - low))


def _by_x(x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(x)
    return np.asarray(x, float)[order], np.asarray(y, float)[order]
