"""Comparing curves: BD-rate with bootstrap intervals over images, and sizes at equal quality.

The interval answers "what if the data set had been another draw of such images": images are drawn with replacement,
the same draw for both curves, averages and BD-rate computed anew, and the middle 95 % of the outcomes reported.
Efron, "Bootstrap Methods: Another Look at the Jackknife", Annals of Statistics 1979.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.errors import MetricError
from pipeline.metrics.bd import RDCurve, bd_rate
from pipeline.report.measured import Curve, Measured

DRAWS, DRAWS_OF_MANY, MANY = 1000, 200, 20_000
LOW_PCT, HIGH_PCT = 2.5, 97.5


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number and its 95 % interval, which is None for a single image."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class AtQuality:
    """What a curve stores when every image must have at least `psnr_db`.

    Per image the size is interpolated between the settings around it (log bytes over PSNR); an image that no setting
    brings there, or whose payload is not smaller, stays as it is. `stored_bytes` is (images,).
    """

    psnr_db: float
    stored_bytes: np.ndarray
    source_bytes: np.ndarray
    kept: int

    @property
    def saved_pct(self) -> float:
        return 100 * (1 - float(self.stored_bytes.sum()) / float(self.source_bytes.sum()))

    @property
    def saved_bytes(self) -> float:
        return float(self.source_bytes.sum() - self.stored_bytes.sum())

    @property
    def per_image_pct(self) -> np.ndarray:
        return 100 * (1 - self.stored_bytes / self.source_bytes)


def bd_rate_with_interval(found: Measured, anchor: Curve, test: Curve, seed: int = 0) -> Estimate | str:
    """BD-rate of `test` against `anchor` in percent over PSNR, or the reason why there is none."""
    images = np.flatnonzero(found.complete)
    columns = np.concatenate([anchor.bpp, anchor.psnr_db, test.bpp, test.psnr_db], axis=1)[images]
    cuts = np.cumsum([anchor.bpp.shape[1], anchor.psnr_db.shape[1], test.bpp.shape[1]])
    try:
        value = _bd(columns.mean(axis=0), cuts, anchor.name, test.name)
    except MetricError as error:
        return str(error)
    if len(images) < 2:
        return Estimate(value)
    outcomes = []
    for average in _redrawn_means(columns, seed):
        try:
            outcomes.append(_bd(average, cuts, anchor.name, test.name))
        except MetricError:
            continue  # a draw whose curves do not overlap says nothing about their distance
    low, high = np.percentile(outcomes, [LOW_PCT, HIGH_PCT]) if outcomes else (value, value)
    return Estimate(value, float(low), float(high))


def _bd(average: np.ndarray, cuts: np.ndarray, anchor: str, test: str) -> float:
    anchor_bpp, anchor_db, test_bpp, test_db = np.split(average, cuts)
    return bd_rate(_rd(anchor_bpp, anchor_db, anchor), _rd(test_bpp, test_db, test))


def _rd(bpp: np.ndarray, psnr_db: np.ndarray, name: str) -> RDCurve:
    """Settings with an exact picture among them have no finite PSNR and are left out."""
    finite = np.isfinite(psnr_db)
    return RDCurve(bpp[finite].tolist(), psnr_db[finite].tolist(), name)


def _redrawn_means(values: np.ndarray, seed: int) -> Iterator[np.ndarray]:
    """Means over images drawn with replacement; `values` is (images, columns)."""
    images = len(values)
    generator = np.random.default_rng(seed)
    for _ in range(DRAWS if images <= MANY else DRAWS_OF_MANY):
        counts = np.bincount(generator.integers(0, images, images), minlength=images)
        drawn = counts > 0
        yield counts[drawn] @ values[drawn] / images


def at_quality(found: Measured, curve: Curve, psnr_db: float) -> AtQuality:
    """What `curve` stores of the complete images at `psnr_db` or better."""
    images = np.flatnonzero(found.complete)
    source = found.source_bytes[images]
    needed = np.array(
        [_size_at(curve.psnr_db[i], curve.payload_bytes[i], psnr_db) for i in images], dtype=np.float64
    ).reshape(len(images))
    smaller = needed < source  # False for NaN
    return AtQuality(psnr_db, np.where(smaller, needed, source), source, int((~smaller).sum()))


def _size_at(psnr_db: np.ndarray, size: np.ndarray, wanted_db: float) -> float:
    """Bytes at `wanted_db` or more: interpolated, the smallest setting when all are better, NaN when none is."""
    made = np.isfinite(size) & ~np.isnan(psnr_db)
    enough = made & (psnr_db >= wanted_db)
    if not enough.any():
        return float("nan")
    above = int(np.flatnonzero(enough)[np.argmin(size[enough])])
    below = made & (psnr_db < wanted_db) & (size < size[above])
    if not below.any() or np.isinf(psnr_db[above]):
        return float(size[above])
    under = int(np.flatnonzero(below)[np.argmax(psnr_db[below])])
    share = (wanted_db - psnr_db[under]) / (psnr_db[above] - psnr_db[under])
    return float(np.exp(np.log(size[under]) + share * (np.log(size[above]) - np.log(size[under]))))


def saved_with_interval(at: AtQuality, seed: int = 0) -> Estimate:
    """Saved share of all source bytes in percent."""
    pairs = np.stack([at.stored_bytes, at.source_bytes], axis=1)
    if len(pairs) < 2:
        return Estimate(at.saved_pct)
    outcomes = [100 * (1 - mean[0] / mean[1]) for mean in _redrawn_means(pairs, seed)]
    low, high = np.percentile(outcomes, [LOW_PCT, HIGH_PCT])
    return Estimate(at.saved_pct, float(low), float(high))


def mean_with_interval(values: np.ndarray, seed: int = 0) -> Estimate:
    """Mean of one value per image."""
    if len(values) < 2:
        return Estimate(float(values.mean()))
    outcomes = [mean[0] for mean in _redrawn_means(values[:, None], seed)]
    low, high = np.percentile(outcomes, [LOW_PCT, HIGH_PCT])
    return Estimate(float(values.mean()), float(low), float(high))


def mpx_per_s(found: Measured, milliseconds: np.ndarray) -> float:
    """Megapixels a second of one process over all settings; `milliseconds` is (images, settings)."""
    made = np.isfinite(milliseconds)
    pixels = np.broadcast_to(found.pixels[:, None], milliseconds.shape)[made].sum()
    total_ms = milliseconds[made].sum()
    return float(pixels / 1e3 / total_ms) if total_ms else float("nan")


def worst(values: np.ndarray, images: np.ndarray, count: int) -> list[int]:
    """Indexes of the smallest finite `values` among `images` (a mask)."""
    usable = np.flatnonzero(images & np.isfinite(values))
    return [int(i) for i in usable[np.argsort(values[usable], kind="stable")][:count]]
