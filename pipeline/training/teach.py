"""Teaching: g_a learns to give what passes through the decoder find.

What passes change in a latent (`codecs.learned.quantise`) is partly an answer to how others were rounded, and partly
what g_a could have known: the decoder is another than it was trained with, in integers, and symbols are weighed.
So crops are coded once with many passes, and g_a alone is fitted to the targets that they end with. Encoding takes as
long as before, and nothing of what a decoder reads changes, but for tables, which are fitted to what is sent then; a
model without a trellis gets one.

Amortised inference, and what it leaves open: Cremer, Li & Duvenaud, "Inference Suboptimality in Variational
Autoencoders", ICML 2018; for compression, Yang, Bamler & Mandt, NeurIPS 2020.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from itertools import islice
from multiprocessing import get_context
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.codecs.learned import weights
from pipeline.codecs.learned.networks import Networks
from pipeline.codecs.learned.tiles import without_tf32
from pipeline.codecs.learned.weights import FrozenModel
from pipeline.errors import BitstreamError, TrainingError
from pipeline.nn import integer, models
from pipeline.nn.freeze import freeze, thaw
from pipeline.nn.hyperprior import MeanScaleHyperprior
from pipeline.nn.spec import HyperpriorSpec
from pipeline.training.checkpoint import Ema
from pipeline.training.data import Crops
from pipeline.training.graphed import LOOK_STEPS
from pipeline.training.optimizer import Optimizer, share_of_peak
from pipeline.training.spec import AugmentSpec
from pipeline.training.trellis import fit_trellis, trellis_arrays

EFFORT = 5
CROP_PX, BATCH, CLIP_NORM, WARMUP_STEPS, EMA_DECAY = 384, 4, 0.5, 50, 0.998
MATRIX_LR_SCALE = 3.0
KEPT = 0.05
"""Weight of staying where no symbols are coded, beside that of going where passes went."""
SYNTHETIC_EVERY = 16
"""One crop in so many is what photos are not (`Crops`); there g_a is to stay as it is."""
HELD_PHOTO, HELD_CROPS = 16, 96
AHEAD = 4
"""Crops that wait for each process that codes them, or for being taken from it."""


class Wanted(NamedTuple):
    """Crops x (n, 3, S, S) uint8, what g_a should give for them (n, M, h, w) fp16 in quantiser steps, where symbols are
    coded (n, ceil(M / 8), h, w) uint8, a bit for each channel; and quality (n,) in [0, 1].
    """

    x: Tensor
    y: Tensor
    coded: Tensor
    quality: Tensor

    def at(self, rows: Sequence[int] | slice) -> Wanted:
        return Wanted(*(part[rows] for part in self))

    def to(self, device: str) -> Wanted:
        return Wanted(*(part.to(device) for part in self))


def teachable(data: bytes) -> FrozenModel:
    """The model in a file. Raises BitstreamError if it is none, or one whose encoder makes no passes."""
    frozen = weights.parse(data)
    if frozen.kind != HyperpriorSpec.kind:
        raise BitstreamError(f"a model of kind {frozen.kind}; expected {HyperpriorSpec.kind}")
    return frozen


def teach(
    data: bytes,
    photos: Sequence[np.ndarray],
    calibration: Sequence[np.ndarray],
    steps: int,
    crops: int,
    lr: float = 2e-4,
    seed: int = 0,
    log: Callable[[dict[str, float]], None] = lambda record: None,
    batch: int = BATCH,
    blocks: int = 0,
    device: str = "cpu",
    processes: int = 1,
) -> bytes:
    """The model file `data` with a g_a fitted to `crops` crops of `photos`, (H, W, 3) uint8.

    `calibration` are photos to fit tables to. A g_a of fewer than `blocks` gets others, which change nothing at first.
    Crops are coded on the CPU, by as many `processes` of one thread each as there are to be, or by this one; `device`
    is where g_a learns. The card says how much of what passes change in held-out crops g_a knows, 1 being all of it;
    crops of one photo in sixteen are held out.

    Raises:
        BitstreamError: as `teachable`.
        TrainingError: a gradient is not finite.
    """
    frozen = teachable(data)
    spec = HyperpriorSpec(**frozen.spec)
    model = MeanScaleHyperprior(replace(spec, encoder_blocks=max(spec.encoder_blocks, blocks)))
    model.load_state_dict(models.grown(thaw(frozen.arrays), model))
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.eval()  # in training its KLT would be bf16, whose rounding of means is larger than what is to be learned
    model.requires_grad_(False).g_a.requires_grad_(True)
    rest = [photo for k, photo in enumerate(photos) if k % HELD_PHOTO] or photos
    held = _wanted(data, photos[::HELD_PHOTO], min(HELD_CROPS, crops), seed, processes, log).to(device)
    shown = _wanted(data, rest, crops, seed + 1, processes, log).to(device)
    with without_tf32() if torch.device(device).type == "cuda" else nullcontext():
        known = _learn(model, shown, held, steps, lr, batch, seed, log)
    model.cpu()
    meta = weights.meta_of(data)
    told = {"of": frozen.model_id, "steps": steps, "crops": crops, "batch": batch, "seed": seed, "known": known}
    meta["card"] = meta["card"] | {"teach": told}
    meta["spec"] = meta["spec"] | {"encoder_blocks": model.spec.encoder_blocks}
    arrays = dict(frozen.arrays) | {name: part for name, part in freeze(model).items() if name.startswith("g_a.")}
    trellis = fit_trellis(weights.parse(weights.serialise(arrays, meta)), calibration)
    return weights.serialise(arrays | trellis_arrays(trellis), meta)


def _learn(
    model: MeanScaleHyperprior,
    shown: Wanted,
    held: Wanted,
    steps: int,
    lr: float,
    batch: int,
    seed: int,
    log: Callable[[dict[str, float]], None],
) -> float:
    """Fit g_a to `shown`; how much of what there was to know of `held` it knows then."""
    before, crops = _missed(model, held), len(shown.x)
    average, optimizer = Ema(model.g_a, EMA_DECAY), Optimizer(model, MATRIX_LR_SCALE)
    draw = np.random.default_rng(seed)
    for step in range(steps):
        optimizer.set_lr(lr * share_of_peak(step, WARMUP_STEPS, step / steps))
        missed, moved = _distances(model, shown.at(draw.choice(crops, min(batch, crops), replace=False).tolist()))
        loss = (missed + KEPT * moved).mean()
        optimizer.zero_grad()
        loss.backward()
        if not torch.nn.utils.clip_grad_norm_(model.g_a.parameters(), CLIP_NORM).isfinite():
            raise TrainingError(f"teach: the gradient of step {step + 1} is not finite; try another run.seed")
        optimizer.step()
        average.update(model.g_a, step + 1)
        if (step + 1) % LOOK_STEPS == 0:
            log({"teach_step": step + 1, "loss": round(loss.item(), 5)})
    model.g_a.load_state_dict(average.weights)
    return round(1 - _missed(model, held) / before, 4) if before else 0.0  # nothing is coded of flat pictures


Asked = tuple[np.ndarray, int, int]
"""A crop (S, S, 3) uint8, its quality in hundredths, and an effort."""
_coding: list[Networks] = []  # of a process that codes crops


def _start_coding(data: bytes) -> None:
    torch.set_num_threads(1)
    _coding[:] = [Networks(teachable(data), "cpu")]


def _coded(asked: Asked, networks: Networks | None = None) -> tuple[Tensor, Tensor]:
    return (networks or _coding[0]).latents_wanted(*asked)


def _answers(data: bytes, asked: Iterator[Asked], processes: int) -> Iterator[tuple[Tensor, Tensor]]:
    """What was asked for, in order; a few dozen crops ahead of what is taken."""
    if processes == 1:
        networks = Networks(teachable(data), "cpu")
        yield from (_coded(one, networks) for one in asked)
        return
    with ProcessPoolExecutor(processes, get_context("spawn"), _start_coding, (data,)) as pool:
        ahead = deque(pool.submit(_coded, one) for one in islice(asked, AHEAD * processes))
        while ahead:
            yield ahead.popleft().result()
            ahead.extend(pool.submit(_coded, one) for one in islice(asked, 1))


def _wanted(
    data: bytes,
    photos: Sequence[np.ndarray],
    count: int,
    seed: int,
    processes: int,
    log: Callable[[dict[str, float]], None],
) -> Wanted:
    """Random crops at qualities spread over the range; a given seed gives the same ones."""
    photo_like = Crops(photos, seed, augment=AugmentSpec(downscale=0.5))
    unlike = Crops(photos, seed, augment=AugmentSpec(synthetic=1.0))
    channels, side = teachable(data).spec["latent"], CROP_PX // 16
    found = Wanted(
        x=torch.empty(count, 3, CROP_PX, CROP_PX, dtype=torch.uint8),
        y=torch.empty(count, channels, side, side, dtype=torch.float16),
        coded=torch.empty(count, -(-channels // 8), side, side, dtype=torch.uint8),
        quality=torch.empty(count),
    )

    def asked() -> Iterator[Asked]:
        for k in range(count):
            centi, odd = int(k * 0.6180339887 % 1 * integer.QUALITY_UNITS), k % SYNTHETIC_EVERY == SYNTHETIC_EVERY - 1
            x = (unlike if odd else photo_like).augmented(1, CROP_PX)[0]
            found.x[k], found.quality[k] = x, centi / integer.QUALITY_UNITS
            yield np.ascontiguousarray(x.permute(1, 2, 0).numpy()), centi, 0 if odd else EFFORT

    for k, (y, coded) in enumerate(_answers(data, asked(), processes)):
        odd = k % SYNTHETIC_EVERY == SYNTHETIC_EVERY - 1
        found.y[k], found.coded[k] = y, torch.from_numpy(np.packbits(coded.numpy() & (not odd), axis=0))
        if (k + 1) % LOOK_STEPS == 0:
            log({"crops_coded": k + 1, "of": count})
    return found


def _distances(model: MeanScaleHyperprior, wanted: Wanted) -> tuple[Tensor, Tensor]:
    """How far g_a is from what it should give where symbols are coded, and elsewhere: (B,) each, as parts of the loss
    of pictures.
    """
    x = wanted.x.to(memory_format=torch.channels_last).float() / 255
    with torch.autocast(x.device.type, torch.bfloat16):
        y = model.g_a(x, wanted.quality)
    gain, lmbda = torch.exp2(model.log2_gain(wanted.quality)), model.spec.lmbda(wanted.quality)
    worth = model.spec.loss_scale(lmbda) * lmbda * 255**2 / x[0].numel()
    error = (y.float() - wanted.y.float() / gain).square()
    bits = 2 ** torch.arange(7, -1, -1, dtype=torch.uint8, device=x.device)
    coded = (wanted.coded[:, :, None] & bits.view(-1, 1, 1)).flatten(1, 2)[:, : error.shape[1]] > 0
    missed = error.where(coded, 0).flatten(1).sum(1)
    return worth * missed, worth * (error.flatten(1).sum(1) - missed)


@torch.no_grad()
def _missed(model: MeanScaleHyperprior, held: Wanted) -> float:
    parts = (held.at(slice(k, k + BATCH)) for k in range(0, len(held.x), BATCH))
    return float(sum(_distances(model, part)[0].sum() for part in parts))
