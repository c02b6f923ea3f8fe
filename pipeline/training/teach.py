"""Teaching: g_a learns to give what passes through the decoder find.

What passes change in a latent (`codecs.learned.quantise`) is partly an answer to how others were rounded, and partly
what g_a could have known: the decoder is another than it was trained with, in integers, and symbols are weighed.
So crops are coded once with many passes, and g_a alone is fitted to the targets that they end with. Encoding takes as
long as before, unless g_a grows, and nothing of what a decoder reads changes, but for tables, which are fitted to what
is sent then; a model without a trellis gets one.

Amortised inference, and what it leaves open: Cremer, Li & Duvenaud, "Inference Suboptimality in Variational
Autoencoders", ICML 2018; for compression, Yang, Bamler & Mandt, NeurIPS 2020.
"""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, nullcontext
from dataclasses import replace
from itertools import islice
from multiprocessing import get_context
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.codecs.learned import weights
from pipeline.codecs.learned.networks import Networks
from pipeline.codecs.learned.tiles import pick_device, without_tf32
from pipeline.errors import BitstreamError, TrainingError
from pipeline.nn import integer, models
from pipeline.nn.complexity import work_of
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

    def to(self, device: torch.device) -> Wanted:
        return Wanted(*(part.to(device) for part in self))


def teachable(data: bytes) -> Networks:
    """The model in a file, on the CPU. Raises BitstreamError if it is none, or one whose encoder makes no passes."""
    frozen = weights.parse(data)
    if frozen.kind != HyperpriorSpec.kind:
        raise BitstreamError(f"a model of kind {frozen.kind}; expected {HyperpriorSpec.kind}")
    return Networks(frozen, "cpu")


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
    `processes` of one thread each code crops on the CPU, one of them being this one with all its threads; `device` is
    where g_a learns. The card says how much of what passes change in held-out crops g_a knows, 1 being all of it; crops
    of one photo in sixteen are held out.

    Raises:
        BitstreamError: as `teachable`.
        ConfigError: there is no such device, or a network of that many blocks cannot be.
        TrainingError: a gradient is not finite, or a process that codes crops died.
    """
    networks, place = teachable(data), pick_device(device)
    frozen, spec = networks.model, networks.spec
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MeanScaleHyperprior(replace(spec, encoder_blocks=max(spec.encoder_blocks, blocks)))
    model.load_state_dict(models.grown(thaw(frozen.arrays), model))
    model.to(place, memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.eval()  # in training its KLT would be bf16, whose rounding of means is larger than what is to be learned
    model.requires_grad_(False).g_a.requires_grad_(True)
    rest = [photo for k, photo in enumerate(photos) if k % HELD_PHOTO] or photos
    with closing(_Coders(data, networks, processes)) as coders:
        held = _wanted(coders, photos[::HELD_PHOTO], min(HELD_CROPS, crops), seed, log).to(place)
        shown = _wanted(coders, rest, crops, seed + 1, log).to(place)
    with without_tf32() if place.type == "cuda" else nullcontext():
        known = _learn(model, shown, held, steps, lr, batch, seed, log)
    model.cpu()
    meta = weights.meta_of(data)
    told = {"of": frozen.model_id, "steps": steps, "crops": crops, "batch": batch, "seed": seed, "known": known}
    meta["card"] = meta["card"] | {"teach": told, "kmac_per_px": {k: round(x, 2) for k, x in work_of(model).items()}}
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
Found = tuple[np.ndarray, np.ndarray]
"""`Networks.latents_wanted` in fp16 and where symbols are coded; no tensors, which travel as files that stay open."""


def _found(networks: Networks, asked: Asked) -> Found:
    y, coded = networks.latents_wanted(*asked)
    return y.half().numpy(), coded.numpy()


class _Coders:
    """Processes that code crops, or with one of them this process itself."""

    own: Networks  # of such a process

    def __init__(self, data: bytes, networks: Networks, processes: int) -> None:
        self.networks, self.processes, self.pool = networks, processes, None
        if processes > 1:
            self.pool = ProcessPoolExecutor(processes, get_context("spawn"), self._start, (data,))

    @classmethod
    def _start(cls, data: bytes) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that asks decides
        torch.set_num_threads(1)
        cls.own = teachable(data)

    @classmethod
    def _answer(cls, asked: Asked) -> Found:
        return _found(cls.own, asked)

    def answers(self, asked: Iterator[Asked]) -> Iterator[Found]:
        """What was asked for, in order; up to AHEAD a process are coded before they are taken."""
        if self.pool is None:
            yield from (_found(self.networks, one) for one in asked)
            return
        try:
            ahead = deque(self.pool.submit(self._answer, one) for one in islice(asked, AHEAD * self.processes))
            while ahead:
                yield ahead.popleft().result()
                ahead.extend(self.pool.submit(self._answer, one) for one in islice(asked, 1))
        except BrokenProcessPool as error:
            raise TrainingError(
                f"teach: one of {self.processes} processes that code crops died, perhaps for want of memory; "
                "ask for fewer threads"
            ) from error

    def close(self) -> None:
        """What is being coded is waited for, what is not begun is not."""
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)


def _wanted(
    coders: _Coders, photos: Sequence[np.ndarray], count: int, seed: int, log: Callable[[dict[str, float]], None]
) -> Wanted:
    """Random crops at qualities spread over the range; a given seed gives the same ones."""
    photo_like = Crops(photos, seed, augment=AugmentSpec(downscale=0.5))
    unlike = Crops(photos, seed, augment=AugmentSpec(synthetic=1.0))
    channels, side = coders.networks.spec.latent, CROP_PX // 16
    found = Wanted(
        x=torch.empty(count, 3, CROP_PX, CROP_PX, dtype=torch.uint8),
        y=torch.empty(count, channels, side, side, dtype=torch.float16),
        coded=torch.empty(count, -(-channels // 8), side, side, dtype=torch.uint8),
        quality=torch.empty(count),
    )

    def asked() -> Iterator[Asked]:
        for k in range(count):
            centi = int(k * 0.6180339887 % 1 * integer.QUALITY_UNITS)
            x = (unlike if _is_odd(k) else photo_like).augmented(1, CROP_PX)[0]
            found.x[k], found.quality[k] = x, centi / integer.QUALITY_UNITS
            yield np.ascontiguousarray(x.permute(1, 2, 0).numpy()), centi, 0 if _is_odd(k) else EFFORT

    for k, (y, coded) in enumerate(coders.answers(asked())):
        found.y[k] = torch.from_numpy(y)
        found.coded[k] = torch.from_numpy(np.packbits(coded & (not _is_odd(k)), axis=0))
        if (k + 1) % LOOK_STEPS == 0:
            log({"crops_coded": k + 1, "of": count})
    return found


def _is_odd(k: int) -> bool:
    return k % SYNTHETIC_EVERY == SYNTHETIC_EVERY - 1


def unpacked(bits: Tensor, channels: int) -> Tensor:
    """np.packbits(..., axis=1) undone: (B, ceil(channels / 8), h, w) uint8 to (B, channels, h, w) bool."""
    each = 2 ** torch.arange(7, -1, -1, dtype=torch.uint8, device=bits.device)
    return (bits[:, :, None] & each.view(-1, 1, 1)).flatten(1, 2)[:, :channels] > 0


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
    coded = unpacked(wanted.coded, error.shape[1])
    missed = error.where(coded, 0).flatten(1).sum(1)
    return worth * missed, worth * (error.flatten(1).sum(1) - missed)


@torch.no_grad()
def _missed(model: MeanScaleHyperprior, held: Wanted) -> float:
    parts = (held.at(slice(k, k + BATCH)) for k in range(0, len(held.x), BATCH))
    return float(sum(_distances(model, part)[0].sum() for part in parts))
