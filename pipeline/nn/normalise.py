"""Evening out a picture before the convolutions: brightness, contrast and colour balance, undone after decoding.

Each channel is shifted to mean 1/2 and scaled to a common spread by six integers a picture that travel in its payload,
so that both sides compute the same. The mean scale also moves the quantiser and the tables, or a
picture of low contrast would be coded as finely as if its contrast mattered more.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.nn.spec import SCALE_BOUNDS, SCALE_STEPS_PER_OCTAVE

SPREAD = 0.22
"""Standard deviation, in [0, 1], that every channel gets."""


class Normalisation(NamedTuple):
    """`means` (B, 3) in 8-bit levels and `scales` (B, 3) in sixteenths of an octave, all integers."""

    means: Tensor
    scales: Tensor

    @classmethod
    def of(cls, x: Tensor) -> Normalisation:
        """Of pictures (B, 3, H, W) in [0, 1]."""
        flat = x.detach().float().flatten(2)
        spread = flat.std(dim=2, correction=0).clamp_min(1e-4)
        scales = (torch.log2(spread / SPREAD) * SCALE_STEPS_PER_OCTAVE).round().clamp(*SCALE_BOUNDS)
        return cls((flat.mean(dim=2) * 255).round(), scales)

    @property
    def steps(self) -> Tensor:
        """(B,): the mean scale in whole sixteenths of an octave."""
        return torch.floor(self.scales.sum(dim=1) / 3)

    def apply(self, x: Tensor) -> Tensor:
        return (x - self._mean()) / self._factor()

    def undo(self, x: Tensor) -> Tensor:
        return x * self._factor() + self._mean()

    def _mean(self) -> Tensor:
        return (self.means / 255)[:, :, None, None]

    def _factor(self) -> Tensor:
        return torch.exp2(self.scales / SCALE_STEPS_PER_OCTAVE)[:, :, None, None]
