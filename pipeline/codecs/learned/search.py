"""From a target to a quality, on the device: a few analyses, no files.

PSNR is close to linear in quality, and so are -log(1 - MS-SSIM) and log(bpp), because quality is the logarithm of
lmbda. A secant through the last bracket therefore lands close in two or three passes. There quality ends as a means,
for it moves all latents, and symbols fall anew each time; what an error is worth at the same quality moves few of them,
and the last passes go by that.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from pipeline.codecs.base import Symbols
from pipeline.errors import CodecError
from pipeline.metrics.distortion import ms_ssim, mse, psnr_db
from pipeline.records import Rate

PASSES = 6
APART_CENTI = 100
"""Nearer than this, how symbols happen to fall counts for as much as quality does: no slope to go by."""
# Gain over the whole quality range, on average over photos: where the second pass goes.
TYPICAL_SPAN = {"psnr_db": 13.0, "ms_ssim": 3.5, "bpp": 3.2}
NEAR = {"psnr_db": 0.15, "ms_ssim": 0.05, "bpp": 0.04}
"""Scaled as `_scale` does: from here on quality stays as it is."""
TYPICAL_FINE = {"psnr_db": 0.9, "ms_ssim": 0.2, "bpp": 0.17}
"""Gain over the logarithm of an error's worth, on average over photos."""
FINEST = 0.3
"""The logarithm of a worth is no more: an error of another worth costs more bytes at equal PSNR."""
TOLERANCE = {"psnr_db": 0.04, "ms_ssim": 0.0008, "bpp": 0.015}
Pass = tuple[Symbols, np.ndarray]


def reach(
    rate: Rate,
    rgb: np.ndarray,
    analyse: Callable[[int, float], Pass],
    size_bytes: Callable[[Symbols], int],
    name: str,
    start_centi: int = 5_000,
    fine: bool = True,
) -> Pass:
    """The pass that meets the target of `rate` most closely from the right side.

    psnr_db and ms_ssim are reached or exceeded, bpp is not exceeded; at most 0.04 dB, 0.0008 or 1.5 % off unless six
    passes did not suffice. `analyse(quality_centi, worth)` gives symbols and the picture they decode to; `fine` says
    that it minds the worth.

    Raises:
        CodecError: the target is beyond both ends of the quality range.
    """
    kind = next(k for k in TYPICAL_SPAN if getattr(rate, k) is not None)
    target: float = getattr(rate, kind)

    def value_of(found: Pass) -> float:
        symbols, x_hat = found
        if kind == "bpp":
            return 8 * size_bytes(symbols) / (rgb.shape[0] * rgb.shape[1])
        return ms_ssim(rgb, x_hat) if kind == "ms_ssim" else psnr_db(mse(rgb, x_hat))

    low: tuple[float, float | None] = (0.0, None)
    high: tuple[float, float | None] = (10_000.0, None)
    best: tuple[float, Pass] | None = None
    slope = TYPICAL_SPAN[kind] / 10_000
    before: tuple[float, float] | None = None
    centi, adjustment, aim = start_centi, 0.0, _aim(kind, target)
    adjusted: tuple[float, float] | None = None
    at_quality = 0.0
    for left in reversed(range(PASSES)):
        found = analyse(centi, math.exp(adjustment))
        value = value_of(found)
        meets = value <= target if kind == "bpp" else value >= target
        if meets and (best is None or abs(value - target) < abs(best[0] - target)):
            best = (value, found)
        scaled = _scale(kind, value)
        if best is not None and _close(kind, best[0], target):
            break
        if adjusted is not None:
            rise = (scaled - adjusted[1]) / ((adjustment - adjusted[0]) or 1.0)
            following = adjustment + (aim - scaled) / max(rise, TYPICAL_FINE[kind] / 10)
            if abs(following) <= FINEST:
                adjusted, adjustment = (adjustment, scaled), following
                continue
            fine, adjustment, adjusted, scaled = False, 0.0, None, at_quality  # worth has little to say here
        elif fine and abs(scaled - aim) <= NEAR[kind] and (best is not None or left >= 2):
            adjusted = (0.0, scaled)
            at_quality, adjustment = scaled, (aim - scaled) / TYPICAL_FINE[kind]
            continue
        if scaled < _scale(kind, target):
            low = (float(centi), scaled)
        else:
            high = (float(centi), scaled)
        if before is not None and abs(centi - before[0]) >= APART_CENTI:
            # The picture's own slope, or a tenth of a typical one where nothing seems to change.
            slope = max((scaled - before[1]) / (centi - before[0]), TYPICAL_SPAN[kind] / 100_000)
        before = (float(centi), scaled)
        quality = _next(aim, low, high, slope)
        if quality == centi:
            break
        centi = quality
    if best is None:
        raise CodecError(
            f"{name}: the target of {kind} {target:g} cannot be reached: {value:.4g} at quality {centi / 100:g}; "
            f"ask for {'more' if kind == 'bpp' else 'less'}, or for another codec"
        )
    return best[1]


def _scale(kind: str, value: float) -> float:
    """`value` on a scale that is nearly linear in quality."""
    if kind == "psnr_db":
        return min(value, 100.0)
    return math.log(max(value, 1e-9)) if kind == "bpp" else -math.log(max(1 - value, 1e-9))


def _aim(kind: str, target: float) -> float:
    """The scaled target, moved by half the tolerance to the side that meets it."""
    half = TOLERANCE[kind] / 2
    return _scale(kind, target * (1 - half) if kind == "bpp" else min(target + half, 1.0 if kind == "ms_ssim" else 1e9))


def _close(kind: str, value: float, target: float) -> bool:
    return abs(value - target) <= TOLERANCE[kind] * (target if kind == "bpp" else 1)


def _next(aim: float, low: tuple[float, float | None], high: tuple[float, float | None], slope: float) -> int:
    """Quality where the line through the bracket's ends meets the aim, or one of `slope` while an end is missing."""
    if low[1] is not None and high[1] is not None:
        rise = max(high[1] - low[1], 1e-9)
        guess = low[0] + (aim - low[1]) * (high[0] - low[0]) / rise
        return round(min(max(guess, low[0] + 1), high[0] - 1))
    known = low if low[1] is not None else high
    guess = known[0] + (aim - (known[1] or 0.0)) / slope
    return round(min(max(guess, low[0]), high[0]))
