"""From a target (dB, MS-SSIM, bits per pixel) to a quality, in as few encodes as possible.

Distortion falls and size grows with quality, so the answer is one crossing on a grid of qualities. It is bracketed
by bisection and closed in on by linear interpolation (regula falsi), five or six encodes instead of a hundred; when
interpolation stops halving the bracket, bisection takes over. Whatever is returned was measured, so a codec that
is not quite monotone costs a few bytes, never the target.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pipeline.codecs.base import Encoded
from pipeline.errors import CodecError
from pipeline.metrics.distortion import ms_ssim, mse, psnr_db
from pipeline.records import Rate

UNITS = {"psnr_db": "dB PSNR", "ms_ssim": "MS-SSIM", "bpp": "bits per pixel"}


@dataclass(frozen=True, slots=True)
class Trial:
    """One encode: what was measured at one step of the quality grid."""

    step: int
    quality: float
    payload: bytes
    value: float


def reach(
    name: str,
    rate: Rate,
    reference: np.ndarray,
    encode: Callable[[float], bytes],
    decode: Callable[[bytes], np.ndarray],
    quality_step: float = 1.0,
) -> Encoded:
    """The payload at `rate.quality`, or the one that meets the target of `rate`.

    psnr_db, ms_ssim: the smallest payload tried that reaches it; bpp: the highest quality that stays within it.
    `reference` is (H, W, 3) uint8; qualities are multiples of `quality_step` in [0, 100].

    Raises:
        CodecError: the target is beyond both ends of the quality range; says what was reached.
    """
    if rate.quality is not None:
        quality = round(rate.quality / quality_step) * quality_step
        return Encoded(encode(quality), quality)
    kind = next(k for k in UNITS if getattr(rate, k) is not None)
    target = getattr(rate, kind)

    def attempt(step: int) -> Trial:
        quality = round(step * quality_step, 6)
        payload = encode(quality)
        return Trial(step, quality, payload, _measure(kind, reference, payload, decode))

    trials = _crossing(attempt, round(100 / quality_step), target, kind)
    return _best(name, kind, target, trials)


def _measure(kind: str, reference: np.ndarray, payload: bytes, decode: Callable[[bytes], np.ndarray]) -> float:
    if kind == "bpp":
        return 8 * len(payload) / (reference.shape[0] * reference.shape[1])
    decoded = decode(payload)
    return ms_ssim(reference, decoded) if kind == "ms_ssim" else psnr_db(mse(reference, decoded))


def _crossing(attempt: Callable[[int], Trial], last: int, target: float, kind: str) -> list[Trial]:
    """Trials on both sides of the target, one grid step apart, or at the end of the grid nobody gets beyond."""
    low, high = -1, last + 1  # not above the target | above it; the ends themselves are never tried
    below: Trial | None = None
    above: Trial | None = None
    trials: list[Trial] = []
    width = high - low
    while high - low > 1:
        middle = (low + high) // 2
        step = middle
        if below and above and 2 * (high - low) <= width:  # the last trial halved the bracket: trust the line
            step = min(max(_interpolate(below, above, target, kind), low + 1), high - 1)
        width = high - low
        trial = attempt(step)
        trials.append(trial)
        if _meets(trial.value, target, kind):
            high, above = step, trial
        else:
            low, below = step, trial
    return trials


def _meets(value: float, target: float, kind: str) -> bool:
    """Whether quality is high enough: at or above a distortion target, strictly above a size target."""
    return value > target if kind == "bpp" else value >= target


def _interpolate(below: Trial, above: Trial, target: float, kind: str) -> int:
    """First step expected to meet the target: each metric is near-linear in quality on the scale used here."""
    low, high, goal = (_scale(v, kind) for v in (below.value, above.value, target))
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return (below.step + above.step) // 2
    return math.ceil(below.step + (above.step - below.step) * (goal - low) / (high - low))


def _scale(value: float, kind: str) -> float:
    if kind == "bpp":
        return math.log(max(value, 1e-9))
    return -math.log(max(1.0 - value, 1e-9)) if kind == "ms_ssim" else value


def _best(name: str, kind: str, target: float, trials: list[Trial]) -> Encoded:
    if kind == "bpp":
        fitting = [t for t in trials if t.value <= target]
        best = max(fitting, key=lambda t: t.step, default=None)
    else:
        fitting = [t for t in trials if t.value >= target]
        best = min(fitting, key=lambda t: (len(t.payload), t.step), default=None)
    if best is None:
        nearest = min(trials, key=lambda t: t.value) if kind == "bpp" else max(trials, key=lambda t: t.value)
        raise CodecError(
            f"{name}: the target of {target:g} {UNITS[kind]} cannot be reached: {nearest.value:.4g} at quality "
            f"{nearest.quality:g}; ask for {'more' if kind == 'bpp' else 'less'}, or for another codec"
        )
    return Encoded(best.payload, best.quality)
