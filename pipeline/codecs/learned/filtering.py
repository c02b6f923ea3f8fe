"""Finding the Wiener filter of a picture."""

from __future__ import annotations

import copy
import math

import numpy as np
import torch
from torch import Tensor

from pipeline.codecs.learned.clipping import brightness, clipped_pairs
from pipeline.codecs.learned.wiener import (
    LEVEL_LIMIT,
    LIMIT_UNITS,
    MOST_LIMITS,
    PAIRS,
    RADIUS,
    Wiener,
)
from pipeline.entropy.coder import VALUE_LIMIT

SAMPLE_PX, SUMMANDS, SUMMANDS_OF_GPU = 1 << 17, 1 << 14, 1 << 18
LEAST_SHARE = 1 / 16
"""Rows are looked at, drawn at random, until they are so many pixels, or such a share of a large picture."""
THOROUGH = 4
"""Times as much, where there is time: 0.15 % (LOG.md)."""
UNSENT_SHARE = 1 / 4
"""Of those rows, where a filter is only to say what errors a pass should mind."""
TAP_DEVIATION = 0.05
"""Of taps, as expected before a picture is seen."""
BELIEVED = 0.5
"""Of what a filter saves in the picture that was looked at; the one that is sent is nearer to the source (LOG.md)."""
HEAD_BITS = 8 * 10
"""Of a section: its head, and what whole words waste."""
COLUMNS = 22
"""Of a product of a matrix with itself, of which half is needed."""


def limits_at(quality: float) -> tuple[int, ...]:
    """What encoders choose, in quarters of a level: about the error at that quality, in [0, 1], and four times that."""
    least = round(40 * 2 ** (-1.35 * quality))
    return least, 4 * least


class Evidence:
    """What least squares must know of a decoded picture and its error, gathered window by window.

    Args:
        height_px, width_px: of the picture.
        gray: its colours are one.
        quality: in [0, 1].
        largest: the largest tap that tables hold.
        thorough: THOROUGH times as much is looked at.
    """

    def __init__(
        self, height_px: int, width_px: int, gray: bool, quality: float, largest: int, thorough: bool = False
    ) -> None:
        self.quality, self.largest = quality, largest
        self.height_px, self.width_px = height_px, width_px
        self.colours, self.pixels = 1 if gray else 3, height_px * width_px
        self.share = min(1.0, max(LEAST_SHARE, SAMPLE_PX / self.pixels) * (THOROUGH if thorough else 1))
        self.limits = limits_at(quality)
        size = len(PAIRS) * (self.colours + MOST_LIMITS) + (self.colours if self.colours > 1 else 0)
        self.gram, self.cross, self.seen = np.zeros((size, size)), np.zeros((size, self.colours)), 0
        self.random = np.random.default_rng(0)
        self._found: tuple[object, Wiener | None] | None = None

    def copy(self, sent: bool) -> Evidence:
        """The same so far; a fourth as much is looked at from here on unless its filter is to be sent."""
        found = copy.deepcopy(self)
        found.share *= 1 if sent else UNSENT_SHARE
        return found

    def add(self, x_hat: Tensor, x: Tensor, bits: Tensor) -> None:
        """A window of the decoded picture and the source, (1, 3, H, W) on 0 .. 1, and what a squared error of one
        pixel of one colour is worth there, (1,) or (1, 1, H, W) bits.
        """
        height, width = x.shape[2:]
        if min(height, width) <= 2 * RADIUS:
            return
        inner = height - 2 * RADIUS
        rows = np.sort(self.random.choice(inner, max(1, round(self.share * inner)), replace=False)) + RADIUS
        together = max(1, (SUMMANDS_OF_GPU if x.is_cuda else SUMMANDS) // width)
        for first in range(0, len(rows), together):
            self._add_rows(x_hat, x, bits, rows[first : first + together])

    def _add_rows(self, x_hat: Tensor, x: Tensor, bits: Tensor, rows: np.ndarray) -> None:
        width, around = x.shape[3], rows[:, None] + np.arange(-RADIUS, RADIUS + 1)
        seen, wanted = self._rows(x_hat, around.reshape(-1), width), self._rows(x, rows, width)
        factors = _factors(seen.clamp_(0, 1).view(self.colours, *around.shape, width), wanted, self.limits)
        worth = bits
        if bits.dim() != 1:
            at = torch.from_numpy(rows).to(bits.device)
            worth = bits[0, 0].index_select(0, at)[:, RADIUS:-RADIUS].reshape(-1)
        self._sum_up(worth * (3.0 / self.colours), factors)  # a gray picture has each error three times
        self.seen += factors.shape[1]

    def _rows(self, x: Tensor, rows: np.ndarray, width: int) -> Tensor:
        """Those of a picture (1, 3, H, W), one colour after the other: (C, rows, width)."""
        chosen = x[0].permute(1, 2, 0).index_select(0, torch.from_numpy(rows).to(x.device)).float()
        return chosen[:, :width, : self.colours].permute(2, 0, 1).contiguous()

    def _sum_up(self, worth: Tensor, factors: Tensor) -> None:
        """torch multiplies, not NumPy: see `nn.integer`. Float32 does for the summands of a CPU, not of a GPU."""
        size = len(self.gram)
        with torch.autocast(factors.device.type, enabled=False):
            factors = factors.double() if factors.is_cuda else factors
            weighed = factors if len(worth) == 1 else factors[:size].mul(worth)
            sums = factors.new_empty(size, len(factors))
            for first in range(0, size, COLUMNS):  # what lies below the diagonal is as above
                rows = slice(first, min(first + COLUMNS, size))
                sums[rows, first:] = weighed[rows].mm(factors[first:].t())
            sums = sums.mul_(worth) if len(worth) == 1 else sums
        found = sums.cpu().numpy()
        self.gram += np.triu(found[:, :size]) + np.triu(found[:, :size], 1).T
        self.cross += found[:, size:]

    def filter(self) -> Wiener | None:
        """The filter that saves most, in bits and errors together; None if none saves anything."""
        known = self.seen, self.largest
        if self._found is None or self._found[0] != known:
            self._found = known, self._least_squares()
        return self._found[1]

    def _least_squares(self) -> Wiener | None:
        if not self.seen or not np.isfinite(self.gram).all():
            return None
        scale = self.pixels / self.seen
        shift = 5 + round(3 * self.quality)
        rows = [self._row(colour, scale, shift) for colour in range(self.colours)]
        taps = np.stack([taps for taps, _, _ in rows])
        saved, spent = (sum(row[k] for row in rows) for k in (1, 2))
        if BELIEVED * saved <= spent + HEAD_BITS or np.abs(taps).max() > min(self.largest, VALUE_LIMIT):
            return None
        found = Wiener(shift, taps.astype(np.int16), self.limits)
        return found if found.is_exact else None

    def _row(self, colour: int, scale: float, shift: int) -> tuple[np.ndarray, float, float]:
        """Taps of a colour, and the bits they save and take."""
        own, size = len(PAIRS) * self.colours, len(self.gram)
        columns, signs = np.arange(size), np.ones(size)
        if self.colours == 3:
            columns = np.concatenate([columns[:own], [own + colour, own + (colour + 2) % 3], columns[own + 3 :]])
            signs = np.ones(size - 1)
            signs[own + 1] = -1.0
        gram = self.gram[np.ix_(columns, columns)] * (np.outer(signs, signs) * scale)
        cross = self.cross[columns, colour] * (signs * scale)
        return _rounded(gram, cross, 1 << shift)


def _factors(seen: Tensor, wanted: Tensor, limits: tuple[int, ...]) -> Tensor:
    """What taps are multiplied by, and errors behind it: seen (C, n, 5, W) and wanted (C, n, W) to
    (12 + 24 + 1, or 36 + 3 + 24 + 3, (W - 4) n).
    """
    colours, count, _, width = seen.shape
    inner, size = width - 2 * RADIUS, len(PAIRS) * colours
    centre = seen[:, :, RADIUS, RADIUS:-RADIUS]
    differences = colours if colours > 1 else 0
    clipped = size + differences
    out = seen.new_empty(clipped + len(limits) * len(PAIRS) + colours, count, inner)
    twice = 2 * centre
    for k, (dy, dx) in enumerate(PAIRS):
        one, other = (seen[:, :, RADIUS + s * dy, RADIUS + s * dx :][..., :inner] for s in (1, -1))
        pair = out[k * colours : (k + 1) * colours]
        torch.add(one, other, out=pair)
        pair -= twice
    for colour in range(differences):
        torch.sub(centre[(colour + 1) % colours], centre[colour], out=out[size + colour])
    bright = brightness(seen.mul(LEVEL_LIMIT).round_().permute(1, 2, 3, 0)).mul_(1 / LEVEL_LIMIT)
    pairs = clipped_pairs(bright, [LIMIT_UNITS * limit / LEVEL_LIMIT for limit in limits])
    out[clipped:-colours] = pairs.flatten(0, 1)
    torch.sub(wanted[:, :, RADIUS:-RADIUS], centre, out=out[-colours:])
    return out.view(len(out), -1)


def _rounded(gram: np.ndarray, cross: np.ndarray, units: int) -> tuple[np.ndarray, float, float]:
    """Integers q for which q / units is best, and the bits they save and take: what w saves is 2 w cross - w gram w.

    One tap after the other is rounded, or left out where that is cheaper, and those that follow put right what that
    did (Hassibi & Stork, "Optimal Brain Surgeon", NIPS 1993).
    """
    size = len(cross)
    # In bits, a normal distribution of taps is a parabola around 0.
    inverse = np.linalg.inv(gram + np.eye(size) * (0.5 / np.log(2) / TAP_DEVIATION**2))
    taps, out, spent = inverse @ cross, np.zeros(size), 0.0
    for k in range(size):
        whole = round(float(taps[k]) * units)
        price = 2 * math.log2(1 + abs(whole)) + 1
        rounding, omission = (taps[k] - whole / units) ** 2 / inverse[k, k], taps[k] ** 2 / inverse[k, k]
        keep = rounding + price < omission
        out[k] = whole if keep else 0
        spent += price * keep + 0.5
        change = (taps[k] - out[k] / units) / inverse[k, k]
        taps[k + 1 :] -= inverse[k + 1 :, k] * change
        inverse[k + 1 :, k + 1 :] -= inverse[k + 1 :, k, None] * (inverse[k, k + 1 :] / inverse[k, k])
    q = out / units
    return out, float(2 * q @ cross - q @ gram @ q), spent
