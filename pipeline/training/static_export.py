"""Export of models with static tables: tables and order of channels fitted, the result held against the float model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.codecs.learned import static_symbols, weights
from pipeline.codecs.learned.static_networks import StaticNetworks
from pipeline.codecs.learned.static_symbols import Side
from pipeline.codecs.learned.weights import FrozenModel
from pipeline.entropy.tables import FrequencyTables, logistic_pmf
from pipeline.entropy.tables import freeze as freeze_tables
from pipeline.errors import TrainingError
from pipeline.metrics.distortion import mse
from pipeline.nn import integer, static
from pipeline.nn.hyperprior import LOG2_SIGMA_MAX, LOG2_SIGMA_MIN
from pipeline.nn.static import StaticCompressor
from pipeline.training.fitting import count, fit, reach_of, sigmas, table_arrays

SKIP_BELOW = 2
IMPORTANCE_PX = 128
IMPORTANCE_PHOTOS = 4
SCALE_TOLERANCE, DISTORTION_TOLERANCE = 0.02, 0.05


def export(model: StaticCompressor, photos: Sequence[np.ndarray], card: dict[str, Any]) -> bytes:
    """The bytes of the model file; `photos` (H, W, 3) uint8 fit the tables and rank the channels.

    Raises:
        TrainingError: scales as integers are off by more than 2 % of an octave, or the frozen model's pictures have an
            MSE more than 5 % from the float model's.
    """
    meta: dict[str, Any] = {"kind": model.spec.kind, "spec": model.spec.to_json(), "card": card, "skip_below": 0}  # type: ignore[attr-defined]
    arrays = static.freeze(model) | {"channels.order": np.arange(model.spec.latent, dtype=np.int16)}
    crops = [_middle(photo) for photo in photos[:IMPORTANCE_PHOTOS]]
    uniform = model.spec.num_bits is not None
    tables = _uniform(model.spec.num_bits or 0) if uniform else _logistic()
    first = weights.parse(weights.serialise(arrays | table_arrays(tables), meta))
    require_agreement(model, first, crops)
    arrays["channels.order"] = _order(first, crops)
    if not uniform:
        ranked = weights.parse(weights.serialise(arrays | table_arrays(tables), meta))
        tables = freeze_tables(fit(_histograms(ranked, photos)))
        meta["skip_below"] = SKIP_BELOW
    return weights.serialise(arrays | table_arrays(tables), meta)


def _logistic() -> FrequencyTables:
    return freeze_tables([logistic_pmf(s, reach_of(s)) for s in sigmas()])


def _uniform(num_bits: int) -> FrequencyTables:
    """One table in which each of 2^num_bits codes costs num_bits."""
    return freeze_tables([np.ones(2**num_bits)])


def _histograms(model: FrozenModel, photos: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Counts of |symbol| 0 .. reach and beyond, per table, over photos at qualities spread over the range."""
    counts = [np.zeros(reach_of(s) + 2) for s in sigmas()]
    networks = StaticNetworks(model, "cpu")
    for k, photo in enumerate(photos):
        centi = int((k * 0.6180339887 % 1) * integer.QUALITY_UNITS)
        found = networks.symbols_of(photo, centi, gray=False, effort=1)
        index = static_symbols.table_indexes(model, centi, Side.of(found.z))
        count(counts, found.y.ravel(), np.repeat(index, found.y[0].size))
    return counts


def _order(model: FrozenModel, crops: Sequence[np.ndarray]) -> np.ndarray:
    """Channels, the one first whose loss costs the most squared error; measured, one channel at a time."""
    networks = StaticNetworks(model, "cpu")
    harm = np.zeros(model.spec["latent"])
    for crop in crops:
        symbols = networks.symbols_of(crop, 5_000, gray=False, effort=0)
        whole = mse(crop, networks.synthesise(symbols))
        for channel in np.flatnonzero(symbols.y.any(axis=(1, 2))):
            kept = symbols.y[channel].copy()
            symbols.y[channel] = 0
            harm[channel] += mse(crop, networks.synthesise(symbols)) - whole
            symbols.y[channel] = kept
    return np.argsort(-harm, kind="stable").astype(np.int16)


@torch.no_grad()
def require_agreement(model: StaticCompressor, frozen: FrozenModel, crops: Sequence[np.ndarray]) -> None:
    """Compare scales, and pictures, of the float and the frozen model.

    At the middle quality; uniform codes at the highest, where the frozen model, too, sends every channel.
    """
    base = model.log2_base.table.detach().double().cpu().numpy().clip(LOG2_SIGMA_MIN, LOG2_SIGMA_MAX)
    exact = (frozen.arrays["log2_base"] / static.LOG2_SIGMA_UNITS).clip(LOG2_SIGMA_MIN, LOG2_SIGMA_MAX)
    off_scale = float(np.abs(exact - base).max())
    networks, quality = StaticNetworks(frozen, "cpu"), 0.5 if model.spec.num_bits is None else 1.0
    centi = round(quality * integer.QUALITY_UNITS)
    pairs = [
        (_float_mse(model, crop, quality), mse(crop, networks.analyse(crop, centi, False, 0)[1])) for crop in crops
    ]
    ours, theirs = (float(np.mean(part)) for part in zip(*pairs, strict=True))
    # Rounding to 8 bits alone is worth an MSE of 1/12.
    off = abs(theirs - ours) / (ours + 1 / 12)
    if not off_scale <= SCALE_TOLERANCE or not off <= DISTORTION_TOLERANCE:
        raise TrainingError(
            f"export: scales as integers are off by {off_scale:.4f} octaves and the frozen model's MSE is {theirs:.3f} "
            f"where the float model's is {ours:.3f}; at most {SCALE_TOLERANCE} octaves and {DISTORTION_TOLERANCE:.0%} "
            "are allowed; weights are too large for 16 bits, train on"
        )


def _float_mse(model: StaticCompressor, crop: np.ndarray, quality: float) -> float:
    x: Tensor = torch.from_numpy(crop.copy()).permute(2, 0, 1)[None].float() / 255
    x_hat = model(x, torch.tensor([quality])).x_hat.clamp(0, 1)
    return float(((x_hat - x) * 255).square().mean())


def _middle(photo: np.ndarray) -> np.ndarray:
    """The middle of a photo, (128, 128, 3), mirrored out to it where it is smaller."""
    missing = [max(0, IMPORTANCE_PX - side) for side in photo.shape[:2]]
    photo = np.pad(photo, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="symmetric") if any(missing) else photo
    top, left = ((side - IMPORTANCE_PX) // 2 for side in photo.shape[:2])
    return np.ascontiguousarray(photo[top : top + IMPORTANCE_PX, left : left + IMPORTANCE_PX])
