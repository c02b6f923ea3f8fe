"""Which integers to send: rate-distortion optimised quantisation of latents.

Every symbol goes to the magnitude that costs least in bits plus lmbda times squared error, and around better targets
with every pass: at y_hat, with g the slope of the decoder's true error, that error is about |y_hat - t|^2 with
t = y_hat - g / 2, where squared errors have the curvature of orthonormal transforms (0.8 to 1 was measured, 0.7 for
the rarest channels). So t is what should have been rounded. That is proximal gradient descent with the
quantiser for a proximal step; t is approached by short and shrinking steps, as all symbols move at once.

After Parikh & Boyd, "Proximal Algorithms", 2014, section 4.2. In training/LOG.md it beats stochastic Gumbel annealing
(Yang, Bamler & Mandt, NeurIPS 2020) with an eighth of its passes through g_s.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.codecs.learned.weights import FrozenModel
from pipeline.entropy.tables import FrequencyTables

REACH = 32
"""Magnitudes from here on are rounded: their neighbours cost the same."""
SURELY_ZERO = 0.25
"""Magnitudes below stay zero: a symbol of 1 stands for at least a half, and costs more."""
PASSES = (0, 1, 2, 3, 4, 6, 8, 12, 16, 32)
"""Slopes of the decoder's error that each effort computes; the first LINEAR_PASSES of them see the KLT's part alone."""
PASSES_TO_BE_EXACT = 8
"""From so many on, errors are those of the decoder in integers, for most of a pass's time: many passes end where the
float one is best, which is another place (0.2 % at 8 passes, 0.4 % at 32, LOG.md)."""

LINEAR_PASSES = 1
"""So many, the first, take errors back through the KLT alone, in half a pass's time: that costs 0.6 % of the rate where
there is no other, and nothing from three passes on (LOG.md)."""

TRUST = 1.0
"""Root mean square over channels of a step that is believed. On photos it is 0.2 to 0.25, and 0.9 at most; thousands,
and in no useful direction, where networks see what they never learned."""


def worth_in(passes: int) -> float:
    """What an error is worth, of what lmbda says, to symbols that are chosen in so many passes and to their filter.

    For the same trade-off a quality three points lower saves 0.2 to 0.4 %, and in many passes five points lower another
    0.2 %: much of what coarser steps do wrong is put right by other symbols (LOG.md).
    """
    return 1.0 if not passes else 1.17 if passes < 12 else 1.3


class Pass(NamedTuple):
    """How far a pass moves towards the new target, whether errors go back through the KLT alone, whether it is the
    last.
    """

    pull: float
    linear: bool
    last: bool


def passes_of(count: int, quality: float) -> Iterator[Pass]:
    """`count` passes; `quality` in [0, 1]. Coarse steps want more care (LOG.md)."""
    first = 0.25 + 0.225 * quality
    for k in range(count):
        yield Pass(first * (1 - (k + 0.5) / (count + 1.2)), k < LINEAR_PASSES, k == count - 1)


def move(target: Tensor, y_hat: Tensor, slope: Tensor, error_bits: Tensor, quality: float, by: Pass) -> None:
    """Moves `target` to where the slope at `y_hat`, bits a step, wants it, as far as a pass does.

    All are (..., M, h, w), `error_bits` spreads to that; `slope` is overwritten.
    """
    wish = trusted(slope, error_bits, quality, by.linear)
    target.lerp_(torch.sub(y_hat, wish, out=wish), by.pull)


def trusted(slope: Tensor, error_bits: Tensor, quality: float, linear: bool) -> Tensor:
    """How far from y_hat a slope (..., M, h, w), bits a step, wants what is rounded, in steps; it takes its place.

    Errors are a tenth more curved than those of orthonormal transforms where steps are coarse. A `linear` slope does
    not see what they ask for through the CNN, and less of it where they are coarse, which is as much as the packaged
    model's leaves to it (LOG.md). What asks for more than TRUST is shortened.
    """
    share = 1.28 - 0.16 * quality if linear else 0.91 + 0.1 * quality
    wish = slope.mul_(share / (2 * error_bits))
    reach = wish.square().mean(-3, keepdim=True).sqrt_()
    return wish.mul_((TRUST / reach.clamp_min(1e-9)).clamp_max_(1))


class Quantiser:
    """Rounds residuals under a frozen model's tables; costs are in bits."""

    def __init__(self, model: FrozenModel, device: torch.device) -> None:
        self.skip_below = model.skip_below
        self.bits = torch.from_numpy(bits_of(model.tables)).to(device)
        self.shifts = torch.from_numpy(model.shifts).to(device)

    def nearest(self, residual: Tensor, index: Tensor) -> Tensor:
        """Integers nearest to `residual`; zero where the tables at `index` are not coded."""
        return residual.round() * (index >= self.skip_below)

    def centred(self, symbols: Tensor, index: Tensor) -> Tensor:
        """What integers under the tables at `index` stand for: the centroids of their bins."""
        out = symbols.clone(memory_format=torch.contiguous_format)
        flat = out.view(-1)
        coded = _places(flat != 0)
        flat[coded] -= flat[coded].sign() * self.shifts[_at(coded, index, out)]
        return out

    def cheapest(self, residual: Tensor, index: Tensor, error_bits: Tensor) -> Tensor:
        """The cheapest of nearest magnitude, the one below, and zero; `error_bits` is the price of a squared step."""
        out = torch.zeros_like(residual, memory_format=torch.contiguous_format)
        doubtful = _places(((residual.abs() >= SURELY_ZERO) & (index >= self.skip_below)).reshape(-1))
        values, tables, price = (x.expand_as(out).reshape(-1)[doubtful] for x in (residual, index, error_bits))
        magnitude, tables = values.abs(), tables.long()
        # Centroids lie below their integers, so that a magnitude halfway up may be nearer to the one above.
        nearest = (magnitude + self.shifts[tables]).round()
        best, best_cost = nearest, self._cost(nearest, magnitude, tables, price)
        for other in ((nearest - 1).clamp_min(0), torch.zeros_like(nearest)):
            cost = self._cost(other, magnitude, tables, price)
            best, best_cost = torch.where(cost < best_cost, other, best), torch.minimum(cost, best_cost)
        out.view(-1)[doubtful] = torch.where(magnitude < REACH, best, nearest) * values.sign()
        return out

    def _cost(self, value: Tensor, magnitude: Tensor, index: Tensor, error_bits: Tensor) -> Tensor:
        error = magnitude - value + value.sign() * self.shifts[index]
        return self.bits[index, value.clamp_max(REACH).long()] + error_bits * error.square()


def _places(mask: Tensor) -> Tensor:
    """Where `mask` (n,) is true; NumPy is eight times as fast at this as torch on a CPU."""
    return torch.from_numpy(np.flatnonzero(mask.numpy())) if mask.device.type == "cpu" else mask.nonzero().squeeze(1)


def _at(places: Tensor, index: Tensor, like: Tensor) -> Tensor:
    """`index`, spread to the shape of `like`, at flat `places`."""
    return index.expand_as(like).reshape(-1)[places].long()


def bits_of(tables: FrequencyTables) -> np.ndarray:
    """Cost of magnitudes 0 .. REACH under each table, (tables, REACH + 1) float32; escapes as in the table."""
    rows = []
    for index, reach in enumerate(tables.reaches):
        bits = tables.bits(index)
        row = np.full(REACH + 1, bits[-1] + 8, dtype=np.float32)
        held = bits[reach:-1][: REACH + 1]
        row[: len(held)] = held
        rows.append(row)
    return np.stack(rows)
