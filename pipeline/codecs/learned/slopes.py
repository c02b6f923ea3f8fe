"""The decoder's picture with the way back: what y_hat decodes to, and slopes over the picture as slopes over y_hat.

Nothing here is sent, it only chooses what is, so that bf16 will do. What reads latents in fp32 is the KLT: bf16
carries 8 bits of a mean that 256 pixels share, and the slope of that mean would be that error's.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.nn.layers import DepthConvBlock, asinh, by_rows, patches
from pipeline.nn.transforms import SynthesisTransform

Back = Callable[[Tensor], Tensor]
"""A slope over the picture, (1, 3, 16 h, 16 w), to that over y_hat, (1, M, h, w) in pixel units; to be called once."""
Tape = tuple[Tensor, Tensor, Tensor]
"""What a block's way back reads: v of its SiLU (n, C), and the gate and what it let through, (n, 2C)."""


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
    """The same for trained weights on a CPU that multiplies bf16, in about half the time.

    Positions are rows of matrices, so that oneDNN adds and gates in the products themselves, and only what the way
    back reads is kept. As in autograd, limits let slopes pass.
    """

    def __init__(self, g_s: SynthesisTransform) -> None:
        weight, bias = _matrix(g_s.klt)
        self.klt = by_rows(weight.float(), 16).contiguous(), by_rows(bias.float(), 16) + 0.5
        # Back from what the head comes back from: 16 x 16 px as four patches of 8 x 8.
        quarters = by_rows(weight, 16).unflatten(0, (2, 8, 2, 24)).transpose(1, 2).flatten(0, 3)
        self.klt_back = quarters.t().bfloat16().contiguous()
        self.y_std, self.modulation = g_s.y_std.float().flatten(), g_s.modulation
        self.up = _Product(*(part.unflatten(0, (-1, 4)).transpose(0, 1).flatten(0, 1) for part in _matrix(g_s.up)))
        self.head = _Product(*(by_rows(part, 8) for part in _matrix(g_s.head)))
        self.blocks = [_Block(block) for block in g_s.blocks if isinstance(block, DepthConvBlock)]
        limits = g_s.blocks._buffers.get("limits")
        self.limits = [] if limits is None else [(-high, high) for high in limits.flatten(1).bfloat16()]

    def __call__(self, y_hat: Tensor, quality: Tensor) -> tuple[Tensor, Back]:
        """As `by_autograd`."""
        _, channels, height, width = y_hat.shape
        y = y_hat[0].permute(1, 2, 0).reshape(-1, channels)
        place = y / self.y_std
        factor = torch.exp(self.modulation(quality)).permute(0, 2, 3, 1)[0, :, :, None].bfloat16()
        x = _spread(self.up(asinh(place).bfloat16()).view(height, width, 4, -1).mul_(factor))
        tapes = list[Tape]()
        for k, block in enumerate(self.blocks):
            x, tape = block(self._held(x, k), 2 * height)
            tapes.append(tape)
        fine = self.head(self._held(x, len(self.blocks))).view(2 * height, 2 * width, 8, 24)
        picture = _product(y, *self.klt).view(height, width, 16, 48).transpose(1, 2).contiguous()
        picture.view(2 * height, 8, 2 * width, 24).add_(fine.transpose(1, 2))

        def back(over_x: Tensor) -> Tensor:
            over = patches(over_x.bfloat16(), 8).permute(0, 2, 3, 1).view(4 * height * width, -1)
            slope = self.head.back(over)
            for block in reversed(self.blocks):
                slope = block.back(slope, tapes.pop(), 2 * height)
            of_h = _gathered(slope, height).mul_(factor).view(height * width, -1)
            found = self.up.back(of_h).float().mul_(place.square().add_(1).rsqrt_()).div_(self.y_std)
            found.add_(_product(_gathered(over, height).view(height * width, -1), self.klt_back))
            return found.view(1, height, width, channels).permute(0, 3, 1, 2)

        return picture.view(1, 16 * height, 16 * width, 3).permute(0, 3, 1, 2), back

    def _held(self, x: Tensor, place: int) -> Tensor:
        return x.clamp_(*self.limits[place]) if self.limits else x


class _Product:
    """weight x + bias of rows x (n, in) in bf16, and what oneDNN can do to (n, out) while it is at hand."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.weight, self.bias = weight.bfloat16().contiguous(), bias.bfloat16().contiguous()
        self.adjoint = self.weight.t().contiguous()

    def __call__(self, x: Tensor, then: str = "none") -> Tensor:
        return _product(x, self.weight, self.bias, then)

    def times(self, x: Tensor, other: Tensor) -> Tensor:
        return _product_with(other, "mul", x, self.weight, self.bias)

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        return _product_with(other, "add", x, self.weight, self.bias)

    def back(self, slope: Tensor) -> Tensor:
        return _product(slope, self.adjoint)

    def back_plus(self, slope: Tensor, other: Tensor) -> Tensor:
        return _product_with(other, "add", slope, self.adjoint)


class _Block:
    """`layers.DepthConvBlock` of rows x (h w, C)."""

    def __init__(self, block: DepthConvBlock) -> None:
        layers = block.expand, block.project, block.merge
        self.expand, self.project, self.merge = (_Product(*_matrix(layer)) for layer in layers)
        halves = zip(*(part.chunk(2) for part in _matrix(block.gate)), strict=True)
        self.value, self.gate = (_Product(*half) for half in halves)
        _, bias = _matrix(block.spatial)
        self.kernel, self.bias = block.spatial.weight.bfloat16(), bias.bfloat16()
        self.flipped = self.kernel.flip(2, 3)

    def __call__(self, x: Tensor, height: int) -> tuple[Tensor, Tape]:
        v = self.expand(x)
        x = self.project.plus(_depthwise(F.silu(v), self.kernel, self.bias, height), x)
        gate = self.gate(x, "sigmoid")
        gated = self.value.times(x, gate)
        return self.merge.plus(gated, x), (v, gate, gated)

    def back(self, slope: Tensor, tape: Tape, height: int) -> Tensor:
        v, gate, gated = tape
        over = self.merge.back(slope)
        of_value = over * gate
        of_gate = over.sub_(of_value).mul_(gated)  # u s (1 - s), and u s is what was let through
        slope = self.gate.back_plus(of_gate, self.value.back_plus(of_value, slope))
        over = _depthwise(self.project.back(slope), self.flipped, None, height)
        return self.expand.back_plus(torch.ops.aten.silu_backward(over, v), slope)


def _matrix(layer: nn.Conv2d) -> tuple[Tensor, Tensor]:
    assert layer.bias is not None
    return layer.weight.flatten(1), layer.bias


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None, then: str = "none") -> Tensor:
    """As F.linear, which takes twice the time in fp32."""
    found: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, then, [], "")
    return found


def _product_with(other: Tensor, how: str, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    found: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, other, weight, bias, how)
    return found


def _depthwise(rows: Tensor, kernel: Tensor, bias: Tensor | None, height: int) -> Tensor:
    channels = rows.shape[1]
    x = rows.view(1, height, -1, channels).permute(0, 3, 1, 2)
    return F.conv2d(x, kernel, bias, 1, 1, 1, channels).permute(0, 2, 3, 1).reshape(-1, channels)


def _spread(corners: Tensor) -> Tensor:
    """(h, w, 4, C) to (2 h * 2 w, C)."""
    height, width, _, channels = corners.shape
    return corners.view(height, width, 2, 2, channels).transpose(1, 2).reshape(-1, channels)


def _gathered(rows: Tensor, height: int) -> Tensor:
    """(2 h * 2 w, C) to (h, w, 4, C)."""
    x = rows.view(height, 2, -1, 2, rows.shape[1]).transpose(1, 2)
    return x.reshape(height, -1, 4, rows.shape[1])
