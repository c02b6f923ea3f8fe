"""Rate-distortion points: every codec at every quality on every picture, from the bytes that would be stored.

The unit of work is one picture: it is decoded once and coded by all codecs, so that workers share nothing. What is
measured is decoded from the payload, never taken from inside an encoder.
"""

from __future__ import annotations

import functools
import json
import math
import multiprocessing
import statistics
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.codecs import registry
from pipeline.codecs.base import Codec
from pipeline.imaging.decode import decode
from pipeline.metrics.bd import ms_ssim_db
from pipeline.metrics.distortion import measure
from pipeline.metrics.rate import bpp
from pipeline.records import Picture, Rate

QUALITIES: dict[str, tuple[float, ...]] = {
    "cnn": (5, 15, 25, 35, 50, 60, 70, 85, 95),
    "jpeg": (5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95),
    "webp": (1, 10, 20, 30, 40, 50, 60, 70, 80, 90, 96),
    "avif": (10, 20, 30, 40, 50, 60, 70, 80, 88, 94),
    "jxl": (5, 15, 25, 35, 45, 55, 65, 75, 85, 92, 96),
}


@dataclass(frozen=True)
class Setting:
    """A codec with its options as JSON text (it travels to workers), at one quality. `label` names its curve."""

    label: str
    spec: str
    quality: float


@dataclass(frozen=True)
class Row:
    """One picture through one setting."""

    label: str
    quality: float
    image: str
    width_px: int
    height_px: int
    payload_bytes: int
    bpp: float
    psnr_db: float
    ms_ssim: float


@dataclass(frozen=True)
class Point:
    """Means over pictures, each picture counting the same; `ms_ssim_db` is of the mean MS-SSIM."""

    quality: float
    bpp: float
    psnr_db: float
    ms_ssim: float
    ms_ssim_db: float


def settings_of(
    codec: str,
    efforts: Sequence[int] = (),
    count: int | None = None,
    device: str = "cpu",
    tunes: Sequence[str] = ("psnr",),
) -> list[Setting]:
    """Settings over the range of a codec; `cnn` has a curve for each effort and tuning. `count` thins qualities out."""
    spec: dict[str, Any] = {"name": codec}
    learned = {
        _label(effort, tune): spec | {"effort": effort, "device": device, "tune": tune}
        for tune in tunes
        for effort in efforts
    }
    variants = learned if codec == "cnn" else {codec: spec}
    qualities = _thinned(QUALITIES[codec], count)
    return [Setting(label, json.dumps(spec), q) for label, spec in variants.items() for q in qualities]


def _label(effort: int, tune: str) -> str:
    return f"cnn effort {effort}" + (f" tune {tune}" if tune != "psnr" else "")


def picture_at(path: Path) -> Picture:
    return decode(path.read_bytes())


def codec_at(setting: Setting) -> Codec:
    """The codec of a setting; the networks of a learned one are loaded once a process."""
    base, rate = _base(setting.spec), Rate(quality=setting.quality)
    return base.at(rate) if hasattr(base, "at") else replace(base, rate=rate)


def measure_all(images: Sequence[Path], settings: Sequence[Setting], workers: int = 1) -> Iterator[list[Row]]:
    """The rows of one picture after the other, in order."""
    job = functools.partial(measure_image, settings=tuple(settings))
    if workers == 1:
        yield from map(job, images)
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(job, images)


def measure_image(path: Path, settings: Iterable[Setting]) -> list[Row]:
    picture = picture_at(path)
    return [_row(path.name, picture, setting) for setting in settings]


def curves(rows: Iterable[Row]) -> dict[str, list[Point]]:
    """Label -> points by rate."""
    grouped: dict[tuple[str, float], list[Row]] = {}
    for row in rows:
        grouped.setdefault((row.label, row.quality), []).append(row)
    found: dict[str, list[Point]] = {}
    for (label, quality), same in grouped.items():
        found.setdefault(label, []).append(_mean(quality, same))
    return {label: sorted(points, key=lambda point: point.bpp) for label, points in found.items()}


def published(path: Path) -> tuple[str, list[Point]]:
    """Name and points of a curve that others have measured: {"name", "bpp", "psnr_db", "ms_ssim"} as JSON."""
    data = json.loads(path.read_text())
    columns = zip(data["bpp"], data["psnr_db"], data["ms_ssim"], strict=True)
    return data["name"], [Point(math.nan, rate, psnr, ssim, ms_ssim_db(ssim)) for rate, psnr, ssim in columns]


def as_json(point: Point | Row) -> dict[str, Any]:
    """A plain dict; infinite and missing numbers, which JSON lacks, are null."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(point).items()}


@functools.cache
def _base(spec: str) -> Any:
    return registry.from_spec(json.loads(spec))


def _row(name: str, picture: Picture, setting: Setting) -> Row:
    codec, (width, height) = codec_at(setting), (picture.width_px, picture.height_px)
    payload = codec.encode(picture, b"").payload
    found = measure(picture.rgb, codec.decode(payload))
    rate = bpp(len(payload), width, height)
    return Row(
        setting.label, setting.quality, name, width, height, len(payload), rate, found.psnr_db, found.ms_ssim or 0.0
    )


def _mean(quality: float, rows: Sequence[Row]) -> Point:
    similarity = statistics.fmean(row.ms_ssim for row in rows)
    rate, psnr_db = statistics.fmean(row.bpp for row in rows), statistics.fmean(row.psnr_db for row in rows)
    return Point(quality, rate, psnr_db, similarity, ms_ssim_db(similarity))


def _thinned(qualities: tuple[float, ...], count: int | None) -> list[float]:
    """At most `count` of them, first and last included."""
    if count is None or count >= len(qualities):
        return list(qualities)
    last = len(qualities) - 1
    return [qualities[round(k * last / (count - 1))] for k in range(count)]
