"""The one block and the few helpers that every network here is made of.

Shapes: B batch, C channels, H and W height and width at the resolution the layer works at.
All layers take any H and W, have no norm and no attention, and run in bf16 or channels_last unchanged.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRIP_POSITIONS = 1024


class DepthConvBlock(nn.Module):
    """Depth-wise 3x3 residual, then a gated feed-forward residual; (B, C, H, W) to the same shape.

        x --[1x1, SiLU, dw3x3, 1x1]--(+)--[1x1 to 4C, u * sigmoid(v), 1x1]--(+)-->
        |__________________________|  |_____________________________________|

    (8 C^2 + 9 C) MACs a position. The shape follows Li et al., "DCVC-RT", CVPR 2025; the gate is u * sigmoid(v)
    because u * SiLU(v) grows quadratically and spiked at high learning rates.

    `held` (1, 2C, 1, 1), if set: what passes the gate is kept within plus and minus that, as where it is coded.
    """

    held: Tensor | None

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("held", None, persistent=False)
        self.expand = nn.Conv2d(channels, channels, 1)
        self.spatial = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.project = nn.Conv2d(channels, channels, 1)
        self.gate = nn.Conv2d(channels, 4 * channels, 1)
        self.merge = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.project(self.spatial(F.silu(self.expand(x))))
        # oneDNN's bf16 products reorder their weights at every call, and lose by many small ones.
        plain = not (torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"))
        if x.device.type == "cpu" and plain and torch.get_num_threads() == 1:
            return self._in_strips(x)
        return x + self._merged(x)

    def _in_strips(self, x: Tensor) -> Tensor:
        """The second half, to the same bits: 4C channels of a strip stay in the cache, of a picture they do not.

        Several threads each take a part of the picture already, and lose by more and smaller products.
        """
        out, rows = torch.empty_like(x), max(1, STRIP_POSITIONS // x.shape[3])
        for top in range(0, x.shape[2], rows):
            strip = x[:, :, top : top + rows]
            torch.add(strip, self._merged(strip), out=out[:, :, top : top + rows])
        return out

    def _merged(self, x: Tensor) -> Tensor:
        inner = gated(self.gate(x))
        if self.held is not None:
            limit = self.held.to(inner.dtype)
            inner = within(inner, -limit, limit)
        return cast(Tensor, self.merge(inner))


class _Within(torch.autograd.Function):
    """See `within`."""

    @staticmethod
    def forward(ctx, x: Tensor, low: Tensor, high: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.mark_dirty(x)
        return x.clamp_(low, high)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[no-untyped-def]
        return grad, None, None


def within(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """x kept in [low, high], in place; its gradient passes. For slopes of trained networks, at half the time."""
    return cast(Tensor, _Within.apply(x, low, high)) if torch.is_grad_enabled() else x.clamp_(low, high)


class _Gated(torch.autograd.Function):
    """u * sigmoid(v), its gradient written straight into one tensor of the layout of the input."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        u, v = x.chunk(2, dim=1)
        gate = torch.sigmoid(v)
        ctx.save_for_backward(x, gate)
        return u * gate

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        x, gate = ctx.saved_tensors
        both = torch.empty_like(x)
        to_u, to_v = both.chunk(2, dim=1)
        torch.mul(grad, gate, out=to_u)
        torch.ops.aten.sigmoid_backward.grad_input(grad * x.chunk(2, dim=1)[0], gate, grad_input=to_v)
        return both


def gated(x: Tensor) -> Tensor:
    """u * sigmoid(v) of x (B, 2C, H, W) = [u, v]: (B, C, H, W).

    That of torch is faster forward, but its gradient loses channels_last: a pass through g_s and back took 1.8 times
    as long with it.
    """
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return F.glu(x, dim=1)
    return _Gated.apply(x)


class _Asinh(torch.autograd.Function):
    """See `asinh`."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x)
        return _asinh(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        (x,) = ctx.saved_tensors
        return grad * torch.rsqrt(x.square() + 1)


def _asinh(x: Tensor) -> Tensor:
    square = x.square()
    return torch.log1p(square.div_((square + 1).sqrt_().add_(1)).add_(x.abs())).copysign_(x)


def asinh(x: Tensor) -> Tensor:
    """asinh(x) of any tensor with |x| < 1e18, as accurate as that of torch, which takes eight times as long on a CPU.

    log1p(|x| + x^2 / (1 + sqrt(x^2 + 1))) cancels nowhere, and log1p is vectorised.
    """
    if torch.compiler.is_compiling():
        return torch.asinh(x)
    return cast(Tensor, _Asinh.apply(x)) if torch.is_grad_enabled() else _asinh(x)


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """F.conv2d with filters of 1x1. oneDNN takes half the time in fp32 of what torch prefers on one thread."""
    trained = torch.is_grad_enabled() or torch.compiler.is_compiling()
    plain = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    if plain and not trained and torch.backends.mkldnn.is_available():
        return torch.mkldnn_convolution(x, weight, bias, [0, 0], [1, 1], [1, 1], 1)
    return F.conv2d(x, weight, bias)


class Pointwise(nn.Conv2d):
    """A 1x1 convolution that runs in fp32; see `pointwise`."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 1)

    def forward(self, input: Tensor) -> Tensor:
        return pointwise(input, self.weight, self.bias)


class _OfPixels(nn.Conv2d):
    """A 1x1 convolution one of whose axes is patches of `side` x `side` px in the order of `F.pixel_unshuffle`.

    It works on patches row by row, as a picture in channels_last lies in memory: copying value by value took 6 % of a
    decoder's time. `settle` brings weights that change no more into that order once and for all.
    """

    side: int
    axis: int

    def settle(self) -> None:
        self.register_buffer("settled", by_rows(self.weight.detach(), self.side, self.axis), persistent=False)

    def by_rows(self) -> Tensor:
        settled = self._buffers.get("settled")
        return by_rows(self.weight, self.side, self.axis) if settled is None else settled


class FromPixels(_OfPixels):
    """From a picture's patches: (B, 3, H, W) to (B, out, H/side, W/side)."""

    def __init__(self, side: int, out_channels: int) -> None:
        super().__init__(3 * side**2, out_channels, 1)
        self.side, self.axis = side, 1

    def forward(self, x: Tensor) -> Tensor:
        return pointwise(patches(x, self.side), self.by_rows(), self.bias)


class ToPixels(_OfPixels):
    """To the patches of a picture, and that picture: (B, in, h, w) to (B, 3, side h, side w)."""

    def __init__(self, in_channels: int, side: int) -> None:
        super().__init__(in_channels, 3 * side**2, 1)
        self.side, self.axis = side, 0

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else by_rows(self.bias, self.side)
        found = F.conv2d(x, self.by_rows(), bias)
        batch, _, height, width = found.shape
        rows = found.permute(0, 2, 3, 1).reshape(batch, height, width, self.side, 3 * self.side)
        picture = rows.transpose(2, 3).reshape(batch, height * self.side, width * self.side, 3)
        return picture.permute(0, 3, 1, 2)

    def adjoint(self, slope: Tensor) -> Tensor:
        """A slope over the picture taken back to one over x, (B, in, h, w)."""
        return F.conv2d(patches(slope, self.side), self.by_rows().transpose(0, 1))


def patches(x: Tensor, side: int) -> Tensor:
    """(B, 3, H, W) to (B, 3 side^2, H/side, W/side): rows of a patch one after the other, colours side by side."""
    batch, channels, height, width = x.shape
    rows = x.permute(0, 2, 3, 1).reshape(batch, height // side, side, width // side, side * channels)
    return rows.transpose(2, 3).reshape(batch, height // side, width // side, side**2 * channels).permute(0, 3, 1, 2)


def by_rows(weight: Tensor, side: int, axis: int = 0) -> Tensor:
    """An axis of `weight` from the order of `F.pixel_unshuffle` to that of `patches`."""
    return weight.unflatten(axis, (-1, side**2)).transpose(axis, axis + 1).flatten(axis, axis + 1)


class QualityTable(nn.Module):
    """A learned vector per quality anchor, linear in between; quality (B,) in [0, 1] to (B, C, 1, 1).

    Quality that differs from place to place, (B, h, w), gives (B, C, h, w).

    Anchors are evenly spaced over quality, so a table of log2 gains is a piecewise-exponential gain. Cui et al.,
    "Asymmetric Gained Deep Image Compression", CVPR 2021, interpolate gain vectors in the same way.
    """

    def __init__(self, init: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(init.clone().float())

    def forward(self, quality: Tensor) -> Tensor:
        anchors = self.table.shape[0]
        position = quality.float().clamp(0, 1) * (anchors - 1)
        grid = torch.arange(anchors, device=quality.device, dtype=torch.float32)
        weights = (1 - (position[..., None] - grid).abs()).clamp_min(0)
        # In bf16 a gain is off by up to one in 500, in every position alike, and encoder and decoder differ.
        with torch.autocast(quality.device.type, enabled=False):
            found = weights @ self.table
        return found[:, :, None, None] if quality.dim() == 1 else found.permute(0, 3, 1, 2)


class _LowerBound(torch.autograd.Function):
    """max(x, bound) whose gradient still flows when it would push x back up (Balle et al., ICLR 2018)."""

    @staticmethod
    def forward(ctx, x: Tensor, bound: float) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x)
        ctx.bound = bound
        return x.clamp_min(bound)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        (x,) = ctx.saved_tensors
        return grad * ((x >= ctx.bound) | (grad < 0)), None


def lower_bound(x: Tensor, bound: float) -> Tensor:
    """Element-wise max(x, bound), trainable from below."""
    return _LowerBound.apply(x, bound)


def upper_bound(x: Tensor, bound: float) -> Tensor:
    """Element-wise min(x, bound), trainable from above.

    With a plain clamp, scales of the DC channel that had passed the bound drifted on to 2^25, unseen by any gradient.
    """
    return -lower_bound(-x, -bound)


def uniform_noise(x: Tensor, shard: tuple[int, int] = (0, 1)) -> Tensor:
    """Uniform in [-1/2, 1/2), shaped like x.

    `shard` is (rank, world) where x is one of `world` equal slices of a batch: all of them then get the noise that
    the whole batch would have got in one process, given equal seeds.
    """
    rank, world = shard
    if world == 1:
        return torch.rand_like(x) - 0.5
    whole = torch.rand_like(torch.cat([x.detach()] * world))
    return whole[rank * len(x) : (rank + 1) * len(x)] - 0.5


def ste_round(x: Tensor) -> Tensor:
    """round(x) forward, identity backward."""
    return x + (x.round() - x).detach()


def centroid_shift(sigma: Tensor) -> Tensor:
    """How far the mean of a logistic's tail in a unit bin lies below the bin's centre, in [0, 1/2].

    Tails fall off exponentially, by e^(-pi / sqrt(3) / sigma) a unit, and so does what is inside a bin.
    """
    steepness = (math.pi / math.sqrt(3) / sigma).clamp_max(60.0)
    return 0.5 - 1 / steepness + 1 / torch.expm1(steepness)


class _Reconstruct(torch.autograd.Function):
    """See `reconstruct`."""

    @staticmethod
    def forward(ctx, x: Tensor, shift: Tensor, curvature: Tensor, sharpness: float) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x, shift, curvature)
        ctx.sharpness = sharpness
        symbol = x.round()
        return symbol - symbol.sign() * shift

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[no-untyped-def]
        x, shift, curvature = ctx.saved_tensors
        magnitude = x.abs()
        below = magnitude.floor()
        inside = torch.tanh(ctx.sharpness * (magnitude - below - 0.5))
        density = ctx.sharpness * (1 - inside.square()) / (2 * math.tanh(ctx.sharpness / 2))
        step = torch.where(below == 0, 1 - shift, 1.0)
        to_midpoint = torch.where(inside < 0, step, -step) * x.sign() / 2
        return density * step * (grad + curvature * to_midpoint), None, None, None


def reconstruct(x: Tensor, shift: Tensor, curvature: Tensor, sharpness: float = 6.0) -> Tensor:
    """round(x) moved by `shift` towards zero; backward what crossing over to the next value would change.

    `curvature` is the second derivative of the loss over the result; both are shaped like x. A quadratic loss changes
    between two values by their distance times the slope at the midpoint, and the slope of soft rounding (Agustsson &
    Theis, "Universally Quantized Neural Compression", NeurIPS 2020, eq. 10) says how likely a jittered x crosses over.
    With the slope at the value itself, a latent at 0.4 is told that growing helps although 1 is further from it than
    0: channels that should stay empty fill up, and low rates run away after some thousand steps.
    """
    return _Reconstruct.apply(x, shift, curvature, sharpness)
