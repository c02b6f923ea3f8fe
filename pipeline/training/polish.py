"""Polish: the decoder learns what the encoder really sends.

Training rounds latents; the encoder then weighs bits against errors (`codecs.learned.quantise`), which leaves fewer and
smaller symbols. Here everything that decides symbols is frozen, crops are coded once as by default, and g_s alone is
fitted to what came of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

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

CROP_PX, BATCH, CLIP_NORM, WARMUP_STEPS = 256, 8, 0.2, 20
HELD_PHOTO, HELD_CROPS = 16, 32


class Polished(NamedTuple):
    """The new state of the model, and the mean PSNR (dB) of held-out crops before and after."""

    state: dict[str, Tensor]
    before_db: float
    after_db: float


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
    log: Callable[[dict[str, float]], None] = lambda record: None,
) -> Polished:
    """Fit g_s of `state` to `crops` crops of `photos`, coded by `frozen`, the same model with fitted tables.

    The KLT stays as it is: it is what keeps the picture right where the network has learned nothing.
    """
    model = MeanScaleHyperprior(spec)
    model.load_state_dict({name: value.float().cpu() for name, value in state.items()})
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.requires_grad_(False)
    learning = [p.requires_grad_() for name, p in model.g_s.named_parameters() if "klt" not in name]
    shown = [photo for k, photo in enumerate(photos) if k % HELD_PHOTO] or photos
    coded = _coded(model, frozen, shown, crops, seed)
    held = _coded(model, frozen, photos[::HELD_PHOTO], HELD_CROPS, seed)
    optimizer = torch.optim.Adam(learning, lr=lr)
    draw = np.random.default_rng(seed)
    before = _psnr_db(model, held)
    for step in range(steps):
        warm = min(1.0, (step + 1) / WARMUP_STEPS)
        optimizer.param_groups[0]["lr"] = lr * warm * 0.5 * (1 + math.cos(math.pi * step / steps))
        loss = _loss(model, coded.at(draw.choice(crops, min(BATCH, crops), replace=False).tolist()))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, CLIP_NORM)
        optimizer.step()
        if (step + 1) % 50 == 0:
            log({"polish_step": step + 1, "loss": round(loss.item(), 4)})
    return Polished({k: v.detach() for k, v in model.state_dict().items()}, before, _psnr_db(model, held))


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
        steps = networks.latents_sent(np.ascontiguousarray(rgb), int(one * integer.QUALITY_UNITS), DEFAULT_EFFORT)
        y_hat.append((steps / torch.exp2(model.log2_gain(one[None]))).half())
    return Coded(x.permute(0, 3, 1, 2), torch.cat(y_hat), quality)


def _x_hat(model: MeanScaleHyperprior, coded: Coded) -> Tensor:
    y_hat = coded.y_hat.float().contiguous(memory_format=torch.channels_last)
    return model.g_s(y_hat, coded.quality)


def _loss(model: MeanScaleHyperprior, coded: Coded) -> Tensor:
    """The part of `loop.rd_loss` that g_s has a say in."""
    lmbda = model.spec.lmbda(coded.quality)
    with torch.autocast("cpu", torch.bfloat16):
        x_hat = _x_hat(model, coded)
    mse = 255**2 * (x_hat.float() - coded.x.float() / 255).square().flatten(1).mean(1)
    return (model.spec.loss_scale(lmbda) * lmbda * mse).mean()


@torch.no_grad()
def _psnr_db(model: MeanScaleHyperprior, coded: Coded) -> float:
    model.eval()
    x_hat = (_x_hat(model, coded) * 255).round().clamp(0, 255)
    model.train()
    mse = (x_hat - coded.x.float()).square().flatten(1).mean(1).clamp_min(1e-3)
    return float((10 * torch.log10(255**2 / mse)).mean())
