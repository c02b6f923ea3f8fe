"""Export: trained weights become a frozen model file, its tables fitted to what the model really emits.

The conditional distribution of symbols is only roughly logistic. As tables are plain integers, they cost nothing to
fit: the histogram of symbols under each scale index, on training photos, smoothed towards the logistic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from pipeline.codecs.learned import weights
from pipeline.codecs.learned.networks import Networks
from pipeline.codecs.learned.symbols import Grid, y_base, z_indexes
from pipeline.codecs.learned.weights import FrozenModel
from pipeline.entropy.tables import FrequencyTables, logistic_pmf
from pipeline.entropy.tables import freeze as freeze_tables
from pipeline.errors import TrainingError
from pipeline.nn import integer
from pipeline.nn.freeze import freeze
from pipeline.nn.hyperprior import MeanScaleHyperprior
from pipeline.nn.spec import HyperpriorSpec

SKIP_BELOW = 2
# Weight of the logistic against the histogram, in symbols: enough to smooth tails, too little to matter elsewhere.
PRIOR_SYMBOLS = 300.0
MEAN_TOLERANCE, SCALE_TOLERANCE = 0.02, 0.02


def reach_of(sigma: float) -> int:
    """Largest value a table holds; what lies beyond is escaped, about one symbol in a million."""
    return min(max(2, math.ceil(8 * sigma) + 1), 1024)


def export(
    spec: HyperpriorSpec, state: dict[str, torch.Tensor], photos: Sequence[np.ndarray], card: dict[str, Any]
) -> bytes:
    """The bytes of the model file of `state` (EMA weights); `photos` (H, W, 3) uint8 fit the tables.

    Raises:
        TrainingError: the integer hyper-decoder strays from the float one by more than 2 % of a sigma in its means
            or 2 % of an octave in its scales, on average.
    """
    model = MeanScaleHyperprior(spec)
    model.load_state_dict(state)
    arrays = freeze(model)
    logistic = freeze_tables([logistic_pmf(s, reach_of(s)) for s in _sigmas()])
    meta = {"spec": spec.to_json(), "skip_below": 0, "card": card}
    first = weights.parse(weights.serialise(arrays | _table_arrays(logistic), meta))
    _require_agreement(model, first)
    fitted = freeze_tables(_fit(_histograms(first, photos)))
    return weights.serialise(arrays | _table_arrays(fitted), meta | {"skip_below": SKIP_BELOW})


def _sigmas() -> list[float]:
    return [integer.sigma_of_index(i) for i in range(integer.INDEX_COUNT)]


def _table_arrays(tables: FrequencyTables) -> dict[str, np.ndarray]:
    return {"tables.frequencies": tables.frequencies.astype(np.int32), "tables.reaches": tables.reaches}


def _histograms(model: FrozenModel, photos: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Counts of |symbol| 0 .. reach and beyond, per table, over photos at qualities spread over the range."""
    counts = [np.zeros(reach_of(s) + 2) for s in _sigmas()]
    networks = Networks(replace(model, skip_below=0), "cpu")
    for k, photo in enumerate(photos):
        centi = int((k * 0.6180339887 % 1) * integer.QUALITY_UNITS)
        found, _ = networks.analyse(photo, centi, gray=False, effort=1)
        grid = Grid.of(*photo.shape[:2])
        _count(counts, found.z.ravel(), z_indexes(model, centi, grid))
        for band in grid.bands():
            offset, _ = band.hyper(model.h_s, found.z.astype(np.float64))
            index = integer.index_of(integer.fixed_log2_sigma(y_base(model, centi), offset)).astype(np.uint8)
            _count(counts, found.y[:, band.rows].ravel(), index.ravel())
    return counts


def _count(counts: list[np.ndarray], symbols: np.ndarray, indexes: np.ndarray) -> None:
    magnitudes = np.abs(symbols.astype(np.int64))
    for index in np.unique(indexes):
        found = np.minimum(magnitudes[indexes == index], len(counts[index]) - 1)
        counts[index] += np.bincount(found, minlength=len(counts[index]))


def _fit(histograms: list[np.ndarray]) -> list[np.ndarray]:
    """Symmetric pmfs: histogram plus `PRIOR_SYMBOLS` logistic symbols."""
    pmfs = []
    for sigma, counts in zip(_sigmas(), histograms, strict=True):
        reach = reach_of(sigma)
        prior = logistic_pmf(sigma, reach) * PRIOR_SYMBOLS
        half = counts[1:-1] / 2
        pmfs.append(prior + np.concatenate([half[::-1], counts[:1], half, [counts[-1] + 0.01]]))
    return pmfs


@torch.no_grad()
def _require_agreement(model: MeanScaleHyperprior, frozen: FrozenModel) -> None:
    """Compare float and integer h_s on random hyper-latents of a plausible size."""
    z = np.random.default_rng(0).normal(0, 2, (frozen.spec["hyper"], 8, 8)).round()
    offset, mean = model.h_s(torch.from_numpy(z).float()[None])
    exact_offset, exact_mean = frozen.h_s(z)
    off_scale = np.abs(exact_offset / (integer.INDEX_STEPS_PER_OCTAVE << integer.SCALE_BITS) - offset[0].numpy()).mean()
    off_mean = np.abs(exact_mean / (1 << integer.ACTIVATION_BITS) - mean[0].numpy()).mean()
    if off_scale > SCALE_TOLERANCE or off_mean > MEAN_TOLERANCE:
        raise TrainingError(
            f"export: the integer hyper-decoder is off by {off_mean:.4f} sigma in means and {off_scale:.4f} octaves in "
            f"scales; at most {MEAN_TOLERANCE} and {SCALE_TOLERANCE} are allowed; the weights are too large, train on"
        )
