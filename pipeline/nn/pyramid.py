"""Plain convolutional encoders and decoders: convolutions, an activation, pooling, and again at half the resolution.

What the textbooks call a convolutional autoencoder, with width, depth, kernel, activation and pooling to choose. With
`tiled` the picture is cut into tiles that know nothing of each other, and one dense layer sees all of a tile.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.nn.spec import ConvSpec, TileSpec

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU, "leaky-relu": nn.LeakyReLU, "silu": nn.SiLU, "gelu": nn.GELU, "tanh": nn.Tanh,
}  # fmt: skip
_POOLS: dict[str, type[nn.Module]] = {"max": nn.MaxPool2d, "average": nn.AvgPool2d}


def _convolutions(spec: ConvSpec | TileSpec, widths: list[int], stride: int = 1) -> list[nn.Module]:
    """`widths` in, ..., out; the last one with `stride`."""
    layers: list[nn.Module] = []
    for at, (fan_in, fan_out) in enumerate(pairwise(widths)):
        step = stride if at == len(widths) - 2 else 1
        layers += [nn.Conv2d(fan_in, fan_out, spec.kernel, step, spec.kernel // 2), _ACTIVATIONS[spec.activation]()]
    return layers


class PyramidFeatures(nn.Module):
    """x (B, 3, H, W) around 0 to features (B, F, H / unit, W / unit)."""

    def __init__(self, spec: ConvSpec | TileSpec) -> None:
        super().__init__()
        self.tile_px = spec.unit_px if spec.tiled else None
        self.fold = spec.unit_px >> spec.levels
        layers: list[nn.Module] = []
        fan_in = 3
        for level in range(spec.levels):
            width = spec.width << level
            strided = spec.pooling == "stride"
            layers += _convolutions(spec, [fan_in] + [width] * spec.depth, 2 if strided else 1)
            layers += [] if strided else [_POOLS[spec.pooling](2)]
            fan_in = width
        self.layers = nn.Sequential(*layers)
        self.channels = fan_in * self.fold**2

    def forward(self, x: Tensor) -> Tensor:
        h = in_tiles(self.layers, x, self.tile_px) if self.tile_px else self.layers(x)
        return F.pixel_unshuffle(h, self.fold)


class PyramidBranch(nn.Module):
    """The mirror image: y (B, M, h, w) to what is added to the linear picture (B, 3, unit h, unit w), zero at first."""

    def __init__(self, spec: ConvSpec | TileSpec) -> None:
        super().__init__()
        self.tiled, self.fold = spec.tiled, spec.unit_px >> spec.levels
        width = spec.width << (spec.levels - 1)
        self.enter = nn.Conv2d(spec.latent, width * self.fold**2, 1)
        layers: list[nn.Module] = []
        for level in reversed(range(spec.levels)):
            fan_out = spec.width << max(0, level - 1)
            layers += [nn.Upsample(scale_factor=2), *_convolutions(spec, [width] * spec.depth + [fan_out])]
            width = fan_out
        self.layers = nn.Sequential(*layers)
        self.head = nn.Conv2d(width, 3, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def forward(self, y: Tensor, quality: Tensor) -> Tensor:
        h = F.pixel_shuffle(self.enter(y), self.fold)
        return self.head(in_tiles(self.layers, h, self.fold) if self.tiled else self.layers(h))


def in_tiles(network: nn.Module, x: Tensor, side: int) -> Tensor:
    """`network` on each tile of `side` elements by itself: (B, C, H, W) to the tiles' outputs side by side."""
    count, channels, height, width = x.shape
    rows, cols = height // side, width // side
    tiles = x.reshape(count, channels, rows, side, cols, side).permute(0, 2, 4, 1, 3, 5)
    out = network(tiles.reshape(count * rows * cols, channels, side, side))
    channels, side = out.shape[1], out.shape[2]
    out = out.reshape(count, rows, cols, channels, side, side).permute(0, 3, 1, 4, 2, 5)
    return torch.reshape(out, (count, channels, rows * side, cols * side))
