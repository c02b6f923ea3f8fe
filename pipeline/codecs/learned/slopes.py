"""The decoder's picture with the way back: what y_hat decodes to, and slopes over the picture as slopes over y_hat.

Nothing here is sent, only what it is used to choose, so that bf16 will do.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.nn.layers import DepthConvBlock, asinh, by_rows
from pipeline.nn.transforms import SynthesisTransform

Back = Callable[[Tensor], Tensor]
"""A slope over the picture, (1, 3, 16 h, 16 w), to that over y_hat, (1, M, h, w) in pixel units."""


def by_autograd(g_s: SynthesisTransform, y_hat: Tensor, quality: Tensor, bf16: bool) -> tuple[Tensor, Back]:
    """The picture (1, 3, 16 h, 16 w) of y_hat (1, M, h, w) in pixel units, not clamped, and the way back."""
    kind = y_hat.device.type
    with torch.inference_mode(False), torch.autocast(kind, torch.bfloat16, enabled=bf16):
        linear = g_s.linear(y_hat, exact=False)
        with torch.enable_grad():
            leaf = y_hat.clone().requires_grad_()
            branch = g_s.branch(leaf, quality.clone())

    def back(over_x: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.autocast(kind, torch.bfloat16, enabled=bf16):
            (slope,) = torch.autograd.grad(branch, leaf, over_x)
            return slope + g_s.linear_slope(over_x)

    return linear + branch.detach(), back


class ByHand:
    """The same for trained weights on a CPU that multiplies bf16, in half the time.

    Positions are rows of matrices, so that sums and gates are done by the products before them, and nothing is kept
    that the way back does not read. As in autograd, rounding and limits let slopes pass.
    """

    def __init__(self, g_s: SynthesisTransform) -> None:
        self.y_std = g_s.y_std.float().flatten()
        self.modulation = g_s.modulation
        self.up = _Product(_of_corners(g_s.up.weight.flatten(1)), _of_corners(g_s.up.bias))  # type: ignore[arg-type]
        self.head = _Product(*(by_rows(part, 8) for part in (g_s.head.weight.flatten(1), g_s.head.bias)))  # type: ignore[arg-type]
        # The KLT's patches of 16 x 16 px as four of the head's, row by row of corners.
        self.klt = _Product(*(_in_quarters(part) for part in (g_s.klt.weight.flatten(1), g_s.klt.bias)))  # type: ignore[arg-type]
        self.coarse = by_rows(g_s.klt.weight.flatten(1).float(), 16), by_rows(g_s.klt.bias.float(), 16) + 0.5
        limits = g_s.blocks._buffers.get("limits")
        self.limits = [] if limits is None else [(-high, high) for high in limits.flatten(1).bfloat16()]
        self.blocks = [_Block(block) for block in g_s.blocks]  # type: ignore[arg-type]

    def __call__(self, y_hat: Tensor, quality: Tensor) -> tuple[Tensor, Back]:
        """As `by_autograd`."""
        _, channels, height, width = y_hat.shape
        y = y_hat[0].permute(1, 2, 0).reshape(-1, channels)
        place = y / self.y_std
        factor = torch.exp(self.modulation(quality)).permute(0, 2, 3, 1)[0, :, :, None].bfloat16()
        h = self.up(asinh(place).bfloat16()).view(height, width, 4, -1).mul_(factor)
        x, tapes = _spread(h), list[tuple[Tensor, Tensor, Tensor]]()
        for k, block in enumerate(self.blocks):
            x, tape = block(self._held(x, k), 2 * height)
            tapes.append(tape)
        coarse = torch.ops.mkldnn._linear_pointwise(y, *self.coarse, "none", [], "")
        picture = coarse.view(height, width, 16, 48).transpose(1, 2).contiguous()
        fine = self.head(self._held(x, len(self.blocks))).view(2 * height, 2 * width, 8, 24).transpose(1, 2)
        picture.view(2 * height, 8, 2 * width, 24).add_(fine)
        x_hat = picture.view(1, 16 * height, 16 * width, 3).permute(0, 3, 1, 2)

        def back(over_x: Tensor) -> Tensor:
            over = over_x.permute(0, 2, 3, 1).reshape(2 * height, 8, 2 * width, 24).transpose(1, 2)
            over = over.to(torch.bfloat16, memory_format=torch.contiguous_format).view(4 * height * width, -1)
            slope = self.head.back(over)
            for block, tape in zip(reversed(self.blocks), reversed(tapes), strict=True):
                slope = block.back(slope, tape, 2 * height)
            of_h = _gathered(slope, height).mul_(factor).view(height * width, -1)
            of_branch = self.up.back(of_h).float().mul_(place.square().add_(1).rsqrt_()).div_(self.y_std)
            found = of_branch.add_(self.klt.back(_gathered(over, height).view(height * width, -1)))
            return found.view(1, height, width, channels).permute(0, 3, 1, 2)

        return x_hat, back

    def _held(self, x: Tensor, place: int) -> Tensor:
        return x.clamp_(*self.limits[place]) if self.limits else x


class _Product:
    """weight x + bias of rows x (n, in) in bf16, alone or with what oneDNN can do to (n, out) while it is at hand."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.weight, self.bias = weight.bfloat16().contiguous(), None if bias is None else bias.bfloat16()
        self.adjoint = self.weight.t().contiguous()

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def sigmoid(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "sigmoid", [], "")

    def times(self, x: Tensor, other: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise.binary(x, other, self.weight, self.bias, "mul")

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise.binary(x, other, self.weight, self.bias, "add")

    def back(self, slope: Tensor) -> Tensor:
        return F.linear(slope, self.adjoint)

    def back_plus(self, slope: Tensor, other: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise.binary(slope, other, self.adjoint, None, "add")


class _Block:
    """`layers.DepthConvBlock` of rows x (h w, C)."""

    def __init__(self, block: DepthConvBlock) -> None:
        self.expand, self.project, self.merge = (_of(layer) for layer in (block.expand, block.project, block.merge))
        parts = zip(*(part.chunk(2) for part in (block.gate.weight.flatten(1), block.gate.bias)), strict=True)  # type: ignore[union-attr]
        self.value, self.gate = (_Product(*part) for part in parts)
        self.kernel, self.bias = block.spatial.weight.bfloat16(), block.spatial.bias.bfloat16()  # type: ignore[union-attr]
        self.flipped = self.kernel.flip(2, 3)

    def __call__(self, x: Tensor, height: int) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        v = self.expand(x)
        x = self.project.plus(_depthwise(F.silu(v), self.kernel, self.bias, height), x)
        gate = self.gate.sigmoid(x)
        gated = self.value.times(x, gate)
        return self.merge.plus(gated, x), (v, gate, gated)

    def back(self, slope: Tensor, tape: tuple[Tensor, Tensor, Tensor], height: int) -> Tensor:
        v, gate, gated = tape
        over = self.merge.back(slope)
        of_value = over * gate
        of_gate = over.sub_(of_value).mul_(gated)  # u s'(v) = u s (1 - s), and `gated` is u s
        slope = self.gate.back_plus(of_gate, self.value.back_plus(of_value, slope))
        over = _depthwise(self.project.back(slope), self.flipped, None, height)
        return self.expand.back_plus(torch.ops.aten.silu_backward(over, v), slope)


def _of(layer: nn.Conv2d) -> _Product:
    return _Product(layer.weight.flatten(1), layer.bias)


def _depthwise(rows: Tensor, kernel: Tensor, bias: Tensor | None, height: int) -> Tensor:
    channels = rows.shape[1]
    x = rows.view(1, height, -1, channels).permute(0, 3, 1, 2)
    return F.conv2d(x, kernel, bias, 1, 1, 1, channels).permute(0, 2, 3, 1).reshape(-1, channels)


def _of_corners(part: Tensor) -> Tensor:
    """The first axis from the order of `F.pixel_shuffle` by 2 to channels of one corner after those of another."""
    return part.unflatten(0, (-1, 4)).transpose(0, 1).flatten(0, 1)


def _in_quarters(part: Tensor) -> Tensor:
    """The first axis, 16 x 16 px of the KLT, as four patches of 8 x 8 px in the order of `by_rows`."""
    return by_rows(part, 16).unflatten(0, (2, 8, 2, 24)).transpose(1, 2).flatten(0, 3)


def _spread(corners: Tensor) -> Tensor:
    """(h, w, 4, C) to (2 h * 2 w, C)."""
    height, width, _, channels = corners.shape
    return corners.view(height, width, 2, 2, channels).transpose(1, 2).reshape(-1, channels)


def _gathered(rows: Tensor, height: int) -> Tensor:
    """(2 h * 2 w, C) to (h, w, 4, C)."""
    x = rows.view(height, 2, -1, 2, rows.shape[1]).transpose(1, 2)
    return x.reshape(height, -1, 4, rows.shape[1])
