"""The decoder's picture with the way back: what y_hat decodes to, and slopes over the picture as slopes over y_hat.

Nothing here is sent, it only chooses what is, so that bf16 will do where it is faster. What reads latents in fp32 is
the KLT: bf16 carries 8 bits of a mean that 256 pixels share, and the slope of that mean would be that error's.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pipeline.codecs.learned.rows import Block, Limits, Product, Tape, gathered, matrix, product, spread
from pipeline.codecs.learned.steps import Steps
from pipeline.nn.layers import DepthConvBlock, asinh, by_rows, patches
from pipeline.nn.transforms import SynthesisTransform

Back = Callable[[Tensor], Tensor]
"""A slope over the picture, (1, 3, 16 h, 16 w), to that over y_hat, (1, M, h, w) in pixel units; to be called once."""


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


def by_klt(g_s: SynthesisTransform, y_hat: Tensor, quality: Tensor, bf16: bool) -> tuple[Tensor, Back]:
    """As `by_autograd`, but for the way back, which is through the KLT alone."""
    kind = y_hat.device.type
    with torch.autocast(kind, torch.bfloat16, enabled=bf16):
        picture = g_s.linear(y_hat, exact=False).add_(g_s.branch(y_hat, quality))

    def back(over_x: Tensor) -> Tensor:
        with torch.autocast(kind, torch.bfloat16, enabled=bf16):
            return g_s.linear_slope(over_x)

    return picture, back


class ByHand:
    """The same for trained weights on a CPU, in about half the time; the CNN's part is in `dtype`.

    Positions are rows of matrices, so that oneDNN adds and gates in the products themselves, and only what the way
    back reads is kept. As in autograd, limits let slopes pass.
    """

    def __init__(self, g_s: SynthesisTransform, dtype: torch.dtype) -> None:
        self.dtype = dtype
        weight, bias = matrix(g_s.klt)
        self.klt = by_rows(weight.float(), 16).contiguous(), by_rows(bias.float(), 16) + 0.5
        # Back from what the head comes back from: 16 x 16 px as four patches of 8 x 8.
        quarters = by_rows(weight, 16).unflatten(0, (2, 8, 2, 24)).transpose(1, 2).flatten(0, 3)
        self.klt_back = quarters.t().to(dtype).contiguous()
        self.y_std, self.modulation = g_s.y_std.float().flatten(), g_s.modulation
        weight, bias = (part.unflatten(0, (-1, 4)).transpose(0, 1).flatten(0, 1) for part in matrix(g_s.up))
        self.up = Product(weight, bias, dtype)
        weight, bias = (by_rows(part, 8) for part in matrix(g_s.head))
        self.head = Product(weight, bias, dtype)
        self.blocks = [Block(block, dtype) for block in g_s.blocks if isinstance(block, DepthConvBlock)]
        self.held = Limits(g_s.blocks, dtype)

    def __call__(self, y_hat: Tensor, steps: Steps, linear: bool) -> tuple[Tensor, Back]:
        """As `by_autograd`, or `by_klt` if `linear`, of y_hat (M, h, w) in quantiser steps."""
        channels, height, width = y_hat.shape
        y = steps.in_pixel_units(y_hat[None])[0].permute(1, 2, 0).reshape(-1, channels)
        place = y / self.y_std
        factor = torch.exp(self.modulation(steps.quality)).permute(0, 2, 3, 1)[0, :, :, None].to(self.dtype)
        x = spread(self.up(asinh(place).to(self.dtype)).view(height, width, 4, -1).mul_(factor))
        tapes = list[Tape]()
        for k, block in enumerate(self.blocks):
            x, tape = block(self.held(x, k), 2 * height)
            if not linear:
                tapes.append(tape)
        fine = self.head(self.held(x, len(self.blocks))).view(2 * height, 2 * width, 8, 24)
        picture = product(y, *self.klt).view(height, width, 16, 48).transpose(1, 2).contiguous()
        picture.view(2 * height, 8, 2 * width, 24).add_(fine.transpose(1, 2))

        def back(over_x: Tensor) -> Tensor:
            over = patches(over_x.to(self.dtype), 8).permute(0, 2, 3, 1).view(4 * height * width, -1)
            found = product(gathered(over, height).view(height * width, -1), self.klt_back).float()
            if not linear:
                slope = self.head.back(over)
                for block in reversed(self.blocks):
                    slope = block.back(slope, tapes.pop(), 2 * height)
                of_h = gathered(slope, height).mul_(factor).view(height * width, -1)
                found += self.up.back(of_h).float().mul_(place.square().add_(1).rsqrt_()).div_(self.y_std)
            return found.view(1, height, width, channels).permute(0, 3, 1, 2)

        return picture.view(1, 16 * height, 16 * width, 3).permute(0, 3, 1, 2), back
