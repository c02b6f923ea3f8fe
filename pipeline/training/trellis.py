"""Tables for trellis-coded latents, fitted to what the encoder's default effort sends of training photos.

Which symbols are cheapest depends on the tables, so both are found in turns, from those of a logistic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from pipeline.codecs.learned.hyperprior import DEFAULT_EFFORT
from pipeline.codecs.learned.networks import Networks
from pipeline.codecs.learned.trellis import TrellisQuantiser
from pipeline.codecs.learned.weights import FrozenModel
from pipeline.codecs.learned.weights_checks import Trellis
from pipeline.entropy.order import tables_of
from pipeline.entropy.tables import FrequencyTables, freeze
from pipeline.nn.integer import INDEX_COUNT
from pipeline.training.fitting import count, fit, reach_of, sigmas, spread

STEP = 1.15
"""Of each quantiser: 1.1 and 1.2 cost the same, 1.3 up to 1 % more (LOG.md)."""
TURNS = 2
PRIOR_SHIFTS = 30.0
"""Weight of a shift of zero, in symbols."""


def fit_trellis(model: FrozenModel, photos: Sequence[np.ndarray]) -> Trellis:
    """Tables and centroids of both quantisers for `photos`, (H, W, 3) uint8."""
    empty = [np.zeros(reach_of(sigma) + 2) for sigma in 2 * sigmas()]
    trellis = Trellis(_tables(empty), np.zeros(2 * INDEX_COUNT, np.float32), STEP)
    for _ in range(TURNS):
        networks = Networks(replace(model, trellis=trellis), "cpu")
        networks.trellis = seen = _Watched(model, trellis, networks.device)
        for centi, photo in spread(photos):
            networks.symbols_of(photo, centi, gray=False, effort=DEFAULT_EFFORT)
        trellis = Trellis(_tables(seen.counts), seen.centroid_shifts(), STEP)
    return trellis


def trellis_arrays(trellis: Trellis) -> dict[str, np.ndarray]:
    """A trellis as it stands in a weights file."""
    return {
        "trellis.frequencies": trellis.tables.frequencies.astype(np.int32),
        "trellis.reaches": trellis.tables.reaches,
        "trellis.shifts": trellis.shifts,
        "trellis.step": np.array([trellis.step], np.float32),
    }


def _tables(counts: list[np.ndarray]) -> FrequencyTables:
    first, second = counts[:INDEX_COUNT], counts[INDEX_COUNT:]
    return freeze(fit(first, STEP) + fit(second, STEP, 0.5))


class _Watched(TrellisQuantiser):
    """Counts what it sends, and how far from its points the targets were."""

    def __init__(self, model: FrozenModel, trellis: Trellis, device: torch.device) -> None:
        super().__init__(model, trellis, device)
        self.counts = [np.zeros(reach_of(sigma) + 2) for sigma in 2 * sigmas()]
        self.missed, self.sent = np.zeros((2, 2 * INDEX_COUNT))

    def cheapest(self, residual: Tensor, index: Tensor, error_bits: Tensor) -> tuple[Tensor, Tensor]:
        symbols, values = super().cheapest(residual, index, error_bits)
        scales, sent = index.numpy(), symbols.numpy()
        tables, coded = tables_of(scales, self.skip_below, INDEX_COUNT, sent, self.states), scales >= self.skip_below
        count(self.counts, sent[coded], tables[coded])
        some, table = sent != 0, tables[sent != 0]
        missed = (values.abs() - residual.abs()).numpy()[some] + self.shifts[table]
        self.sent += np.bincount(table, minlength=2 * INDEX_COUNT)
        self.missed += np.bincount(table, missed, minlength=2 * INDEX_COUNT)
        return symbols, values

    def centroid_shifts(self) -> np.ndarray:
        """How far towards zero of its points each table's symbols were wanted, (2 * indexes,) float32."""
        return (self.missed / (self.sent + PRIOR_SHIFTS)).clip(-1, 1).astype(np.float32)
