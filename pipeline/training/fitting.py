"""Tables fitted to what a model emits: histograms of symbols under each scale index, smoothed towards the logistic."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from pipeline.entropy.tables import FrequencyTables, logistic_pmf
from pipeline.nn import integer
from pipeline.nn.layers import centroid_shift

# Weight of the logistic against the histogram, in symbols: enough to smooth tails, too little to matter elsewhere.
PRIOR_SYMBOLS = 300.0


def reach_of(sigma: float) -> int:
    """Largest value a table holds; what lies beyond is escaped, about one symbol in a million."""
    return min(max(2, math.ceil(8 * sigma) + 1), 1024)


def sigmas() -> list[float]:
    """The standard deviation each table stands for."""
    return [integer.sigma_of_index(i) for i in range(integer.INDEX_COUNT)]


def table_arrays(tables: FrequencyTables) -> dict[str, np.ndarray]:
    """Tables as they stand in a weights file."""
    return {"tables.frequencies": tables.frequencies.astype(np.int32), "tables.reaches": tables.reaches}


def shifts() -> np.ndarray:
    """How far towards zero symbols are reconstructed under each table: as in training, `layers.centroid_shift`."""
    found: np.ndarray = centroid_shift(torch.tensor(sigmas(), dtype=torch.float64)).float().numpy()
    return found


def spread(photos: Sequence[np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
    """Each photo with a quality in hundredths; these are spread evenly over the range, however many there are."""
    for k, photo in enumerate(photos):
        yield int((k * 0.6180339887 % 1) * integer.QUALITY_UNITS), photo


def count(counts: list[np.ndarray], symbols: np.ndarray, indexes: np.ndarray) -> None:
    """Add |symbols| to the histograms of their tables."""
    magnitudes = np.abs(symbols.astype(np.int64))
    for index in np.unique(indexes):
        found = np.minimum(magnitudes[indexes == index], len(counts[index]) - 1)
        counts[index] += np.bincount(found, minlength=len(counts[index]))


def fit(histograms: list[np.ndarray], step: float = 1.0, offset: float = 0.0) -> list[np.ndarray]:
    """Symmetric pmfs: histogram plus `PRIOR_SYMBOLS` logistic symbols of a quantiser as `logistic_pmf` knows it."""
    pmfs = []
    for sigma, counts in zip(sigmas(), histograms, strict=True):
        reach = reach_of(sigma)
        prior = logistic_pmf(sigma, reach, step, offset) * PRIOR_SYMBOLS
        half = counts[1:-1] / 2
        pmfs.append(prior + np.concatenate([half[::-1], counts[:1], half, [counts[-1] + 0.01]]))
    return pmfs
