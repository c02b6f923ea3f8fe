"""Export: trained weights become a frozen model file, its tables fitted to what the model really emits.

The conditional distribution of symbols is only roughly logistic. As tables are plain integers, they cost nothing to
fit: the histogram of symbols under each scale index, on training photos, smoothed towards the logistic.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.codecs.learned import weights
from pipeline.codecs.learned.dequantise import y_base
from pipeline.codecs.learned.hyper_latents import static_tables
from pipeline.codecs.learned.networks import Networks
from pipeline.codecs.learned.symbols import Grid
from pipeline.codecs.learned.weights import FrozenModel
from pipeline.entropy.tables import freeze as freeze_tables
from pipeline.entropy.tables import logistic_pmf
from pipeline.errors import TrainingError
from pipeline.nn import integer, models
from pipeline.nn.hyperprior import MeanScaleHyperprior
from pipeline.nn.spec import ModelSpec
from pipeline.nn.static import StaticCompressor
from pipeline.nn.superres import SuperResolver
from pipeline.training import static_export
from pipeline.training.data import Crops
from pipeline.training.fitting import count, fit, reach_of, shifts, sigmas, spread, table_arrays
from pipeline.training.quantised import parted
from pipeline.training.trellis import fit_trellis, trellis_arrays

SKIP_BELOW = 6
"""One in a thousand of these would not be zero: leaving all out costs less than saying so (LOG.md)."""
MEAN_TOLERANCE, SCALE_TOLERANCE = 0.02, 0.02


def export(
    spec: ModelSpec,
    state: dict[str, Tensor],
    photos: Sequence[np.ndarray],
    card: dict[str, Any],
    decoder: Mapping[str, np.ndarray] | None = None,
) -> bytes:
    """The bytes of the model file of `state` (EMA weights); `photos` (H, W, 3) uint8 fit the tables.

    `decoder` are the arrays of g_s in integers, as `polish` gives them; without, pictures are decoded in floats.

    Raises:
        TrainingError: what the integers and stored weights give strays from what the float model gives; the bounds
            are in `_require_agreement` here and in `static_export`.
    """
    model = models.build(spec)
    model.load_state_dict(parted(state)[0])
    model.eval()
    if isinstance(model, SuperResolver):
        return weights.serialise(models.frozen(model), {"kind": spec.kind, "spec": spec.to_json(), "card": card})
    if isinstance(model, StaticCompressor):
        return static_export.export(model, photos, card)
    if not model.calibrated:
        model.calibrate(Crops(photos, 0).batch)
    arrays = models.frozen(model) | {"tables.shifts": shifts()} | dict(decoder or {})
    logistic = freeze_tables([logistic_pmf(s, reach_of(s)) for s in sigmas()])
    meta = {"spec": spec.to_json(), "skip_below": 0, "card": card, "refinement": {"worth": 1.0}}
    first = weights.parse(weights.serialise(arrays | table_arrays(logistic), meta))
    _require_agreement(model, first)
    arrays |= table_arrays(freeze_tables(fit(_histograms(first, photos))))
    meta |= {"skip_below": SKIP_BELOW}
    trellis = fit_trellis(weights.parse(weights.serialise(arrays, meta)), photos)
    return weights.serialise(arrays | trellis_arrays(trellis), meta)


def _histograms(model: FrozenModel, photos: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Counts of |symbol| 0 .. reach and beyond, per table, over rounded latents of photos."""
    counts = [np.zeros(reach_of(s) + 2) for s in sigmas()]
    networks = Networks(replace(model, skip_below=0), "cpu")
    for centi, photo in spread(photos):
        found = networks.symbols_of(photo, centi, gray=False, effort=0)
        grid = Grid.of(*photo.shape[:2])
        count(counts, found.z.ravel(), static_tables(model, centi, found.z.shape))
        for band in grid.bands():
            offset, _ = band.hyper(model.h_s, found.z.astype(np.float64))
            index = integer.index_of(integer.fixed_log2_sigma(y_base(model, centi), offset)).astype(np.uint8)
            count(counts, found.y[:, band.rows].ravel(), index.ravel())
    return counts


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


def written(folder: Path, data: bytes) -> Path:
    """The file of a model, FOLDER/<model id>.safetensors, now written."""
    path = folder / f"{hashlib.sha256(data).hexdigest()[:16]}.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path
