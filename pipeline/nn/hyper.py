"""h_a and h_s: what the decoder is told about the latents before it reads them; and what z says of itself.

h_s here is the float twin used in training. Its layers are exactly those that `integer.py` runs in exact
arithmetic after export, so nothing but a table of asinh, 1x1 and 3x3 convolutions, ReLU and pixel shuffle may appear
in it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.nn import context
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


class HyperContext(nn.Module):
    """Scales and means of hyper-latents from those around them: the float twin of `context.IntegerContext`."""

    def __init__(self, hyper: int, width: int) -> None:
        super().__init__()
        self.networks = nn.ModuleList()
        for k in range(len(context.NEIGHBOURS)):
            enter, out = nn.Conv2d(context.inputs(k, hyper), width, 1), nn.Conv2d(width, 2 * hyper, 1)
            nn.init.zeros_(out.weight)
            nn.init.zeros_(out.bias)  # type: ignore[arg-type]
            self.networks.append(nn.ModuleDict({"enter": enter, "mid": nn.Conv2d(width, width, 1), "out": out}))

    def forward(self, z: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
        """z (B, N, h, w) of whole numbers and quality (B,) in [0, 1] to what each is expected to be from those before
        it: offsets of log2 sigma, and means in units of that sigma, both (B, N, h, w).
        """
        known = torch.asinh(z.clamp(-Z_LIMIT, Z_LIMIT))
        known = F.pad(torch.cat([known, torch.ones_like(z[:, :1])], 1), (context.FARTHEST,) * 4)
        offset, mean = (torch.zeros_like(z) for _ in range(2))
        shown = torch.zeros_like(known[:1, :1])
        for turn in context.turns(*z.shape[2:]):
            rows, columns = (torch.from_numpy(part) for part in (turn.rows, turn.columns))
            if turn.network is not None:
                apart, seen = 1 << turn.level, known * shown
                around = [
                    seen[:, :, rows + context.FARTHEST + down * apart, columns + context.FARTHEST + right * apart]
                    for down, right in context.NEIGHBOURS[turn.network]
                ]
                told = torch.stack([quality, torch.full_like(quality, turn.level / 2)], 1)
                x = torch.cat([*around, told[:, :, None].expand(-1, -1, len(rows))], 1)[..., None]
                layers = self.networks[turn.network]
                x = layers["out"](F.relu(layers["mid"](F.relu(layers["enter"](x)))))[..., 0]  # type: ignore[index]
                of_scale, of_mean = x.chunk(2, 1)
                offset, mean = _with(offset, rows, columns, of_scale), _with(mean, rows, columns, of_mean)
            shown[:, :, rows + context.FARTHEST, columns + context.FARTHEST] = 1
        return offset, mean


def _with(x: Tensor, rows: Tensor, columns: Tensor, values: Tensor) -> Tensor:
    """x (B, N, h, w) with `values` (B, N, n) at those positions."""
    out = x.clone()
    out[:, :, rows, columns] = values
    return out
