"""g_a by rows, straight from bytes: what `nn.transforms.AnalysisTransform` computes, on a CPU."""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from pipeline.codecs.learned.byte_rows import ByteBlock, packed
from pipeline.codecs.learned.rows import Block, Limits, Product, gathered, matrix, product
from pipeline.nn.layers import DepthConvBlock, by_rows
from pipeline.nn.transforms import AnalysisTransform, modulated

MIDDLE, LEVELS = 128, 255
"""Bytes less than half of their range are exact in bf16; a picture counts from 0 to 1, with 0.5 for its middle."""


class AnalysisByHand:
    """Latents of a picture of bytes under trained weights, the CNN's part in `dtype`, its blocks by what is `made`."""

    def __init__(self, g_a: AnalysisTransform, dtype: torch.dtype, made: ModuleType | None = None) -> None:
        self.dtype, self.made = dtype, made
        self.klt = _of_bytes(*matrix(g_a.klt), 16)
        self.stem = Product(*_of_bytes(*matrix(g_a.stem), 8), dtype)
        self.modulation = g_a.modulation
        self.held = Limits(g_a.blocks, dtype)
        blocks = [block for block in g_a.blocks if isinstance(block, DepthConvBlock)]
        limits = [high for _, high in self.held.within[1:]] or [None] * len(blocks)
        self.blocks, self.byte_blocks = list[Block](), list[ByteBlock]()
        if made is None:
            self.blocks = [Block(block, dtype) for block in blocks]
        else:
            self.byte_blocks = [ByteBlock(made, *each) for each in zip(blocks, limits, strict=True)]
        weight, bias = matrix(g_a.down)
        self.down = Product(weight.unflatten(1, (-1, 4)).transpose(1, 2).flatten(1), bias, dtype)

    def __call__(self, rgb: Tensor, quality: Tensor) -> Tensor:
        """(1, M, H/16, W/16) in pixel units, of (H, W, 3) uint8 whose sides are multiples of 16."""
        height, width = rgb.shape[0] // 16, rgb.shape[1] // 16
        centred = (rgb ^ MIDDLE).view(torch.int8)
        factor = modulated(self.modulation, quality)[0].permute(1, 2, 0).flatten(0, 1).to(self.dtype)
        x = self.stem(_patches(centred, 8).to(self.dtype)).mul_(factor)
        x = self._through_bytes(self.made, x, 2 * height) if self.made is not None else self._through(x, 2 * height)
        fine = self.down(gathered(x, height).view(height * width, -1))
        y = product(_patches(centred, 16).float(), *self.klt).add_(fine)
        return y.view(1, height, width, -1).permute(0, 3, 1, 2)

    def _through(self, x: Tensor, height: int) -> Tensor:
        for k, block in enumerate(self.blocks):
            x, _ = block(self.held(x, k), height)
        return self.held(x, len(self.blocks))

    def _through_bytes(self, made: ModuleType, x: Tensor, height: int) -> Tensor:
        x = self.held(x, 0).float()
        codes, units = packed(made, x)
        for block in self.byte_blocks:
            block(x, codes, units, height)
        return x.to(self.dtype)


def padded(rgb: Tensor, multiple: int) -> Tensor:
    """(H, W, 3) with its last row and column repeated up to multiples of `multiple`."""
    height, width = rgb.shape[:2]
    down, right = -height % multiple, -width % multiple
    if not down and not right:
        return rgb
    rows = torch.arange(height + down, device=rgb.device).clamp_max_(height - 1)
    columns = torch.arange(width + right, device=rgb.device).clamp_max_(width - 1)
    return rgb.index_select(0, rows).index_select(1, columns)


def _patches(picture: Tensor, side: int) -> Tensor:
    """(H, W, 3) to (H/side * W/side, 3 side^2): `layers.patches` as rows."""
    height, width = picture.shape[0] // side, picture.shape[1] // side
    return picture.view(height, side, width, 3 * side).transpose(1, 2).reshape(height * width, -1)


def _of_bytes(weight: Tensor, bias: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Of x from -0.5 to 0.5 in the order of `F.pixel_unshuffle`, those of bytes less MIDDLE by rows."""
    weight = by_rows(weight.double(), side, 1) / LEVELS
    shift = weight.sum(1) * (MIDDLE - LEVELS / 2)
    return weight.float().contiguous(), (bias.double() + shift).float()
