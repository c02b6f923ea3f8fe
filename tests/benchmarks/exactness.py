"""Whether two devices agree: what one writes the other reads, down to the last symbol, scale index and pixel.

Pixels of models that decode in floats need not be equal, only close: sums of float32 have no order of their own.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.codecs.base import Symbols
from pipeline.codecs.learned.hyperprior import Hyperprior
from pipeline.codecs.learned.networks import Networks
from pipeline.codecs.learned.symbols import Grid
from pipeline.errors import BitstreamError
from pipeline.metrics.distortion import mse, psnr_db
from pipeline.records import Picture, Rate

QUALITIES = (10.0, 58.0, 90.0)
SETTINGS = ((0, "psnr"), (1, "psnr"), (3, "psnr"), (1, "ms-ssim"))
"""Efforts and tunings."""
NOISE = "noise"


@dataclass(frozen=True)
class Check:
    """One picture, made on one device and read on the other; PSNR is that of the CPU's decoder.

    `levels` is the largest difference of a sample between what both decode, `off` the share of samples that differ.
    `wrong` says what is not as it must be.
    """

    name: str
    quality: float
    effort: str
    made_on: str
    payload_bytes: int
    psnr_db: float
    levels: int
    off: float
    repeated: bool
    wrong: tuple[str, ...]


def at(codec: Hyperprior, quality: float, effort: int, tune: str = "psnr") -> Hyperprior:
    """The same networks at another quality, effort and tuning."""
    other = codec.at(Rate(quality=quality))
    other.effort, other.tune = effort, tune
    return other


def check(name: str, rgb: np.ndarray, maker: Hyperprior, reader: Hyperprior) -> Check:
    quality = maker.rate.quality or 0.0
    made = maker.networks.symbols_of(rgb, round(100 * quality), False, maker.effort, maker.strength)
    payload = maker.entropy_encode(made)
    effort = f"{maker.effort}, {maker.tune}" if maker.strength else str(maker.effort)
    where = f"{name} at quality {quality:g}, effort {effort}, made on {maker.device} and read on {reader.device}"
    try:
        read = reader.entropy_decode(payload)
    except BitstreamError as error:  # one wrong scale index, and what follows is no payload any more
        broken = (f"{where}: {error}",)
        return Check(name, quality, effort, maker.device, len(payload), math.nan, 0, math.nan, False, broken)
    cpu, gpu = (maker, reader) if maker.device == "cpu" else (reader, maker)
    expected, decoded = cpu.decode(payload), gpu.decode(payload)
    apart = _levels(expected, decoded)
    wrong = list(differences(made, read, maker.networks, reader.networks))
    if maker.networks.synthesis.exact and apart.any():
        wrong.append(f"{np.count_nonzero(apart)} of {apart.size} samples differ, by up to {apart.max()} levels")
    return Check(
        name,
        quality,
        effort,
        maker.device,
        len(payload),
        psnr_db(mse(rgb, expected)),
        int(apart.max()),
        float((apart > 0).mean()),
        maker.encode(Picture(rgb)).payload == payload,
        tuple(f"{where}: {found}" for found in wrong),
    )


def _levels(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.abs(left.astype(np.int16) - right)


def differences(made: Symbols, read: Symbols, maker: Networks, reader: Networks) -> Iterator[str]:
    """What differs between the symbols meant and those read, and between the tables that two devices derive."""
    for what, left, right in (("y", made.y, read.y), ("z", made.z, read.z)):
        if count := int((left != right).sum()):
            yield f"{count} of {left.size} symbols of {what} differ"
    if made.trellis != read.trellis:
        yield f"one is coded along a trellis of {made.trellis} states, the other of {read.trellis}"
    if count := int((tables(maker, made) != tables(reader, made)).sum()):
        yield f"{count} of {made.y.size} scale indexes differ"


def tables(networks: Networks, symbols: Symbols) -> np.ndarray:
    """The scale indexes that h_s says on the device of `networks`, (M, h, w) uint8."""
    index = np.empty(symbols.y.shape, np.uint8)
    z = torch.from_numpy(symbols.z.astype(np.float64)).to(networks.device)
    grid = Grid.of(symbols.height_px, symbols.width_px)
    for _ in networks._bands(grid, symbols.quality_centi, z, symbols.adaptive, index):
        pass
    return index


def check_rows(found: Sequence[Check]) -> Iterator[dict[str, object]]:
    groups: dict[tuple[bool, float, str, str], list[Check]] = {}
    for one in found:
        groups.setdefault((one.name == NOISE, one.quality, one.effort, one.made_on), []).append(one)
    for (noise, quality, effort, made_on), group in groups.items():
        n = len(group)
        yield {
            "pictures": NOISE if noise else "images",
            "quality": f"{quality:g}",
            "effort": effort,
            "made on": made_on,
            "bytes": sum(one.payload_bytes for one in group),
            "PSNR": f"{sum(one.psnr_db for one in group) / n:.3f} dB",
            "read exactly": f"{sum(not one.wrong for one in group)} of {n}",
            "same bytes again": f"{sum(one.repeated for one in group)} of {n}",
            "levels apart": max(one.levels for one in group),
            "samples that differ": f"{100 * sum(one.off for one in group) / n:.3f} %",
        }


def noise() -> np.ndarray:
    """Black and white at random, where networks amplify the smallest difference and symbols are large."""
    values = np.random.default_rng(0).integers(0, 2, (128, 192, 1), dtype=np.uint8)
    return (255 * values).repeat(3, axis=2)


def checked(pictures: Mapping[str, np.ndarray], codecs: Sequence[Hyperprior], until_s: float) -> list[Check]:
    """Every picture and noise at every quality and of SETTINGS, made by either; fewer when the time is over."""
    pictures = {NOISE: noise(), **pictures}
    cases = [(name, q, *s, k) for name in pictures for q in QUALITIES for s in SETTINGS for k in (0, 1)]
    found = []
    for name, quality, effort, tune, k in cases:
        if time.monotonic() < until_s:
            maker, reader = (at(codec, quality, effort, tune) for codec in (codecs[k], codecs[1 - k]))
            found.append(check(name, pictures[name], maker, reader))
    print(f"{len(found)} of {len(cases)} checks were made.\n")
    return found
