"""Layers of trained networks as products of rows of a matrix, one for each position, on a CPU: in bf16 or in fp32.

oneDNN adds, multiplies and gates in its own products while results are in registers; as convolutions, the same layers
take another pass over memory for each of that.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.nn.layers import DepthConvBlock
from pipeline.nn.transforms import Blocks

Tape = tuple[Tensor, Tensor, Tensor]
"""What a block's way back reads: v of its SiLU (n, C), and the gate and what it let through, (n, 2C)."""


class Product:
    """weight x + bias of rows x (n, in) of one type, and what oneDNN can do to (n, out) while it is at hand."""

    def __init__(self, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> None:
        self.weight, self.bias = weight.to(dtype).contiguous(), bias.to(dtype).contiguous()
        self.adjoint = self.weight.t().contiguous()

    def __call__(self, x: Tensor, then: str = "none") -> Tensor:
        return product(x, self.weight, self.bias, then)

    def times(self, x: Tensor, other: Tensor) -> Tensor:
        return product_with(other, "mul", x, self.weight, self.bias)

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        return product_with(other, "add", x, self.weight, self.bias)

    def back(self, slope: Tensor) -> Tensor:
        return product(slope, self.adjoint)

    def back_plus(self, slope: Tensor, other: Tensor) -> Tensor:
        return product_with(other, "add", slope, self.adjoint)


class Block:
    """`layers.DepthConvBlock` of rows x (h w, C)."""

    def __init__(self, block: DepthConvBlock, dtype: torch.dtype) -> None:
        layers = block.expand, block.project, block.merge
        self.expand, self.project, self.merge = (Product(*matrix(layer), dtype) for layer in layers)
        weights, biases = (part.chunk(2) for part in matrix(block.gate))
        self.value, self.gate = (Product(weights[k], biases[k], dtype) for k in range(2))
        _, bias = matrix(block.spatial)
        self.kernel, self.bias = block.spatial.weight.to(dtype), bias.to(dtype)
        self.flipped = self.kernel.flip(2, 3)
        limit = None if block.held is None else block.held.flatten().to(dtype)
        self.within = None if limit is None else (-limit, limit)

    def __call__(self, x: Tensor, height: int) -> tuple[Tensor, Tape]:
        v = self.expand(x)
        x = self.project.plus(depthwise(F.silu(v), self.kernel, self.bias, height), x)
        gate = self.gate(x, "sigmoid")
        gated = self.value.times(x, gate)
        passed = gated if self.within is None else gated.clamp(*self.within)
        return self.merge.plus(passed, x), (v, gate, gated)

    def back(self, slope: Tensor, tape: Tape, height: int) -> Tensor:
        v, gate, gated = tape
        over = self.merge.back(slope)
        of_value = over * gate
        of_gate = over.sub_(of_value).mul_(gated)  # u s (1 - s), and u s is what was let through
        slope = self.gate.back_plus(of_gate, self.value.back_plus(of_value, slope))
        over = depthwise(self.project.back(slope), self.flipped, None, height)
        return self.expand.back_plus(torch.ops.aten.silu_backward(over, v), slope)


class Limits:
    """What `transforms.Blocks` holds channels within, before each block and after the last."""

    def __init__(self, blocks: Blocks, dtype: torch.dtype) -> None:
        limits = blocks._buffers.get("limits")
        self.within = [] if limits is None else [(-high, high) for high in limits.flatten(1).to(dtype)]

    def __call__(self, x: Tensor, place: int) -> Tensor:
        return x.clamp_(*self.within[place]) if self.within else x


def matrix(layer: nn.Conv2d) -> tuple[Tensor, Tensor]:
    assert layer.bias is not None
    return layer.weight.flatten(1), layer.bias


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None, then: str = "none") -> Tensor:
    """As F.linear, which takes twice the time in fp32."""
    found: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, then, [], "")
    return found


def product_with(other: Tensor, how: str, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    found: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, other, weight, bias, how)
    return found


def depthwise(rows: Tensor, kernel: Tensor, bias: Tensor | None, height: int) -> Tensor:
    channels = rows.shape[1]
    x = rows.view(1, height, -1, channels).permute(0, 3, 1, 2)
    return F.conv2d(x, kernel, bias, 1, 1, 1, channels).permute(0, 2, 3, 1).reshape(-1, channels).contiguous()


def spread(corners: Tensor) -> Tensor:
    """(h, w, 4, C) to (2 h * 2 w, C)."""
    height, width, _, channels = corners.shape
    return corners.view(height, width, 2, 2, channels).transpose(1, 2).reshape(-1, channels)


def gathered(rows: Tensor, height: int) -> Tensor:
    """(2 h * 2 w, C) to (h, w, 4, C)."""
    x = rows.view(height, 2, -1, 2, rows.shape[1]).transpose(1, 2)
    return x.reshape(height, -1, 4, rows.shape[1])
