"""High resolution to what a super-resolver is given: reduced by bicubic, and part of it coded, blurred, noisy or JPEG.

Each picture of each step has a generator of its own, so that resumed runs and runs in several workers see the same.
"""

from __future__ import annotations

import io

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from pipeline.imaging.resize import matrix
from pipeline.nn.hyperprior import MeanScaleHyperprior, pad_to
from pipeline.training.spec import DegradeSpec

MODEL_UNIT_PX = 64


def reduced(x: Tensor, scale: int) -> Tensor:
    """(B, 3, H, W) in [0, 1] by MATLAB's bicubic to (B, 3, H / scale, W / scale), rounded to 8 bits."""
    down, across = (torch.from_numpy(matrix(side, side // scale)).to(x) for side in x.shape[-2:])
    return (down @ x @ across.T * 255).round().clamp(0, 255) / 255


class Degrade:
    """Low-resolution pictures and how good each is, 1 for those that were reduced only."""

    def __init__(self, spec: DegradeSpec, scale: int, seed: int, codec: MeanScaleHyperprior | None) -> None:
        self.spec, self.scale, self.seed, self.codec = spec, scale, seed, codec

    @torch.no_grad()
    def __call__(self, x: Tensor, step: int, first: int = 0) -> tuple[Tensor, Tensor]:
        """x (B, 3, H, W) in [0, 1] to x (B, 3, h, w) and level (B,); x[0] is number `first` of the batch."""
        found, levels = [], []
        with torch.autocast(x.device.type, enabled=False):  # bf16 has no room for 8 bits
            for k in range(len(x)):
                low, level = self._one(x[k : k + 1], np.random.default_rng([self.seed, step, first + k]))
                found.append(low)
                levels.append(level)
        return torch.cat(found), torch.tensor(levels, device=x.device)

    def _one(self, x: Tensor, rng: np.random.Generator) -> tuple[Tensor, float]:
        kind, level = rng.random(), float(rng.random())
        if kind < self.spec.codec:
            return self.coded(reduced(x, self.scale), level), level
        if kind < self.spec.codec + self.spec.realistic:
            return self._realistic(x, 1 - level, rng), level
        return reduced(x, self.scale), 1.0

    def coded(self, low: Tensor, level: float) -> Tensor:
        """What the codec makes of low-resolution pictures at quality `level`, in 8 bits."""
        assert self.codec is not None
        quality = torch.full((len(low),), level, device=low.device)
        x_hat = self.codec(pad_to(low.contiguous(), MODEL_UNIT_PX), quality).x_hat
        return eight_bits(x_hat[:, :, : low.shape[2], : low.shape[3]])

    def _realistic(self, x: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
        spec = self.spec
        blur, noise, jpeg = rng.random(3) < 0.5
        if blur:
            x = blurred(x, strength * spec.blur_px * self.scale)
        low = reduced(x, self.scale)
        if noise:
            low = eight_bits(low + torch.from_numpy(rng.normal(0, strength * spec.noise / 255, low.shape)).to(low))
        return _saved_as_jpeg(low, round(100 - strength * (100 - spec.jpeg))) if jpeg else low


def blurred(x: Tensor, sigma_px: float) -> Tensor:
    """Gaussian blur of (B, 3, H, W), edges mirrored, cut off where the mirror image ends."""
    reach = min(max(1, round(3 * sigma_px)), *(side - 1 for side in x.shape[-2:]))
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=x.device) / max(sigma_px, 1e-3)) ** 2)
    taps = (taps / taps.sum()).to(x)
    x = F.pad(x, (reach, reach, reach, reach), mode="reflect")
    x = F.conv2d(x, taps.view(1, 1, -1, 1).expand(3, 1, -1, 1), groups=3)
    return F.conv2d(x, taps.view(1, 1, 1, -1).expand(3, 1, 1, -1), groups=3)


def eight_bits(x: Tensor) -> Tensor:
    return (x * 255).round().clamp(0, 255) / 255


def _saved_as_jpeg(low: Tensor, quality: int) -> Tensor:
    pixels = (low[0] * 255).round().byte().permute(1, 2, 0).contiguous().cpu().numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(file))).to(low.device).permute(2, 0, 1)[None].to(low) / 255
