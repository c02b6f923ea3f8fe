"""From a target (dB, MS-SSIM, bits per pixel) to a quality, in as few encodes as possible.

Distortion falls and size grows with quality, so the answer is one crossing on a grid of qualities. Lines through
earlier trials predict it: first beyond them, until it is bracketed, then between the ends of the bracket, which takes
about six encodes instead of a hundred. Whatever is returned was measured, so a codec that is not quite monotone
costs a few bytes, never the target.
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
    """Trials on both sides of the target, one grid step apart, or up to the end of the grid nobody gets beyond."""
    low, high = -1, last + 1  # not high enough | high enough; these two ends themselves are never tried
    trials: list[Trial] = []
    meets: list[bool] = []
    while high - low > 1:
        step = min(max(_next_step(trials, meets, low, high, target, kind), low + 1), high - 1)
        trials.append(attempt(step))
        meets.append(_meets(trials[-1].value, target, kind))
        low, high = (low, step) if meets[-1] else (step, high)
    return trials


def _next_step(trials: list[Trial], meets: list[bool], low: int, high: int, target: float, kind: str) -> int:
    """Between the ends of the bracket along a line; beyond the last two trials while there is only one end."""
    if len(trials) < 2:
        return (low + high) // 2
    before = next((t for t, met in zip(reversed(trials), reversed(meets), strict=True) if met != meets[-1]), None)
    crossing = _on_line(before or trials[-2], trials[-1], target, kind)
    if crossing is None:
        return (low + high) // 2
    towards = -1 if meets[-1] else 1
    if before is None:  # overshoot a little: a bracket is worth more than another near miss
        return math.ceil(crossing) + towards * (1 + abs(math.ceil(crossing) - trials[-1].step) // 8)
    same_side = next((i for i, met in enumerate(reversed(meets)) if met != meets[-1]), 0)
    # One end moving again and again means the curve bends away from the line: step past it, twice as far each time.
    return math.ceil(crossing) + (towards * 2 ** (same_side - 2) if same_side > 1 else 0)


def _meets(value: float, target: float, kind: str) -> bool:
    """Whether quality is high enough: at or above a distortion target, strictly above a size target."""
    return value > target if kind == "bpp" else value >= target


def _on_line(a: Trial, b: Trial, target: float, kind: str) -> float | None:
    """Where the line through two trials meets the target, in steps; None when it is level or falls."""
    value_a, value_b, goal = (_scale(v, kind) for v in (a.value, b.value, target))
    slope = (value_b - value_a) / (b.step - a.step)
    if not math.isfinite(slope) or slope <= 0.0:
        return None
    return min(max(b.step + (goal - value_b) / slope, -1e6), 1e6)


def _scale(value: float, kind: str) -> float:
    """Each metric on a scale where it is near-linear in quality."""
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
