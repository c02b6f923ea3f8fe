"""A context for z: networks that say of each hyper-latent what is to be expected from those around it.

z costs a tenth to a fifth of the bits at low rates, under one static table a channel. Here a trained model is given
what `nn.context` describes, fitted to z of crops as g_a and h_a give it. Nothing else of the model changes, but for
tables.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from pipeline.codecs.learned import hyper_latents, weights
from pipeline.codecs.learned.networks import Networks
from pipeline.codecs.learned.weights import FrozenModel
from pipeline.entropy.coder import SymbolEncoder
from pipeline.entropy.tables import FrequencyTables, freeze
from pipeline.errors import BitstreamError, TrainingError
from pipeline.nn import context, integer
from pipeline.nn.freeze import LOG2_SIGMA_UNITS, freeze_context
from pipeline.nn.hyper import HyperContext
from pipeline.nn.spec import HyperpriorSpec
from pipeline.training.data import Crops
from pipeline.training.fitting import reach_of
from pipeline.training.graphed import LOOK_STEPS
from pipeline.training.optimizer import share_of_peak
from pipeline.training.spec import AugmentSpec
from pipeline.training.trellis import fit_trellis, trellis_arrays

CROP_PX, WIDTH, BATCH, CLIP_NORM, WARMUP_STEPS, WEIGHT_DECAY = 576, 96, 24, 1.0, 50, 1e-4
DOWNSCALE = 0.5
HELD_PHOTO, HELD_CROPS = 16, 96
LEAST_CHANCE = 1e-7


def fit_context(
    data: bytes,
    photos: Sequence[np.ndarray],
    calibration: Sequence[np.ndarray],
    steps: int,
    crops: int,
    lr: float = 2e-3,
    seed: int = 0,
    log: Callable[[dict[str, float]], None] = lambda record: None,
) -> bytes:
    """The model file `data` with a context for z, fitted to `crops` crops of `photos`, (H, W, 3) uint8.

    Tables of y are fitted to what the encoder of today sends of `calibration`, photos as well. The card says what share
    of z's bits is saved of crops that are held out, of one photo in sixteen.

    Raises:
        BitstreamError: `data` is no model of this kind.
        TrainingError: the loss is no number.
    """
    frozen = weights.parse(data)
    if frozen.kind != HyperpriorSpec.kind:
        raise BitstreamError(f"a model of kind {frozen.kind}; expected {HyperpriorSpec.kind}")
    networks = Networks(frozen, "cpu")
    rest = [photo for k, photo in enumerate(photos) if k % HELD_PHOTO] or photos
    held = _hyper_latents(networks, photos[::HELD_PHOTO], min(HELD_CROPS, crops), seed, log)
    shown = _hyper_latents(networks, rest, crops, seed + 1, log)
    model = _learned(frozen, *shown, steps, lr, seed, log)
    tables = context_tables()
    arrays = {name: part for name, part in frozen.arrays.items() if not name.startswith("z_context.")}
    before = _bits(weights.parse(weights.serialise(arrays, weights.meta_of(data))), *held)
    arrays |= freeze_context(model) | {
        "z_context.frequencies": tables.frequencies.astype(np.int32),
        "z_context.reaches": tables.reaches,
    }
    meta = weights.meta_of(data)
    saved = round(1 - _bits(weights.parse(weights.serialise(arrays, meta)), *held) / before, 4)
    told = {"of": frozen.model_id, "steps": steps, "crops": crops, "seed": seed, "saved": saved}
    meta["card"] = meta["card"] | {"context": told}
    trellis = fit_trellis(weights.parse(weights.serialise(arrays, meta)), calibration)
    return weights.serialise(arrays | trellis_arrays(trellis), meta)


def context_tables() -> FrequencyTables:
    """Of logistics, for each scale and each distance of the mean above an integer, in eighths."""
    pmfs = []
    for scale in range(context.SCALES):
        sigma = integer.sigma_of_index(context.SCALE_STEPS * scale)
        reach = reach_of(sigma)
        for eighths in range(context.TABLES_A_SCALE):
            edges = (np.arange(-reach, reach + 2) - 0.5 - eighths / context.FRACTIONS) * math.pi / (sigma * 3**0.5)
            below = 1 / (1 + np.exp(-edges.clip(-500, 500)))
            pmfs.append(np.append(np.diff(below), max(1 - below[-1] + below[0], LEAST_CHANCE)))
    return freeze(pmfs)


def _hyper_latents(
    networks: Networks, photos: Sequence[np.ndarray], count: int, seed: int, log: Callable[[dict[str, float]], None]
) -> tuple[np.ndarray, np.ndarray]:
    """z (count, N, h, w) int16 of random crops, and their qualities (count,) in hundredths, spread over the range."""
    drawn, side = Crops(photos, seed, augment=AugmentSpec(downscale=DOWNSCALE)), CROP_PX // 64
    centis = (np.arange(count) * 0.6180339887 % 1 * integer.QUALITY_UNITS).astype(np.int64)
    z = np.empty((count, networks.spec.hyper, side, side), np.int16)
    for k, centi in enumerate(centis):
        rgb = np.ascontiguousarray(drawn.augmented(1, CROP_PX)[0].permute(1, 2, 0).numpy())
        z[k] = networks.hyper_latents(rgb, int(centi)).numpy()
        if (k + 1) % LOOK_STEPS == 0:
            log({"crops_analysed": k + 1, "of": count})
    return z, centis


def _learned(
    frozen: FrozenModel,
    z: np.ndarray,
    centis: np.ndarray,
    steps: int,
    lr: float,
    seed: int,
    log: Callable[[dict[str, float]], None],
) -> HyperContext:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = HyperContext(z.shape[1], WIDTH)
    base = np.stack([hyper_latents.log2_sigma(frozen, int(centi)) for centi in centis]) / LOG2_SIGMA_UNITS
    optimizer = torch.optim.AdamW(model.parameters(), lr, weight_decay=WEIGHT_DECAY)
    draw = np.random.default_rng(seed)
    for step in range(steps):
        at = draw.choice(len(z), min(BATCH, len(z)), replace=False)
        values, quality = torch.from_numpy(z[at]).float(), torch.from_numpy(centis[at] / integer.QUALITY_UNITS).float()
        offset, mean = model(values, quality)
        loss = _code_length(values, torch.from_numpy(base[at]).float()[..., None, None] + offset, mean).mean()
        optimizer.param_groups[0]["lr"] = lr * share_of_peak(step, WARMUP_STEPS, step / steps)
        optimizer.zero_grad()
        loss.backward()
        if not torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM).isfinite():
            raise TrainingError(f"context: the gradient of step {step + 1} is not finite; try another run.seed")
        optimizer.step()
        if (step + 1) % LOOK_STEPS == 0:
            log({"context_step": step + 1, "bits_a_value": round(loss.item(), 5)})
    return model


def _code_length(z: Tensor, log2_sigma: Tensor, mean: Tensor) -> Tensor:
    """Bits of z under logistics around `mean` sigmas."""
    sigma = torch.exp2(log2_sigma)
    far = (z - mean * sigma).abs()
    rate = math.pi / 3**0.5 / sigma
    chance = torch.sigmoid((0.5 - far) * rate) - torch.sigmoid((-0.5 - far) * rate)
    return -torch.log2(chance.clamp_min(LEAST_CHANCE))


def _bits(model: FrozenModel, z: np.ndarray, centis: np.ndarray) -> int:
    """What z takes in payloads, escapes included."""
    total = 0
    for one, centi in zip(z, centis, strict=True):
        encoder = SymbolEncoder(model.tables)
        total += 8 * len(hyper_latents.encode(model, encoder, one, int(centi)) + encoder.escapes())
    return total
