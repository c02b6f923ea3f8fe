"""The training loop of the flagship codec: one process, one device, exact resume.

Runs with nothing but torch, NumPy and Pillow. The schedule follows whichever of steps and minutes is used up
first, so that a run on a borrowed machine ends with a decayed learning rate when the lease does.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file
from torch import Tensor

from pipeline.errors import TrainingError
from pipeline.nn.freeze import thaw
from pipeline.nn.hyperprior import Likelihoods, MeanScaleHyperprior
from pipeline.nn.klt import klt
from pipeline.nn.spec import HyperpriorSpec
from pipeline.training import checkpoint
from pipeline.training.checkpoint import Ema
from pipeline.training.data import Crops
from pipeline.training.optimizer import Optimizer
from pipeline.training.spec import TrainSpec


def distortion_weight(spec: HyperpriorSpec, lmbda: Tensor) -> Tensor:
    """Scale of each image's loss. Rate grows like lmbda^0.5, and what counts is relative rate, as in BD-rate."""
    return torch.sqrt(math.sqrt(spec.lmbda_min * spec.lmbda_max) / lmbda)


def rd_loss(
    forward: Callable[[Tensor, Tensor], Likelihoods], spec: HyperpriorSpec, x: Tensor, quality: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted bpp + lmbda * MSE (0..255), mean over the batch; also bpp (B,) and MSE (B,)."""
    out = forward(x, quality)
    bpp = (out.y_bits + out.z_bits) / (x.shape[-1] * x.shape[-2])
    mse = ((out.x_hat.float() - x.float()) * 255).square().flatten(1).mean(1)
    lmbda = spec.lmbda_min * (spec.lmbda_max / spec.lmbda_min) ** quality
    loss = (distortion_weight(spec, lmbda) * (bpp + lmbda * mse)).mean()
    return loss, bpp.detach(), mse.detach()


def centre_crop(photo: np.ndarray, size_px: int = 256) -> np.ndarray:
    """The middle of a photo, (size, size, 3); smaller photos are mirrored out to it."""
    missing = [max(0, size_px - side) for side in photo.shape[:2]]
    if any(missing):
        photo = np.pad(photo, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="symmetric")
    top, left = ((side - size_px) // 2 for side in photo.shape[:2])
    return photo[top : top + size_px, left : left + size_px]


class Trainer:
    """Trains a `MeanScaleHyperprior` on photos held in memory; state lives in `out`/checkpoint.pt."""

    def __init__(self, spec: TrainSpec, photos: list[np.ndarray], out: Path, device: str = "cpu") -> None:
        self.spec, self.out, self.device = spec, out, torch.device(device)
        held = photos[:: max(1, len(photos) // spec.holdout)][: spec.holdout]
        held_ids = {id(p) for p in held}
        self.holdout = [centre_crop(p) for p in held]
        self.crops = Crops([p for p in photos if id(p) not in held_ids] or photos, spec.seed, self.device)
        torch.manual_seed(spec.seed)
        self.model = MeanScaleHyperprior(spec.model)
        if not (out / "checkpoint.pt").exists():
            self._start()
        self.model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.forward = torch.compile(self.model, dynamic=False) if spec.compile else self.model
        self.optimizer = Optimizer(self.model, spec.matrix_lr_scale)
        self.ema = Ema(self.model, spec.ema_decay)
        self.step, self.elapsed_s, self.skipped, self.norm_mean = 0, 0.0, 0, 1.0
        self.bad_in_a_row, self.lr_scale = 0, 1.0
        if (out / "checkpoint.pt").exists():
            self._restore(checkpoint.load(out / "checkpoint.pt", self.device))
        self._healthy = self._weights()

    def _start(self) -> None:
        """Weights of step 0: a KLT of training patches, or a frozen model."""
        if self.spec.init_from is None:
            mean, basis, std = (torch.from_numpy(a).float() for a in klt(self.crops.patches(self.spec.klt_patches)))
            self.model.start_from_klt(mean, basis, std)
            return
        try:
            self.model.load_state_dict(thaw(load_file(self.spec.init_from)))
        except (OSError, KeyError, RuntimeError, SafetensorError) as error:
            found = " ".join(str(error).split())[:200]
            raise TrainingError(f"init_from {self.spec.init_from}: no model of these sizes ({found})") from error

    @property
    def progress(self) -> float:
        """Part of the schedule that is done, in [0, 1]."""
        return min(1.0, max(self.step / self.spec.steps, self.elapsed_s / 60 / self.spec.minutes))

    def learning_rate(self) -> float:
        """Linear warm-up, then a cosine to zero."""
        warm = min(1.0, (self.step + 1) / self.spec.warmup_steps)
        return self.spec.lr * self.lr_scale * warm * 0.5 * (1 + math.cos(math.pi * self.progress))

    def run(self, log: Callable[[dict[str, Any]], None]) -> None:
        """Train until the schedule ends, saving and validating on the way."""
        while self.progress < 1:
            started = time.perf_counter()
            record = self.train_step()
            self.elapsed_s += time.perf_counter() - started
            if self.step % 50 == 0:
                log(
                    {
                        "step": self.step,
                        "progress": round(self.progress, 4),
                        "elapsed_s": round(self.elapsed_s, 1),
                        **record,
                    }
                )
            if self.step % self.spec.save_every_steps == 0:
                self.save()
            if self.step % self.spec.validate_every_steps == 0 or self.progress >= 1:
                log({"step": self.step, "validation": self.validate()})
        self.save()

    def train_step(self) -> dict[str, float]:
        """One batch: forward, backward, and an optimizer step unless the gradient is off."""
        spec = self.spec
        large = self.progress >= spec.large_from
        size = spec.large_crop_px if large else spec.crop_px
        count = max(1, spec.batch * spec.crop_px**2 // size**2)
        x = self.crops.batch(count, size)
        x = x.float().div_(255).contiguous(memory_format=torch.channels_last)
        quality = torch.from_numpy((self.crops.rng.random() + np.arange(count) / count) % 1).float().to(self.device)
        lr = self.learning_rate()
        self.optimizer.set_lr(lr)
        with torch.autocast(self.device.type, torch.bfloat16):
            loss, bpp, mse = rd_loss(self.forward, self.model.spec, x, quality)
        self.optimizer.zero_grad()
        loss.backward()
        norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), spec.clip_norm))
        self.step += 1
        # One wild batch can undo an hour: steps far outside the running norm, or not finite, are not taken.
        if not math.isfinite(norm) or (self.step > 200 and norm > 10 * self.norm_mean):
            self._skip()
        else:
            self.optimizer.step()
            self.bad_in_a_row = 0
            self.norm_mean += 0.02 * (norm - self.norm_mean)
            self.ema.update(self.model, self.step)
            if self.step % 100 == 0:
                self._healthy = self._weights()
        return {
            "loss": round(loss.item(), 4), "bpp": round(bpp.mean().item(), 4), "mse": round(mse.mean().item(), 2),
            "norm": round(norm, 3), "lr": round(lr, 6), "skipped": self.skipped, "lr_scale": round(self.lr_scale, 3),
        }  # fmt: skip

    def _skip(self) -> None:
        """Count a step not taken; five in a row mean the weights are off: go back to healthy ones, a third slower."""
        self.skipped += 1
        self.bad_in_a_row += 1
        if self.bad_in_a_row == 5:
            self.model.load_state_dict(self._healthy["model"])
            self.optimizer.load_state_dict(self._healthy["optimizer"])
            self.ema.weights = {k: v.clone() for k, v in self._healthy["ema"].items()}
            self.bad_in_a_row, self.lr_scale = 0, self.lr_scale * 2 / 3

    def _weights(self) -> dict[str, Any]:
        """A copy of everything a step changes."""
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "ema": self.ema.weights}
        return copy.deepcopy(state)

    @torch.no_grad()
    def validate(self) -> dict[str, Any]:
        """Mean bpp, PSNR (dB) and weighted loss of the EMA weights on held-out 256 px crops at five qualities."""
        model = MeanScaleHyperprior(self.spec.model).to(self.device)
        model.load_state_dict(self.ema.weights)
        model.eval()
        x = torch.from_numpy(np.stack(self.holdout)).permute(0, 3, 1, 2)
        x = x.to(self.device).float() / 255
        points, losses = [], []
        for quality in (0.1, 0.3, 0.5, 0.7, 0.9):
            loss, bpp, mse = rd_loss(model, model.spec, x, torch.full((len(x),), quality, device=self.device))
            points.append((round(bpp.mean().item(), 4), round((10 * torch.log10(255**2 / mse)).mean().item(), 3)))
            losses.append(loss.item())
        return {"loss": round(float(np.mean(losses)), 5), "bpp_psnr": points}

    def save(self) -> None:
        """Write the full training state to `out`/checkpoint.pt."""
        state = {name: getattr(self, name) for name in ("step", "elapsed_s", "skipped", "norm_mean", "lr_scale")}
        state |= {"spec": json.dumps(asdict(self.spec)), "rng": checkpoint.rng_state(self.crops.rng)}
        state |= {"torch_rng": torch.get_rng_state(), "optimizer": self.optimizer.state_dict()}
        state |= {"model": self.model.state_dict(), "ema": self.ema.weights}
        checkpoint.save(self.out / "checkpoint.pt", state)

    def _restore(self, state: dict[str, Any]) -> None:
        found = json.loads(state["spec"])["model"]
        if found != asdict(self.spec.model):
            raise TrainingError(
                f"{self.out}/checkpoint.pt: it holds another model ({found}) than the config asks for "
                f"({asdict(self.spec.model)}); give another --out, or the config it was started with"
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.ema.weights = state["ema"]
        self.step, self.elapsed_s = state["step"], state["elapsed_s"]
        self.skipped, self.norm_mean = state["skipped"], state["norm_mean"]
        self.lr_scale = state["lr_scale"]
        self.crops.rng.bit_generator.state = json.loads(state["rng"])
        torch.set_rng_state(state["torch_rng"].cpu())
