"""The crossover of reduced-resolution coding: the codec's curve at full size, at half size restored, and the choice."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.bitstream.container import Reduced
from pipeline.codecs.learned import reduced
from pipeline.codecs.learned.hyperprior import Hyperprior
from pipeline.metrics.distortion import mse, psnr_db
from pipeline.records import Picture, Rate
from tests.benchmarks import conditions

AT_HALF = 26.0
"""Added to the quality at half size: there lmbda is four times as much, since each pixel stands for four."""
SAME_DB = 0.001
"""Decoding may differ by a level here and there from what the encoder saw."""
Point = tuple[float, float]
"""(bpp, PSNR in dB)"""


def text(images: Sequence[Path], qualities: Sequence[float], effort: int) -> str:
    """Means over images of both curves, half size at a quality 26 higher; where they cross; what auto does."""
    codec = Hyperprior(Rate(quality=60.0), device="cpu", effort=effort, reduced="auto")
    full: list[list[Point]] = []
    half: list[list[Point]] = []
    auto: list[list[tuple[bool, Point]]] = []
    for number, path in enumerate(images, 1):
        picture = Picture(np.asarray(Image.open(path).convert("RGB")))
        full.append([_full(codec, picture, quality) for quality in qualities])
        half.append([_half(codec, picture, min(100.0, quality + AT_HALF)) for quality in qualities])
        auto.append([_auto(codec, picture, quality) for quality in qualities])
        print(f"{number} of {len(images)} images", file=sys.stderr, flush=True)
    lost = sum(
        point[0] > whole[0] or point[1] < whole[1] - SAME_DB
        for each, wholes in zip(auto, full, strict=True)
        for (_, point), whole in zip(each, wholes, strict=True)
    )
    rows = [_row(quality, k, full, half, auto) for k, quality in enumerate(qualities)]
    found = [crossing(a, b) for a, b in zip(full, half, strict=True)]
    known = [each for each in found if each is not None]
    told = f"\n\nThe curves of {len(known)} of {len(images)} images cross"
    told += f", at {np.min(known):.3f} to {np.max(known):.3f} bpp (median {np.median(known):.3f})" if known else ""
    best = [path.stem for path, each in zip(images, auto, strict=True) if any(chosen for chosen, _ in each)]
    return (
        f"{conditions.table(rows)}{told}. `auto` reduced {', '.join(best) or 'none'}; it lost bytes or PSNR against "
        f"full size {lost} times."
    )


def _row(k_quality: float, k: int, full: list[list[Point]], half: list[list[Point]], auto: list) -> dict[str, str]:
    cells = {"quality": f"{k_quality:g}"}
    for name, points in (("full", full), ("half", half), ("auto", [[point for _, point in each] for each in auto])):
        bpp, psnr = np.mean([each[k] for each in points], axis=0)
        cells |= {f"{name}: bpp": f"{bpp:.4f}", f"{name}: PSNR, dB": f"{psnr:.2f}"}
    return cells | {"auto reduced": f"{sum(each[k][0] for each in auto)} of {len(auto)}"}


def crossing(full: Sequence[Point], half: Sequence[Point]) -> float | None:
    """The rate at which the curve at full size overtakes the other, straight over log rate; None if nowhere."""
    low = max(full[0][0], half[0][0])
    high = min(full[-1][0], half[-1][0])
    rates = np.geomspace(low, max(high, low * 1.0001), 200)
    ahead = np.array([_at(half, rate) > _at(full, rate) for rate in rates])
    return float(rates[np.flatnonzero(ahead)[-1]]) if ahead.any() else None


def _at(points: Sequence[Point], bpp: float) -> float:
    rates, values = zip(*sorted(points), strict=True)
    return float(np.interp(np.log(bpp), np.log(rates), values))


def _full(codec: Hyperprior, picture: Picture, quality: float) -> Point:
    symbols, _ = codec.at(Rate(quality=quality)).at_full_size(picture)
    payload = codec.entropy_encode(symbols)
    return _point(len(payload), picture.rgb, codec.decode(payload))


def _half(codec: Hyperprior, picture: Picture, quality: float) -> Point:
    how = codec.reducing
    assert how is not None
    small = how.reduce(picture)
    note = Reduced(how.scale, how.superres, picture.rgb.shape[1], picture.rgb.shape[0])
    symbols, x_hat = codec.networks.analyse(small.rgb, round(100 * quality), False, codec.effort)
    symbols = replace(symbols, reduced=note)
    return _point(len(codec.entropy_encode(symbols)), picture.rgb, reduced.restored(codec, symbols, note, x_hat))


def _auto(codec: Hyperprior, picture: Picture, quality: float) -> tuple[bool, Point]:
    chosen = codec.at(Rate(quality=quality))
    payload = chosen.encode(picture).payload
    decoded = chosen.decode(payload)
    return chosen.entropy_decode(payload).reduced is not None, _point(len(payload), picture.rgb, decoded)


def _point(payload_bytes: int, true: np.ndarray, x_hat: np.ndarray) -> Point:
    return 8 * payload_bytes / (true.shape[0] * true.shape[1]), psnr_db(mse(true, x_hat))
