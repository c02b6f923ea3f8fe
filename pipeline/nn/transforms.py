"""g_a and g_s: pixels to latents and back, a KLT shortcut plus a CNN that works at one resolution.

    x (B, 3, H, W) --+-- unshuffle 16 -- KLT ------------------------------(+)-- y (B, M, H/16, W/16)
                     +-- unshuffle 8 -- 1x1 -- * q -- blocks at 1/8 -- down --+

g_s is its mirror. One resolution keeps the work in few large matrix products: memory traffic and operator
count, not MACs, decide speed (Li et al., DCVC-RT, CVPR 2025). H and W are multiples of 16.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.nn.layers import DepthConvBlock, FromPixels, QualityTable, ToPixels, asinh, within

FREE = 1e4
"""The limit of what has none yet; infinities would make averages of them NaN."""


class Blocks(nn.Sequential):
    """Blocks in a row; if `limited`, each channel between them stays within what it reaches on photos.

    A block is nearly linear in what is far from zero, and has learned nothing of what it does to directions that
    photos do not go in: noise of black and white came in as 11 and went out as 7,000, four blocks later. What is
    cut off just above the largest value of photos can be wrong, but not by much. Outside of training x is overwritten.
    """

    limits: Tensor

    def __init__(self, width: int, count: int, limited: bool) -> None:
        super().__init__(*(DepthConvBlock(width) for _ in range(count)))
        self.observing = False
        if limited:
            self.register_buffer("limits", torch.full((count + 1, width, 1, 1), FREE))

    def settle(self) -> None:
        """Keep the lower bounds of channels that are limited, too, for weights that change no more."""
        if "limits" in self._buffers:
            self.register_buffer("lowest", -self.limits, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        lowest = self._buffers.get("lowest")
        if lowest is not None:
            lows, highs = lowest.to(x.dtype).unbind(), self.limits.to(x.dtype).unbind()
            for block, low, high in zip(self, lows, highs, strict=False):
                x = block(within(x, low, high))
            return within(x, lows[-1], highs[-1])
        for k, block in enumerate(self):
            x = block(self._within(x, k))
        return self._within(x, len(self))

    def _within(self, x: Tensor, place: int) -> Tensor:
        if "limits" not in self._buffers:
            return x
        if self.observing:
            self.limits[place] = torch.maximum(self.limits[place], x.abs().amax((0, 2, 3))[:, None, None])
            return x
        limit = self.limits[place].to(x.dtype)
        if self.training:
            return x.clamp(-limit, limit)
        return within(x, -limit, limit)


class AnalysisTransform(nn.Module):
    """g_a: x (B, 3, H, W) in [0, 1] to y (B, M, H/16, W/16) in the units of orthonormal pixel transforms."""

    def __init__(self, latent: int, width: int, blocks: int, anchors: int, limited: bool = False) -> None:
        super().__init__()
        self.klt = FromPixels(16, latent)
        self.stem = FromPixels(8, width)
        self.modulation = QualityTable(torch.zeros(anchors, width))
        self.blocks = Blocks(width, blocks, limited)
        self.down = nn.Conv2d(4 * width, latent, 1)
        nn.init.zeros_(self.down.weight)
        nn.init.zeros_(self.down.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, quality: Tensor) -> Tensor:
        x = x - 0.5
        h = self.stem(x) * modulated(self.modulation, quality)
        h = self.down(F.pixel_unshuffle(self.blocks(h), 2))
        return shortcut(self.klt, x, self.training) + h.float()


class SynthesisTransform(nn.Module):
    """g_s: y_hat (B, M, h, w) to x_hat (B, 3, 16 h, 16 w), not clamped.

    The CNN branch reads asinh(y_hat / y_std), which keeps bf16 and outliers in range.
    """

    def __init__(self, latent: int, width: int, blocks: int, anchors: int, limited: bool = False) -> None:
        super().__init__()
        self.klt = ToPixels(latent, 16)
        self.y_std: Tensor
        self.register_buffer("y_std", torch.ones(1, latent, 1, 1))
        self.up = nn.Conv2d(latent, 4 * width, 1)
        self.modulation = QualityTable(torch.zeros(anchors, width))
        self.blocks = Blocks(width, blocks, limited)
        self.head = ToPixels(width, 8)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def forward(self, y_hat: Tensor, quality: Tensor) -> Tensor:
        return self.linear(y_hat).add_(self.branch(y_hat, quality))

    def linear(self, y_hat: Tensor, exact: bool = True) -> Tensor:
        """The KLT's part of the picture, and mid-gray; unless `exact`, in whatever precision is on."""
        return (shortcut(self.klt, y_hat, self.training) if exact else self.klt(y_hat).float()).add_(0.5)

    def branch(self, y_hat: Tensor, quality: Tensor) -> Tensor:
        """The CNN's part of the picture, (B, 3, 16 h, 16 w) float32."""
        h = F.pixel_shuffle(self.up(asinh(y_hat / self.y_std)), 2) * modulated(self.modulation, quality)
        return self.head(self.blocks(h)).float()

    def linear_slope(self, slope: Tensor) -> Tensor:
        """A slope over the picture, (B, 3, 16 h, 16 w), taken back through `linear`: (B, M, h, w)."""
        return self.klt.adjoint(slope).float()


def modulated(table: QualityTable, quality: Tensor) -> Tensor:
    """What features are multiplied by, (B, C, 1, 1); for quality at each position of y, (B, h, w), (B, C, 2h, 2w)."""
    factor = torch.exp(table(quality))
    return factor if quality.dim() == 1 else factor.repeat_interleave(2, 2).repeat_interleave(2, 3)


def shortcut(klt: nn.Conv2d, x: Tensor, training: bool) -> Tensor:
    """The KLT, in fp32 except in training on a CPU: bf16 carries 8 bits, and a latent at high quality needs more."""
    device = x.device.type
    with torch.autocast(device, enabled=training and device == "cpu" and torch.is_autocast_enabled(device)):
        return klt(x).float()
