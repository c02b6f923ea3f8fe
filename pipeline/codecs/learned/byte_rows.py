"""`learned.rows` in bytes: products of rows that are rounded to 127 steps each way, on a CPU that multiplies bytes.

A row is told in a unit of its own, so that nothing has to be known of a model beforehand. Nothing here is sent, it only
chooses what is: rounding moves latents by up to three hundredths of a quantiser step, and costs 0.1 % of the bytes
(LOG.md).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from pipeline.codecs.learned.rows import depthwise, matrix
from pipeline.compiling import right
from pipeline.nn.codes import PLAIN, multiplies_bytes
from pipeline.nn.layers import DepthConvBlock
from pipeline.nn.parted import over_rows, strips
from pipeline.nn.transforms import FREE

MOST = 127


@cache
def compiled_rows() -> ModuleType | None:
    """`rows_compiled`, where a CPU multiplies bytes and there is Numba."""
    return right("pipeline.codecs.learned.rows_compiled", _agrees, "encoders") if multiplies_bytes() else None


def _agrees(made: ModuleType) -> bool:
    """About: what is compiled may round in other places."""
    random, units = np.random.default_rng(0), np.full(3, 0.5, np.float32)
    both, bias = random.normal(0, 8, (3, 80)).astype(np.float32), np.linspace(-1, 1, 80, dtype=np.float32)
    u, v = np.split(both * 0.5 + bias, 2, axis=1)
    wanted, codes = (u / (1 + np.exp(-v))).clip(-3, 3), np.zeros((3, 40), np.uint8)
    made.gated(both, codes, units, bias, np.full(40, 3, np.float32))
    return np.allclose((codes.astype(np.float32) - MOST - 1) * units[:, None], wanted, atol=0.02)


class ByteProduct:
    """weight x of rows x (n, in) of bytes, in their units: (n, out) float32. `weight` (out, in) is rounded by row."""

    def __init__(self, weight: Tensor) -> None:
        scale = weight.abs().amax(1, keepdim=True).clamp_min(1e-20) / MOST
        factors = (weight / scale).round().to(torch.int8).contiguous()
        self.packed, self.scale = torch.ops.onednn.qlinear_prepack(factors, None), scale.flatten().float()
        self.zeros = torch.zeros(len(weight), dtype=torch.int64, device="cpu")
        self.product: Callable[..., Tensor] = torch.ops.onednn.qlinear_pointwise.default

    def __call__(self, codes: Tensor) -> Tensor:
        return self.product(codes, 1.0, MOST + 1, self.packed, self.scale, self.zeros, None, *PLAIN)


class ByteBlock:
    """`layers.DepthConvBlock` of rows x (h w, C); what leaves it is held within `limit` (C,)."""

    def __init__(self, made: ModuleType, block: DepthConvBlock, limit: Tensor | None) -> None:
        self.made = made
        layers = [matrix(layer) for layer in (block.expand, block.project, block.gate, block.merge)]
        self.expand, self.project, self.gate, self.merge = (ByteProduct(weight.float()) for weight, _ in layers)
        self.biases = [bias.float().numpy() for _, bias in layers]
        weight, bias = block.spatial.weight, matrix(block.spatial)[1]
        self.kernel, self.bias = weight.float().clone(), bias.float().clone()
        channels = len(bias)
        self.free = np.full(channels, FREE, np.float32)
        self.held = _limits(block.held, 2 * channels).numpy()
        self.limit = _limits(limit, channels).numpy()

    def __call__(self, x: Tensor, codes: Tensor, units: Tensor, height: int) -> None:
        """x, its bytes and their units (n,), all in place."""
        made, (of_expand, of_project, of_gate, of_merge) = self.made, self.biases
        v, rows, bytes_of, unit_of = self.expand(codes), x.numpy(), codes.numpy(), units.numpy()
        over_rows(made.silu, (v, unit_of), of_expand)
        seen = depthwise(v, self.kernel, self.bias, height).numpy()
        for strip in strips(len(rows)):
            here, own, unit, read = rows[strip], bytes_of[strip], unit_of[strip], codes[strip]
            over_rows(made.entered, (seen[strip], own, unit))
            over_rows(made.added, (here, self.project(read), own, unit), of_project, self.free)
            inner = np.empty((len(own), 2 * own.shape[1]), np.uint8)
            over_rows(made.gated, (self.gate(read), inner, unit), of_gate, self.held)
            over_rows(made.added, (here, self.merge(torch.from_numpy(inner)), own, unit), of_merge, self.limit)


def packed(made: ModuleType, x: Tensor) -> tuple[Tensor, Tensor]:
    """The bytes of rows x (n, C) float32, and their units (n,)."""
    codes, units = torch.empty(x.shape, dtype=torch.uint8, device="cpu"), torch.empty(len(x), device="cpu")
    over_rows(made.entered, (x.contiguous(), codes, units))
    return codes, units


def _limits(limit: Tensor | None, channels: int) -> Tensor:
    return torch.full((channels,), FREE, device="cpu") if limit is None else limit.detach().flatten().float().clone()
