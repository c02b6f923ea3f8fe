"""What a reconstruction costs besides bits, in units of MSE on 0..255, one number a picture.

MS-SSIM is weighted as CompressAI's lambdas for it relate to those for MSE (Begaint et al., arXiv 2011.03029). Feature
distances and the PatchGAN (Isola et al., CVPR 2017) serve a fine-tune of a converged model; both are off by default.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.errors import TrainingError
from pipeline.metrics import distortion
from pipeline.metrics.window import gaussian
from pipeline.nn.backbone import Backbone
from pipeline.training import backbones
from pipeline.training.spec import LossSpec

MS_SSIM_UNITS = 1300.0
SSIM_UNITS = 500.0
FEATURE_UNITS = 1000.0
PATCH_UNITS = 100.0
LEAST_PX = 176
"""Five scales of an 11 px window need that much."""
Distortion = Callable[[Tensor, Tensor], Tensor]


def mse(x_hat: Tensor, x: Tensor) -> Tensor:
    """(B,) mean squared error on 0..255 of (B, 3, H, W) in [0, 1]."""
    return ((x_hat.float() - x.float()) * 255).square().flatten(1).mean(1)


def ms_ssim(x_hat: Tensor, x: Tensor) -> Tensor:
    """(B,) 1 - MS-SSIM in units of MSE. Wang, Simoncelli & Bovik, 2003."""
    if min(x.shape[-2:]) < LEAST_PX:
        raise TrainingError(f"run.crop_px is {min(x.shape[-2:])}; MS-SSIM needs crops of at least {LEAST_PX} px")
    try:
        import pytorch_msssim
    except ImportError as error:
        raise TrainingError(
            "run.loss.kind: MS-SSIM needs the package pytorch-msssim, which is missing; pip install 'shardpress[train]'"
        ) from error
    # Differences outside the range have to keep a gradient, so nothing is clamped.
    with torch.autocast(x.device.type, enabled=False):
        found = pytorch_msssim.ms_ssim(x_hat.float(), x.float(), data_range=1.0, size_average=False)
    return MS_SSIM_UNITS * (1 - found)


def ssim(x_hat: Tensor, x: Tensor) -> Tensor:
    """(B,) 1 - SSIM in units of MSE: window, constants and formula of `metrics.distortion`, with gradients."""
    with torch.autocast(x.device.type, enabled=False):
        one, other = (255 * picture.float().flatten(0, 1)[:, None] for picture in (x_hat, x))
        s, d = one + other - distortion.PEAK, one - other
        maps = torch.cat([s, d, s * s, d * d], 1)
        for axis in (2, 3):
            window = torch.from_numpy(gaussian(maps.shape[axis])).to(maps)
            shape = [4, 1, len(window), 1] if axis == 2 else [4, 1, 1, len(window)]
            maps = F.conv2d(maps, window.view(1, 1, *shape[2:]).expand(shape), groups=4)
        luminance, structure = distortion.factors(*maps.split(1, 1))
        return SSIM_UNITS * (1 - (luminance * structure).reshape(len(x), -1).mean(1))


class Features(nn.Module):
    """Squared distance of normalised features of a classifier (Zhang et al., CVPR 2018, with equal weights)."""

    def __init__(self, spec: LossSpec) -> None:
        super().__init__()
        self.judge = Backbone(spec.judge, spec.layer)
        backbones.load(self.judge, spec.judge, spec.judge_weights)
        self.requires_grad_(False).eval()

    def forward(self, x_hat: Tensor, x: Tensor) -> Tensor:
        one, other = (F.normalize(self.judge(picture - 0.5), dim=1) for picture in (x_hat, x))
        return FEATURE_UNITS * (one - other).square().sum(1).flatten(1).mean(1)


def distortion_of(spec: LossSpec, device: torch.device) -> Distortion:
    """The distortion that a spec describes, the PatchGAN left out."""
    if spec.kind == "mse" and not spec.perceptual:
        return mse
    features = Features(spec).to(device) if spec.perceptual else None
    share = {"mse": 0.0, "ssim": 1.0, "ms-ssim": 1.0}.get(spec.kind, spec.ms_ssim_share)
    structure = ssim if spec.kind in ("ssim", "mixed-ssim") else ms_ssim

    def cost(x_hat: Tensor, x: Tensor) -> Tensor:
        total = mse(x_hat, x) * (1 - share) if share < 1 else 0.0
        total = total + share * structure(x_hat, x) if share else total
        return total if features is None else total + spec.perceptual * features(x_hat, x)  # type: ignore[return-value]

    return cost


class PatchGan(nn.Module):
    """Says of each patch of 34 px whether it is of a photo; hinge losses (Lim & Ye, 2017)."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for fan_in, fan_out in ((3, width), (width, 2 * width), (2 * width, 4 * width)):
            layers += [nn.Conv2d(fan_in, fan_out, 4, 2, 1), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(4 * width, 1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x - 0.5).float()


class Adversary:
    """A PatchGAN and its own AdamW, one step a batch."""

    def __init__(self, device: torch.device, lr: float = 2e-4) -> None:
        self.judge = PatchGan().to(device)
        self.optimizer = torch.optim.AdamW(self.judge.parameters(), lr, betas=(0.5, 0.9), weight_decay=0.0)

    def complaint(self, x_hat: Tensor) -> Tensor:
        """(B,) what the generator pays for looking made, in units of MSE; the judge itself learns nothing from it."""
        self.judge.requires_grad_(False)
        found = -PATCH_UNITS * self.judge(x_hat).flatten(1).mean(1)
        self.judge.requires_grad_(True)
        return found

    def loss(self, x_hat: Tensor, x: Tensor) -> Tensor:
        """The judge's own loss on made and true pictures."""
        made, true = self.judge(x_hat.detach().float()), self.judge(x.float())
        return F.relu(1 + made).mean() + F.relu(1 - true).mean()

    def state_dict(self) -> dict[str, object]:
        return {"judge": self.judge.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, dict[str, object]]) -> None:
        self.judge.load_state_dict(state["judge"])
        self.optimizer.load_state_dict(state["optimizer"])
