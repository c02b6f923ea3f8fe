"""Polish: the decoder becomes one of integers, and learns what the encoder really sends.

Training rounds latents; the encoder then weighs bits against errors (`codecs.learned.quantise`), which leaves fewer and
smaller symbols. Here everything that decides symbols is frozen, crops are coded once as by default, and g_s alone, with
factors rounded as `nn.exact` will have them (`training.quantised`), is fitted to what came of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.codecs.learned.hyperprior import DEFAULT_EFFORT
from pipeline.codecs.learned.networks import Networks
from pipeline.codecs.learned.weights import FrozenModel
from pipeline.nn import integer
from pipeline.nn.hyperprior import MeanScaleHyperprior
from pipeline.nn.spec import HyperpriorSpec
from pipeline.training.data import Crops
from pipeline.training.optimizer import share_of_peak
from pipeline.training.quantised import QuantisedSynthesis, parted

CROP_PX, BATCH, CLIP_NORM, WARMUP_STEPS = 256, 8, 0.5, 50
BETAS, UNIT_LR = (0.9, 0.99), 3.0
"""Of Adam; logarithms of units learn so many times as fast as weights do."""
OBSERVED_CROPS = 400
HELD_PHOTO, HELD_CROPS = 16, 96


class Polished(NamedTuple):
    """The new state of the model and the arrays of its integer decoder.

    `psnr_db` are of held-out crops, means in dB: with the float network before, rounded before, and rounded after.
    """

    state: dict[str, Tensor]
    arrays: dict[str, np.ndarray]
    psnr_db: tuple[float, float, float]


class Coded(NamedTuple):
    """Crops as they are sent: x (n, 3, H, W) uint8, y_hat (n, M, h, w) fp16 in pixel units, quality (n,) in [0, 1]."""

    x: Tensor
    y_hat: Tensor
    quality: Tensor

    def at(self, rows: Sequence[int] | slice) -> Coded:
        return Coded(self.x[rows], self.y_hat[rows], self.quality[rows])


def polish(
    spec: HyperpriorSpec,
    state: dict[str, Tensor],
    frozen: FrozenModel,
    photos: Sequence[np.ndarray],
    steps: int,
    crops: int,
    lr: float = 3e-4,
    seed: int = 0,
    compiled: bool = False,
    log: Callable[[dict[str, float]], None] = lambda record: None,
) -> Polished:
    """Fit g_s of `state` to `crops` crops of `photos`, coded by `frozen`, the same model with fitted tables.

    The KLT stays as it is: it is what keeps the picture right where the network has learned nothing.
    """
    model = MeanScaleHyperprior(spec)
    plain, units = parted({name: value.float().cpu() for name, value in state.items()})
    model.load_state_dict(plain)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.requires_grad_(False)
    weights = [p.requires_grad_() for name, p in model.g_s.named_parameters() if "klt" not in name]
    shown = [photo for k, photo in enumerate(photos) if k % HELD_PHOTO] or photos
    coded = _coded(model, frozen, shown, crops, seed)
    held = _coded(model, frozen, photos[::HELD_PHOTO], HELD_CROPS, seed)
    before = _psnr_db(model.g_s, held)
    quantised = QuantisedSynthesis(model.g_s)
    if units:  # trained with the weights
        quantised.load_state_dict(units)
    else:
        observed = (coded.at(slice(k, k + BATCH)) for k in range(0, min(crops, OBSERVED_CROPS), BATCH))
        quantised.observe((_latents(part), part.quality) for part in observed)
    rounded = _psnr_db(quantised, held)
    log_units = list(quantised.log_units.parameters())
    groups: list[dict[str, Any]] = [{"params": weights}, {"params": log_units}]
    optimizer = torch.optim.Adam(groups, betas=BETAS)
    branch = torch.compile(quantised.branch) if compiled else quantised.branch
    draw = np.random.default_rng(seed)
    for step in range(steps):
        rate = lr * share_of_peak(step, WARMUP_STEPS, step / steps)
        for group, share in zip(optimizer.param_groups, (1.0, UNIT_LR), strict=True):
            group["lr"] = share * rate
        part = coded.at(draw.choice(crops, min(BATCH, crops), replace=False).tolist())
        loss = _loss(model, branch, part)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*weights, *log_units], CLIP_NORM)
        optimizer.step()
        if (step + 1) % 50 == 0:
            log({"polish_step": step + 1, "loss": round(loss.item(), 4)})
    arrays = quantised.arrays(model.log2_gain.table.detach())
    quantised.tell_limits()
    found = {k: v.detach() for k, v in model.state_dict().items()}
    return Polished(found, arrays, (before, rounded, _psnr_db(quantised, held)))


@torch.no_grad()
def _coded(
    model: MeanScaleHyperprior, frozen: FrozenModel, photos: Sequence[np.ndarray], count: int, seed: int
) -> Coded:
    """Random crops at qualities spread over the range; a given seed gives the same ones."""
    networks, source = Networks(frozen, "cpu"), Crops(photos, seed)
    x = torch.stack([source.crop(CROP_PX) for _ in range(count)])
    quality = (torch.arange(count) * 0.6180339887) % 1
    y_hat = []
    for rgb, one in zip(x.numpy(), quality, strict=True):
        rgb, centi = np.ascontiguousarray(rgb), int(one * integer.QUALITY_UNITS)
        steps = networks.latents_sent(rgb, centi, DEFAULT_EFFORT, filtered=False)  # g_s is what filters come behind
        y_hat.append((steps / torch.exp2(model.log2_gain(one[None]))).half())
    return Coded(x.permute(0, 3, 1, 2), torch.cat(y_hat), quality)


def _latents(coded: Coded) -> Tensor:
    return coded.y_hat.float().contiguous(memory_format=torch.channels_last)


def _loss(model: MeanScaleHyperprior, branch: Callable[[Tensor, Tensor], Tensor], coded: Coded) -> Tensor:
    """The part of `loop.rd_loss` that g_s has a say in."""
    lmbda, y_hat = model.spec.lmbda(coded.quality), _latents(coded)
    with torch.no_grad():
        missing = coded.x / 255 - model.g_s.linear(y_hat)
    with torch.autocast("cpu", torch.bfloat16):
        found = branch(y_hat, coded.quality)
    mse = 255**2 * (found.float() - missing).square().flatten(1).mean(1)
    return (model.spec.loss_scale(lmbda) * lmbda * mse).mean()


@torch.no_grad()
def _psnr_db(g_s: Callable[[Tensor, Tensor], Tensor], coded: Coded) -> float:
    parts = (coded.at(slice(k, k + BATCH)) for k in range(0, len(coded.x), BATCH))
    errors = [
        ((g_s(_latents(part), part.quality) * 255).round().clamp(0, 255) - part.x).square().flatten(1).mean(1)
        for part in parts
    ]
    return float((10 * torch.log10(255**2 / torch.cat(errors).clamp_min(1e-3))).mean())
