"""Quality, and with it the quantiser's steps: one for a whole picture, or one for each position of y.

What follows from quality is as large as y where it differs from place to place, so it is only ever made for a window.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from pipeline.nn.freeze import FrozenTransforms
from pipeline.nn.integer import QUALITY_UNITS
from pipeline.nn.spec import HyperpriorSpec


@dataclass(frozen=True, eq=False)
class Steps:
    """`centi`, hundredths of quality in float64: (1,), or (1, h, w) for each position of y; `worth` is the model's."""

    transforms: FrozenTransforms
    spec: HyperpriorSpec
    worth: float
    centi: Tensor

    @property
    def everywhere(self) -> bool:
        """Whether quality is the same everywhere."""
        return self.centi.dim() == 1

    def with_errors_worth(self, factor: float) -> Steps:
        """The same, with errors so many times as dear."""
        return replace(self, worth=self.worth * factor)

    def within(self, top: int, bottom: int, left: int, right: int) -> Steps:
        """Those of a window given in pixels, from multiples of 16 on."""
        if self.everywhere:
            return self
        rows, cols = slice(top // 16, -(-bottom // 16)), slice(left // 16, -(-right // 16))
        return replace(self, centi=self.centi[:, rows, cols])

    @cached_property
    def _share(self) -> Tensor:
        return self.centi / QUALITY_UNITS

    @cached_property
    def quality(self) -> Tensor:
        """In [0, 1], float32, as networks take it."""
        return self._share.float()

    @cached_property
    def gain(self) -> Tensor:
        """Steps in one unit of y, (1, M, 1, 1) or (1, M, h, w)."""
        return self.transforms.gain(self.quality)

    def in_pixel_units(self, y_hat: Tensor) -> Tensor:
        """y_hat (1, M, h, w) in quantiser steps, of the same window, as g_s in floats wants it."""
        return (y_hat / self.gain).contiguous(memory_format=torch.channels_last)

    @cached_property
    def error_bits(self) -> Tensor:
        """What a squared error of one step is worth in bits, (M, 1, 1) or (M, h, w): about lmbda * 255^2 / (3 gain^2).

        The loss is bpp + lmbda * MSE with MSE over three channels, and g_s is close to orthonormal.
        """
        bits = self._unit_bits if self.everywhere else self._unit_bits[0]
        return bits / (3 * self.gain[0].square())

    def pixel_bits(self, height_px: int, width_px: int) -> Tensor:
        """What a squared error of a pixel in [0, 1] is worth in bits, (1,) or (1, 1, height_px, width_px)."""
        bits = self._unit_bits / 3
        if self.everywhere:
            return bits
        return bits[:, None].repeat_interleave(16, 2).repeat_interleave(16, 3)[:, :, :height_px, :width_px]

    @cached_property
    def _unit_bits(self) -> Tensor:
        """lmbda * 255^2, times what the model adds to it."""
        return (self.worth * 255**2 * self.spec.lmbda(self._share)).float()
