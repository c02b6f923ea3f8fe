"""The trainer of super-resolvers: the loop of the codecs with another loss, another start and another validation."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from pipeline.codecs.learned import weights
from pipeline.codecs.learned.weights import FrozenModel
from pipeline.errors import ConfigError
from pipeline.metrics.luma import psnr_and_ssim
from pipeline.nn import models
from pipeline.nn.hyperprior import MeanScaleHyperprior
from pipeline.nn.spec import HyperpriorSpec, SuperresSpec
from pipeline.nn.superres import BackboneTrunk, CodecTrunk, enlarged
from pipeline.training import backbones, losses
from pipeline.training.degrade import Degrade, eight_bits, reduced
from pipeline.training.loop import Trainer

FLAT_MSE = 10.0
"""Added to the error of bicubic, so that flat crops do not weigh without bounds."""
CODED_LEVEL = 0.2


class SuperresTrainer(Trainer):
    """Crops are the high resolution; `degrade` makes of them what the network sees."""

    def _prepare(self) -> None:
        spec, self.sizes = self.spec, cast(SuperresSpec, self.spec.model)
        codec = coder_of(spec.degrade.model).to(self.device) if spec.degrade.codec else None
        self.degrade = Degrade(spec.degrade, self.sizes.scale, spec.seed, codec)

    def _start(self) -> None:
        """Weights of a frozen super-resolver, or of its trunk; without either the trunk starts at random."""
        if self.spec.init_from is not None:
            return super()._start()
        trunk = self.model.trunk
        if isinstance(trunk, BackboneTrunk):
            self.origin |= {"trunk": backbones.load(trunk.features, self.sizes.backbone, self.spec.backbone)}
            trunk.settle(self.crops.batch(4, 128).float() / 255 - 0.5)
        elif isinstance(trunk, CodecTrunk):
            self.origin |= {"trunk": _taken_over(trunk, self.spec.backbone.weights)}

    def _loss(self, x: Tensor, quality: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        height, width = (side // self.sizes.scale * self.sizes.scale for side in x.shape[-2:])
        x = x[:, :, :height, :width]
        low, level = self.degrade(x, self.step, self.group.rank * len(x))
        x_hat = self.forward(low.contiguous(memory_format=torch.channels_last), level)
        mse = losses.mse(x_hat, x)
        cost = mse if self.distortion is losses.mse else self.distortion(x_hat, x)
        # What counts is dB: busy and badly coded pictures, whose error is large and stays so, weigh as much as others.
        easy = FLAT_MSE + losses.mse(enlarged(low, self.sizes.scale), x)
        return (cost / easy).mean(), {"mse": mse.detach()}, x_hat

    def _fooling(self, x_hat: Tensor, quality: Tensor) -> Tensor:
        return self.adversary.complaint(x_hat).mean() / losses.PATCH_UNITS  # type: ignore[union-attr]

    @torch.no_grad()
    def validate(self) -> dict[str, Any]:
        """Y-PSNR (dB), SSIM and gain over bicubic of the EMA weights on held-out crops; coded ones, too, if learned.

        "loss" is minus the gain, so that less is better as with every kind of model.
        """
        scale = self.sizes.scale
        side = self.holdout[0].shape[0] // scale * scale
        true = [photo[:side, :side] for photo in self.holdout]
        x = torch.from_numpy(np.stack(true)).permute(0, 3, 1, 2).to(self.device).float() / 255
        clean = reduced(x, scale)
        with self._averaged():
            found = {"clean": self._judged(clean, true, 1.0)}
            if self.degrade.codec is not None:
                found["coded"] = self._judged(self.degrade.coded(clean, CODED_LEVEL), true, CODED_LEVEL)
        self.validated = {"loss": round(-float(np.mean([each["gain_db"] for each in found.values()])), 4), **found}
        return self.validated

    def _judged(self, low: Tensor, true: list[np.ndarray], level: float) -> dict[str, float]:
        levels = torch.full((1,), level, device=low.device)
        scores = []
        for k, photo in enumerate(true):
            one = low[k : k + 1]
            ours, bicubic = self.model(one, levels), enlarged(one, self.sizes.scale)
            scores.append([*_score(photo, ours, self.sizes.scale), *_score(photo, bicubic, self.sizes.scale)])
        psnr_db, ssim, before_db, _ = np.mean(scores, axis=0)
        return {"psnr_db": round(psnr_db, 3), "ssim": round(ssim, 4), "gain_db": round(psnr_db - before_db, 3)}


def _score(photo: np.ndarray, x_hat: Tensor, scale: int) -> tuple[float, float]:
    pixels = (eight_bits(x_hat)[0] * 255).byte().permute(1, 2, 0).cpu().numpy()
    return psnr_and_ssim(photo, np.ascontiguousarray(pixels), scale)


def coder_of(model: str) -> MeanScaleHyperprior:
    """The codec that degrades pictures, in evaluation mode."""
    frozen = codec_model(model)
    codec = models.build(HyperpriorSpec(**frozen.spec))
    codec.load_state_dict(models.thawed(frozen.kind, frozen.arrays))
    return cast(MeanScaleHyperprior, codec.eval().requires_grad_(False))


def codec_model(model: str) -> FrozenModel:
    """Raises ConfigError unless `model`, an id, a file or `default`, is a mean-scale hyperprior."""
    found = weights.packaged_model(weights.default_model_id() if model == "default" else weights.open_model(model))
    if found.kind != HyperpriorSpec.kind:
        raise ConfigError(f"model {found.model_id} is of kind {found.kind}; expected a {HyperpriorSpec.kind}")
    return found


def _taken_over(trunk: CodecTrunk, model: str) -> dict[str, Any]:
    """g_a and g_s of a codec, put into a trunk; tells where they came from, for the model card."""
    if model == backbones.NONE:
        return {"network": "codec", "weights": backbones.NONE}
    frozen = codec_model(model)
    state = models.thawed(frozen.kind, frozen.arrays)
    own = trunk.state_dict()
    taken = {name: state[name] for name in own if name in state}
    misshapen = [name for name, value in taken.items() if value.shape != own[name].shape]
    misshapen += [name for name in state if ".blocks." in name and not name.endswith(".limits") and name not in own]
    if misshapen or len(taken) + 2 != len(own):
        raise ConfigError(
            f"run.backbone.weights: model {frozen.model_id} has other sizes than run.model; give width, latent, "
            f"blocks, encoder_blocks and anchors of its spec, {frozen.spec}"
        )
    trunk.load_state_dict(own | taken)
    return {"network": "codec", "weights": frozen.model_id}
