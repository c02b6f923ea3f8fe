"""Encode and decode speed of codecs side by side, in turns on the same pictures and threads.

Turns (A B C A B C ...) and the best of several rounds, since other programs and turbo clocks come and go: what
disturbs one codec disturbs its neighbours just as much. Size and quality are measured on the same pictures, for a
speed alone says nothing.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from pipeline.records import Picture
from tests.benchmarks.points import Point, Setting, codec_at, curves, measure_image, picture_at

T = TypeVar("T")


@dataclass(frozen=True)
class Speed:
    """MPix/s from pixels to payload and from payload to pixels, and what came out on the pictures timed."""

    point: Point
    encode_mpx_per_s: float
    decode_mpx_per_s: float


def at_equal_psnr(settings: Sequence[Setting], found: Mapping[str, Sequence[Point]], psnr_db: float) -> list[Setting]:
    """One setting per measured codec: the whole-number quality at which its curve passes nearest to `psnr_db`."""
    chosen = {}
    for setting in settings:
        points = sorted(found[setting.label], key=lambda point: point.quality)
        chosen[setting.label] = replace(setting, quality=round(_quality_at(points, psnr_db)))
    return list(chosen.values())


def _quality_at(points: Sequence[Point], psnr_db: float) -> float:
    """Linear between points; the first or last quality outside of them."""
    for low, high in itertools.pairwise(points):
        if low.psnr_db <= psnr_db < high.psnr_db:
            share = (psnr_db - low.psnr_db) / (high.psnr_db - low.psnr_db)
            return low.quality + share * (high.quality - low.quality)
    return points[0].quality if psnr_db < points[0].psnr_db else points[-1].quality


def speeds(settings: Sequence[Setting], images: Sequence[Path], rounds: int = 3) -> dict[str, Speed]:
    """Label -> speed over all pictures, each timed `rounds` times and counted at its fastest."""
    rows = [row for path in images for row in measure_image(path, settings)]  # also loads libraries and networks
    pictures, best = [picture_at(path) for path in images], dict[tuple[str, int], list[tuple[float, float]]]()
    for _ in range(rounds):
        for number, picture in enumerate(pictures):
            for setting in settings:
                best.setdefault((setting.label, number), []).append(_timed(setting, picture))
    mpx, points = sum(picture.width_px * picture.height_px for picture in pictures) / 1e6, curves(rows)
    found = {}
    for label in (setting.label for setting in settings):
        times = [best[label, number] for number in range(len(pictures))]
        encode_s, decode_s = (sum(min(pair[side] for pair in of_one) for of_one in times) for side in (0, 1))
        found[label] = Speed(points[label][0], mpx / encode_s, mpx / decode_s)
    return found


def _timed(setting: Setting, picture: Picture) -> tuple[float, float]:
    """Seconds to encode and to decode."""
    codec = codec_at(setting)
    encode_s, encoded = _seconds(lambda: codec.encode(picture, b""))
    decode_s, _ = _seconds(lambda: codec.decode(encoded.payload))
    return encode_s, decode_s


def _seconds(work: Callable[[], T]) -> tuple[float, T]:
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result
