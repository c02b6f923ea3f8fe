"""h_a and h_s: what the decoder is told about the latents before it reads them.

h_s here is the float twin used in training. Its layers are exactly those that `integer.py` runs in exact
arithmetic after export, so nothing but a table of asinh, 1x1 and 3x3 convolutions, ReLU and pixel shuffle may appear
in it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.nn.layers import DepthConvBlock, Pointwise

Z_LIMIT = 255
"""h_s reads z within these bounds, compressed by asinh."""


class HyperAnalysis(nn.Module):
    """h_a: asinh(y * gain) (B, M, h, w), h and w multiples of 4, to z (B, N, h/4, w/4)."""

    def __init__(self, latent: int, width: int, hyper: int) -> None:
        super().__init__()
        self.enter = Pointwise(latent, width)
        self.down1 = Pointwise(4 * width, width)
        self.block = DepthConvBlock(width)
        self.down2 = Pointwise(4 * width, hyper)
        # Started small, z rounds to zero everywhere and h_s learns nothing from it for a long while.
        nn.init.normal_(self.down2.weight, std=1.5 / (4 * width) ** 0.5)

    def forward(self, y: Tensor) -> Tensor:
        h = F.silu(self.enter(y))
        h = self.block(self.down1(F.pixel_unshuffle(h, 2)))
        return self.down2(F.pixel_unshuffle(h, 2)).float()


class HyperSynthesis(nn.Module):
    """h_s: z_hat (B, N, h/4, w/4) to log2-scale offsets and means in units of sigma, both (B, M, h, w)."""

    def __init__(self, latent: int, width: int, hyper: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(hyper, width, 3, padding=1)
        self.up1 = nn.Conv2d(width, 4 * width, 1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.up2 = nn.Conv2d(width, 4 * (width * 5 // 8), 1)
        self.out = nn.Conv2d(width * 5 // 8, 2 * latent, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def forward(self, z_hat: Tensor) -> tuple[Tensor, Tensor]:
        # At high rates z is large, and a ReLU network in proportion: means of 20 sigma times sigmas of 2^8.
        h = F.relu(self.conv1(torch.asinh(z_hat.clamp(-Z_LIMIT, Z_LIMIT))))
        h = F.relu(F.pixel_shuffle(self.up1(h), 2))
        h = F.relu(self.conv2(h))
        h = F.relu(F.pixel_shuffle(self.up2(h), 2))
        offset, mean = self.out(h).float().chunk(2, dim=1)
        return offset, mean
