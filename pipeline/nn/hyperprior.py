"""The flagship network: a mean-scale hyperprior that covers every rate with one set of weights.

    x -- g_a -- y -- * gain(q) -- round(. - mu) + mu -- / gain(q) -- g_s -- x_hat
                |                      ^
                h_a -- z -- round -- h_s (integer after export): log2 sigma offset, mu / sigma

sigma = 2^(base(q, channel) + offset), so at step 0, when the offset is zero, the entropy model is a static one
fitted to the KLT. Minnen, Balle & Toderici, "Joint Autoregressive and Hierarchical Priors", NeurIPS 2018
(without the autoregressive part), logistic instead of Gaussian; one model for all rates as in Cui et al., CVPR 2021.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.nn.hyper import HyperAnalysis, HyperSynthesis
from pipeline.nn.klt import klt
from pipeline.nn.layers import (
    QualityTable,
    asinh,
    centroid_shift,
    lower_bound,
    reconstruct,
    ste_round,
    uniform_noise,
    upper_bound,
)  # fmt: skip
from pipeline.nn.spec import CURVATURE, HyperpriorSpec, StaticSpec
from pipeline.nn.transforms import FREE, AnalysisTransform, SynthesisTransform

LOG2_SIGMA_MIN, LOG2_SIGMA_MAX = -3.0, 8.0
CALIBRATION_CROPS, LIMIT_MARGIN = 16, 1.25


class Likelihoods(NamedTuple):
    """What one training pass yields; bits are summed over each image, (B,)."""

    x_hat: Tensor
    y_bits: Tensor
    z_bits: Tensor


def logistic_bits(residual: Tensor, sigma: Tensor) -> Tensor:
    """-log2 of the mass of a logistic with standard deviation sigma on [residual - 1/2, residual + 1/2].

    In the form log F(a) + log F(-b) + log(1 - e^(b - a)) nothing cancels and nothing is clamped: a value far out
    costs bits, and has a gradient, in proportion to its distance. With a Gaussian, whose mass underflows there, one
    symbol in 300 came to rest at the clamp, paid 20 bits, and pulled at nothing until the run fell over.
    """
    steepness = math.pi / math.sqrt(3) / sigma
    upper, lower = (residual.abs() + 0.5) * steepness, (residual.abs() - 0.5) * steepness
    nats = F.softplus(-upper) + F.softplus(lower) - torch.log1p(-torch.exp(-steepness))
    return nats / math.log(2)


def loss_curvature(
    spec: HyperpriorSpec | StaticSpec, quality: Tensor, shape: torch.Size, gain: Tensor, synthetic: int = 0
) -> Tensor:
    """Second derivative of the training loss of pictures of `shape` over a latent in quantiser steps, (B, M, 1, 1).

    That of `losses.rd_loss` where latents are orthonormal, times what it measured lower for trained ones. The loss of
    the first `synthetic` pictures is bounded, and has hardly any.
    """
    lmbda = spec.lmbda(quality)
    squared_error = spec.loss_scale(lmbda) * lmbda * 255**2 / math.prod(shape)
    curvature = 2 * CURVATURE * squared_error[:, None, None, None] / gain.detach().square()
    return F.pad(curvature[synthetic:], (0, 0, 0, 0, 0, 0, synthetic, 0)) if synthetic else curvature


class MeanScaleHyperprior(nn.Module):
    """See the module; `forward` is the training pass, the codec calls the parts one by one."""

    def __init__(self, spec: HyperpriorSpec) -> None:
        super().__init__()
        self.spec, self.shard = spec, (0, 1)
        self.decoder: nn.Module | None = None  # in place of g_s, in training (`training.quantised`)
        sizes = (spec.latent, spec.width)
        self.g_a = AnalysisTransform(*sizes, spec.encoder_blocks, spec.anchors, spec.limited)
        self.g_s = SynthesisTransform(*sizes, spec.decoder_blocks, spec.anchors, spec.limited)
        self.h_a = HyperAnalysis(spec.latent, spec.hyper_width, spec.hyper)
        self.h_s = HyperSynthesis(spec.latent, spec.hyper_width, spec.hyper)
        anchors = torch.linspace(0, 1, spec.anchors)
        lmbda = spec.lmbda(anchors)
        # The best uniform step for a Laplacian source at these rates: step^2 = 26 / lmbda, in 8-bit units.
        log2_gain = torch.log2(255 * torch.sqrt(lmbda / 26))[:, None].expand(-1, spec.latent)
        self.log2_gain = QualityTable(log2_gain)
        self.log2_base = QualityTable(log2_gain)
        self.log2_sigma_z = QualityTable(torch.zeros(spec.anchors, spec.hyper))

    def start(self, crops: Callable[[int, int], Tensor], patches: int) -> None:
        """Start from the KLT of `patches` patches; `crops(count, size_px)` gives (count, 3, size, size) uint8."""
        flat = crops(patches, 16).reshape(patches, -1).cpu().numpy() / 255.0
        self.start_from_klt(*(torch.from_numpy(a).float() for a in klt(flat)))

    @torch.no_grad()
    def start_from_klt(self, mean: Tensor, basis: Tensor, std: Tensor) -> None:
        """Set the linear shortcuts to the first M rows of a KLT of 16x16x3 patches (see `klt.klt`)."""
        m = self.spec.latent
        self.g_a.klt.weight.copy_(basis[:m, :, None, None])
        self.g_a.klt.bias.copy_(-basis[:m] @ (mean - 0.5))  # type: ignore[union-attr]
        self.g_s.klt.weight.copy_(basis[:m].T[:, :, None, None])
        self.g_s.klt.bias.copy_(mean - 0.5)  # type: ignore[union-attr]
        self.g_s.y_std.copy_(std[:m].view(1, -1, 1, 1))
        self.log2_base.table.add_(torch.log2(std[:m]))

    @property
    def calibrated(self) -> bool:
        """Whether limits, if any, are those of photos."""
        rows = (self.g_a.blocks, self.g_s.blocks)
        return not self.spec.limited or all(bool((blocks.limits < FREE).all()) for blocks in rows)

    @torch.no_grad()
    def calibrate(self, crops: Callable[[int, int], Tensor]) -> None:
        """Set the limits of blocks to what `crops` reach at any quality, and a little more; on the CPU."""
        rows = (self.g_a.blocks, self.g_s.blocks)
        for blocks in rows:
            blocks.limits.zero_()
            blocks.observing = True
        try:
            for quality in torch.linspace(0, 1, self.spec.anchors):
                x = crops(CALIBRATION_CROPS, 256).cpu().float().div_(255)
                at = quality.expand(len(x))
                self.g_s(self.coded(x.contiguous(memory_format=torch.channels_last), at)[0], at)
        finally:
            for blocks in rows:
                blocks.limits.mul_(LIMIT_MARGIN)
                blocks.observing = False

    def forward(self, x: Tensor, quality: Tensor, synthetic: int = 0) -> Likelihoods:
        """x (B, 3, H, W) in [0, 1], H and W multiples of 64; quality (B,) in [0, 1]; see `loss_curvature`."""
        y_hat, y_bits, z_bits = self.coded(x, quality, synthetic)
        decode = self.decoder or self.g_s
        return Likelihoods(decode(y_hat, quality), y_bits.flatten(1).sum(1), z_bits.flatten(1).sum(1))

    def coded(self, x: Tensor, quality: Tensor, synthetic: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """y_hat (B, M, H/16, W/16) in pixel units, and the bits of each symbol of y and z, of what `forward` takes.

        Mixed quantisation: the decoder sees rounding, the rate, in training, additive uniform noise
        (Minnen & Singh, "Channel-wise Autoregressive Entropy Models", ICIP 2020, section 3.3).
        """
        gain = torch.exp2(self.log2_gain(quality))
        y = self.g_a(x, quality) * gain
        z = self.h_a(asinh(y))
        z_bits = logistic_bits(self.quantised(z), self.sigma(self.log2_sigma_z(quality)))
        offset, mean = self.h_s(ste_round(z))
        sigma = self.sigma(self.log2_base(quality) + offset)
        mu = mean * sigma
        residual = y - mu
        y_bits = logistic_bits(self.quantised(residual), sigma)
        # mu moves neither the picture nor, but for the slope of soft rounding, its gradient; times the sigma of the DC
        # channel that leak is noise of hundreds of steps, so only the rate may teach mu.
        curvature = loss_curvature(self.spec, quality, x.shape, gain, synthetic).expand_as(y)
        centred = reconstruct(y - mu.detach(), centroid_shift(sigma.detach()), curvature)
        return (centred + mu.detach()) / gain, y_bits, z_bits

    def quantised(self, x: Tensor) -> Tensor:
        """What the rate is measured on: uniform noise in training, else the rounding that is coded."""
        return x + uniform_noise(x, self.shard) if self.training else x.round()

    @staticmethod
    def sigma(log2_sigma: Tensor) -> Tensor:
        """2^log2_sigma within the range of the entropy coder's tables; both bounds let gradients lead back."""
        return torch.exp2(upper_bound(lower_bound(log2_sigma, LOG2_SIGMA_MIN), LOG2_SIGMA_MAX))


def pad_to(x: Tensor, multiple: int) -> Tensor:
    """x (B, C, H, W), its last row and column repeated until H and W are multiples of `multiple`."""
    height, width = x.shape[-2:]
    return F.pad(x, (0, -width % multiple, 0, -height % multiple), mode="replicate")
