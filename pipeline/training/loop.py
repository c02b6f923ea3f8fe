"""The training loop, the same for every kind of model: one process or several, exact resume.

The flagship trains with nothing but torch, NumPy and Pillow. The schedule follows whichever of steps and minutes is
used up first, so that a run on a borrowed machine ends with a decayed learning rate when the lease does.
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file
from torch import Tensor

from pipeline.errors import TrainingError
from pipeline.nn import models
from pipeline.nn.hyperprior import Likelihoods
from pipeline.nn.spec import CodecSpec, HyperpriorSpec, ModelSpec, TransferSpec
from pipeline.training import backbones, checkpoint, losses
from pipeline.training.checkpoint import Ema
from pipeline.training.data import Crops, centre_crop
from pipeline.training.graphed import LOOK_STEPS, GraphedStep, fits
from pipeline.training.group import Group
from pipeline.training.losses import Adversary, Distortion
from pipeline.training.optimizer import Optimizer, share_of_peak
from pipeline.training.quantised import DECODER, QuantisedSynthesis
from pipeline.training.spec import TrainSpec

SYNTHETIC_COST = 4.0
"""The most that a synthetic crop costs; photos cost 1 to 2, noise at low rates would cost 20."""


def rd_loss(
    forward: Callable[[Tensor, Tensor, int], Likelihoods],
    spec: CodecSpec,
    x: Tensor,
    quality: Tensor,
    distortion: Distortion = losses.mse,
    synthetic: int = 0,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weighted bpp + lmbda * distortion, mean over the batch; also bpp (B,), MSE (B,) on 0..255, and x_hat.

    The loss of the first `synthetic` pictures is bounded, so that those nearest to being learned are learned first.
    """
    out = forward(x, quality, synthetic)
    bpp = (out.y_bits + out.z_bits) / (x.shape[-1] * x.shape[-2])
    mse = losses.mse(out.x_hat, x)
    cost = mse if distortion is losses.mse else distortion(out.x_hat, x)
    lmbda = spec.lmbda(quality)
    each = spec.loss_scale(lmbda) * (bpp + lmbda * cost)
    if synthetic:
        odd = each[:synthetic]
        each = torch.cat([SYNTHETIC_COST * odd / (odd + SYNTHETIC_COST), each[synthetic:]])
    return each.mean(), bpp.detach(), mse.detach(), out.x_hat


OBSERVED_BATCHES = 12
"""Of photos, at qualities from end to end, that units are fitted to."""


class Trainer:
    """Trains a model of any kind on photos held in memory; state lives in `out`/checkpoint.pt.

    Validation is on the middle of `held_out`; without it, on `spec.holdout` of the photos, which are not trained on.
    In a process group (torch.distributed) each process trains on its slice of the same batches.
    """

    def __init__(
        self,
        spec: TrainSpec,
        photos: list[np.ndarray],
        out: Path,
        device: str = "cpu",
        held_out: list[np.ndarray] | None = None,
    ) -> None:
        if not spec.steps:
            raise TrainingError("run.steps is 0, there is nothing to train; expected at least 1 here")
        self.spec, self.out, self.device, self.group = spec, out, torch.device(device), Group()
        self._prepare()
        held = held_out or photos[:: max(1, len(photos) // spec.holdout)][: spec.holdout]
        held_ids = {id(p) for p in held}
        self.holdout = [centre_crop(p) for p in held]
        kept = [p for p in photos if id(p) not in held_ids] or photos
        self.crops = Crops(kept, spec.seed, self.device, spec.augment)
        torch.manual_seed(spec.seed)
        self.model = cast(Any, models.build(spec.model))
        self.model.shard = (self.group.rank, self.group.world)
        self.origin: dict[str, Any] = {"device": device}
        self.validated: dict[str, Any] = {}
        fresh = not (out / "checkpoint.pt").exists()
        if fresh:
            self._start()
        if spec.quantised:
            self._quantise(fresh)
        if isinstance(spec.model, TransferSpec):
            self.model.g_a.features.requires_grad_(spec.backbone.finetune)
        self.model.to(self.device, memory_format=torch.channels_last)
        self.forward = torch.compile(self.model, dynamic=False) if spec.compile else self.model
        self.distortion = losses.distortion_of(spec.loss, self.device)
        self.adversary = Adversary(self.device) if spec.loss.adversarial else None
        graphed = self.device.type == "cuda" and fits(self)
        resident = self.device if graphed else None
        self.optimizer = Optimizer(self.model, spec.matrix_lr_scale, spec.optimizer == "muon", resident)
        self.ema = Ema(self.model, spec.ema_decay)
        self.step, self.elapsed_s, self.skipped, self.norm_mean = 0, 0.0, 0, 1.0
        self.bad_in_a_row, self.lr_scale = 0, 1.0
        if not fresh:
            self._restore(checkpoint.load(out / "checkpoint.pt", self.device))
        self.graphed = GraphedStep(self) if graphed else None
        self._healthy = {} if graphed else self._weights()

    def _prepare(self) -> None:
        """What a kind of trainer needs besides, before there is a model; codecs need nothing."""

    def _start(self) -> None:
        """Weights of step 0: a frozen model, or the linear start of the model's kind."""
        spec = self.spec
        if spec.init_from is not None:
            try:
                state = models.thawed(spec.model.kind, load_file(file_of(spec.init_from)))
                self.model.load_state_dict(models.grown(state, self.model))
                if isinstance(spec.model, HyperpriorSpec) and not self.model.calibrated:
                    self.model.calibrate(self.crops.batch)
            except (OSError, KeyError, RuntimeError, SafetensorError) as error:
                found = " ".join(str(error).split())[:200]
                raise TrainingError(f"init_from {spec.init_from}: no model of these sizes ({found})") from error
            self.origin |= {"init_from": str(file_of(spec.init_from)).rpartition("/")[2].removesuffix(".safetensors")}
            return
        if isinstance(spec.model, TransferSpec):
            features: Any = self.model.g_a.features
            self.origin |= {"backbone": backbones.load(features, spec.model.backbone, spec.backbone)}
        self.model.start(self.crops.batch, spec.klt_patches)

    def _quantise(self, fresh: bool) -> None:
        """A g_s with rounded factors to train with; the units of a fresh one are fitted to photos at any quality."""
        self.model.decoder = QuantisedSynthesis(self.model.g_s)

        def shown() -> Iterator[tuple[Tensor, Tensor]]:
            for start in torch.arange(OBSERVED_BATCHES) / OBSERVED_BATCHES:
                x = self.crops.batch(16, 256).cpu().float().div_(255).contiguous(memory_format=torch.channels_last)
                quality = (start + torch.arange(16) / 16) % 1
                yield self.model.coded(x, quality)[0], quality

        if fresh:
            self.model.decoder.observe(shown())

    @property
    def _sizes(self) -> CodecSpec:
        return cast(CodecSpec, self.spec.model)

    @property
    def progress(self) -> float:
        """Part of the schedule that is done, in [0, 1]."""
        return min(1.0, max(self.step / self.spec.steps, self.elapsed_s / 60 / self.spec.minutes))

    def learning_rate(self) -> float:
        """Linear warm-up, then a cosine to zero."""
        return self.spec.lr * self.lr_scale * share_of_peak(self.step, self.spec.warmup_steps, self.progress)

    def run(self, log: Callable[[dict[str, Any]], None]) -> None:
        """Train until the schedule ends, saving and validating on the way."""
        looked = False
        while self.progress < 1:
            started = time.perf_counter()
            record = self.train_step()
            self.elapsed_s = self.group.firsts(self.elapsed_s + time.perf_counter() - started)
            if self.step % LOOK_STEPS == 0:
                looked = looked or self._learns()
            if self.group.rank:
                continue  # the first process writes and validates, the others meet it at the next gradient
            if self.step % LOOK_STEPS == 0:
                log(
                    {
                        "step": self.step,
                        "progress": round(self.progress, 4),
                        "elapsed_s": round(self.elapsed_s, 1),
                        "eta_s": round(self.elapsed_s * (1 / max(self.progress, 1e-9) - 1)),
                        **record,
                    }
                )
            if self.step % self.spec.save_every_steps == 0:
                self.save()
            if self.step % self.spec.validate_every_steps == 0 or self.progress >= 1:
                log({"step": self.step, "elapsed_s": round(self.elapsed_s, 1), "validation": self.validate()})
        if not self.group.rank:
            self.save()

    def _learns(self) -> bool:
        """Whether gradients could be looked at; not if the step was skipped.

        Raises:
            TrainingError: part of g_a or g_s learns nothing, as once for a whole run, compiled on a GPU (LOG.md).
        """
        if not isinstance(self.spec.model, HyperpriorSpec):
            return True
        transforms = {name: p.grad for name, p in self.model.named_parameters() if name.startswith(("g_a.", "g_s."))}
        idle = [name for name, grad in transforms.items() if grad is None or not grad.any()]
        if 0 < len(idle) < len(transforms):
            raise TrainingError(
                f"step {self.step}: no gradient reaches {len(idle)} of {len(transforms)} parameters of g_a and g_s, "
                f"such as {idle[0]}; expected all to learn; if run.compile is on, train without it"
            )
        return not idle

    def train_step(self) -> dict[str, float]:
        """One batch: forward, backward, and an optimizer step unless the gradient is off; what it cost, if known."""
        spec = self.spec
        x, quality = self._draw()
        lr = self.learning_rate()
        self.optimizer.set_lr(lr)
        if self.graphed is not None:
            return self.graphed(x, quality)
        x = x.float().div_(255).contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16):
            loss, parts, x_hat = self._loss(x, quality)
            if self.adversary is not None:
                loss = loss + spec.loss.adversarial * self._fooling(x_hat, quality)
        self.optimizer.zero_grad()
        loss.backward()
        self.group.mean_gradients(self.model.parameters())
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
            self._teach_adversary(x_hat, x)
            if self.step % 100 == 0:
                self._healthy = self._weights()
        means = self.group.mean(
            torch.stack([loss.detach(), *(each.mean() for each in parts.values())]).float()
        ).tolist()
        return {name: round(value, 4) for name, value in zip(("loss", *parts), means, strict=True)} | {
            "norm": round(norm, 3), "lr": round(lr, 6), "skipped": self.skipped, "lr_scale": round(self.lr_scale, 3),
        }  # fmt: skip

    def _draw(self) -> tuple[Tensor, Tensor]:
        """This process's part of the next batch: x (B, 3, H, W) uint8, and quality (B,)."""
        spec = self.spec
        size = spec.large_crop_px if self.progress >= spec.large_from else spec.crop_px
        count = max(1, spec.batch * spec.crop_px**2 // size**2)
        own = self.group.own(count)
        x = self.crops.augmented(count, size)[own]
        quality = torch.from_numpy((self.crops.rng.random() + np.arange(count) / count) % 1).float()[own]
        if self.device.type == "cuda":  # from pinned memory a copy waits for nothing
            quality = quality.pin_memory()
        return x, quality.to(self.device, non_blocking=True)

    def _loss(self, x: Tensor, quality: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """What a batch costs, what that is made of, each (B,), and x_hat."""
        count = len(x) * self.group.world
        synthetic = self.spec.augment.synthetic_of(count) - self.group.own(count).start
        synthetic = max(0, min(len(x), synthetic))
        loss, bpp, mse, x_hat = rd_loss(self.forward, self._sizes, x, quality, self.distortion, synthetic)
        return loss, {"bpp": bpp, "mse": mse}, x_hat

    def _fooling(self, x_hat: Tensor, quality: Tensor) -> Tensor:
        """What looking made costs, weighted like every other distortion."""
        spec = self._sizes
        lmbda = spec.lmbda(quality)
        complaint = self.adversary.complaint(x_hat)  # type: ignore[union-attr]
        return (spec.loss_scale(lmbda) * lmbda * complaint).mean()

    def _teach_adversary(self, x_hat: Tensor, x: Tensor) -> None:
        if self.adversary is None:
            return
        self.adversary.optimizer.zero_grad()
        self.adversary.loss(x_hat, x).backward()
        self.group.mean_gradients(self.adversary.judge.parameters())
        self.adversary.optimizer.step()

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
        x = torch.from_numpy(np.stack(self.holdout)).permute(0, 3, 1, 2)
        x = x.to(self.device).float() / 255
        points, sums = [], []
        with self._averaged():
            for quality in (0.1, 0.3, 0.5, 0.7, 0.9):
                loss, bpp, mse, _ = rd_loss(
                    self.model, self._sizes, x, torch.full((len(x),), quality, device=self.device)
                )
                points.append((round(bpp.mean().item(), 4), round((10 * torch.log10(255**2 / mse)).mean().item(), 3)))
                sums.append(loss.item())
        self.validated = {"loss": round(float(np.mean(sums)), 5), "bpp_psnr": points}
        return self.validated

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[None]:
        """The model with the EMA weights, for evaluation; its own come back after."""
        own = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.model.load_state_dict(self.ema.weights)
        self.model.eval()
        try:
            yield
        finally:
            self.model.load_state_dict(own)
            self.model.train()

    def save(self) -> None:
        """Write the full training state to `out`/checkpoint.pt."""
        state = {name: getattr(self, name) for name in ("step", "elapsed_s", "skipped", "norm_mean", "lr_scale")}
        state |= {"spec": json.dumps(asdict(self.spec)), "rng": checkpoint.rng_state(self.crops.rng)}
        state |= {"torch_rng": torch.get_rng_state(), "optimizer": self.optimizer.state_dict()}
        state |= {"model": self.model.state_dict(), "ema": self.ema.weights}
        state |= {"origin": json.dumps(self.origin), "validated": json.dumps(self.validated)}
        if self.device.type == "cuda":
            state["cuda_rng"] = torch.cuda.get_rng_state(self.device)
        if self.adversary is not None:
            state["adversary"] = self.adversary.state_dict()
        checkpoint.save(self.out / "checkpoint.pt", state)

    def _restore(self, state: dict[str, Any]) -> None:
        found = json.loads(state["spec"])["model"]
        # Checkpoints of before there were kinds and limits have none.
        if {"kind": HyperpriorSpec.kind, **_added(self.spec.model)} | found != asdict(self.spec.model):
            raise TrainingError(
                f"{self.out}/checkpoint.pt: it holds another model ({found}) than the config asks for "
                f"({asdict(self.spec.model)}); give another --out, or the config it was started with"
            )
        quantised = any(name.startswith(DECODER) for name in state["model"])
        if quantised != self.spec.quantised:
            raise TrainingError(
                f"{self.out}/checkpoint.pt: it was started with run.quantised={str(quantised).lower()}, the config "
                "says otherwise; give another --out, or the config it was started with"
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.ema.weights = state["ema"]
        self.step, self.elapsed_s = state["step"], state["elapsed_s"]
        self.skipped, self.norm_mean = state["skipped"], state["norm_mean"]
        self.lr_scale, self.origin = state["lr_scale"], json.loads(state.get("origin", "{}"))
        self.validated = json.loads(state.get("validated", "{}"))
        if self.adversary is not None and "adversary" in state:
            self.adversary.load_state_dict(state["adversary"])
        self.crops.rng.bit_generator.state = json.loads(state["rng"])
        torch.set_rng_state(state["torch_rng"].cpu())
        if self.device.type == "cuda" and "cuda_rng" in state:
            torch.cuda.set_rng_state(state["cuda_rng"].cpu(), self.device)


def _added(spec: ModelSpec) -> dict[str, float]:
    """Fields that specs did not always have, as models were without them."""
    return {"limited": False} if isinstance(spec, HyperpriorSpec) else {}


def file_of(model: str) -> str | Path:
    """The file of a model named by its path, by the id of one that comes with the package, or `default`."""
    if model.endswith(".safetensors"):
        return model
    folder = resources.files("pipeline.codecs.learned") / "weights"
    model = (folder / "DEFAULT").read_text().strip() if model == "default" else model
    with resources.as_file(folder / f"{model}.safetensors") as path:
        return path
