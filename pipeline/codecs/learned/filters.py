"""Applying a Wiener filter: exact in any order of summation, on every device."""

from __future__ import annotations

from functools import cache
from types import ModuleType

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.codecs.learned.clipping import add_clipped, brightness, compiled_filters
from pipeline.codecs.learned.wiener import (
    LEVEL_LIMIT,
    LEVEL_UNITS,
    LIMIT_UNITS,
    MOST_LIMITS,
    PAIRS,
    RADIUS,
    Wiener,
)
from pipeline.nn.parted import over_rows

BLOCK_PX, STRIP_FLOATS = 8, 1 << 17
"""What a product takes of a row, and how much of a picture is in the cache while it does."""
WIDEST = BLOCK_PX + 2 * RADIUS
LEAST_ROWS = 16
"""Of a picture; fewer are not worth a thread."""


class Filter:
    """A filter on a device, compiled or by products, whichever that has."""

    def __init__(self, wiener: Wiener, device: torch.device) -> None:
        made = compiled_filters() if device.type == "cpu" else None
        self._by = _ByProducts(wiener, device) if made is None else _ByRows(wiener, made)

    def __call__(self, levels: Tensor) -> Tensor:
        """Levels (H, W, C) on 0 .. 255, float32, filtered; W is a multiple of 8. Neither rounded nor clamped; what lies
        outside is as the edge.
        """
        return self._by(levels)


class _ByRows:
    """Compiled: a strip of a picture at a time, its pairs once for all colours."""

    def __init__(self, wiener: Wiener, made: ModuleType, units: int = LEVEL_UNITS) -> None:
        colours = len(wiener.taps)
        self.gray, self.filtered = colours == 1, made.filtered
        centre, taps = np.zeros((3, 3), np.float32), np.zeros((len(PAIRS), 3, 3), np.float32)
        clipped, limits = np.zeros((len(PAIRS), MOST_LIMITS, 3), np.float32), np.zeros(MOST_LIMITS, np.float32)
        centre[:colours, :colours] = wiener.kernel[:, :, RADIUS, RADIUS].T
        linear = wiener.taps[:, : len(PAIRS) * colours].reshape(colours, len(PAIRS), colours)
        taps[:, :colours, :colours] = linear.transpose(1, 2, 0)
        clipped[:, : len(wiener.limits), :colours] = wiener.clipped.transpose(1, 0, 2)
        limits[: len(wiener.limits)] = _eighths(wiener)
        unit = 1 / (units << wiener.shift)
        self.how = float(units), float(LEVEL_LIMIT), unit, centre, taps, limits, clipped, np.array(PAIRS)

    def __call__(self, levels: Tensor) -> Tensor:
        seen = levels.detach().contiguous().flatten(1).numpy()
        out = np.empty(seen.shape, np.float32)
        over_rows(self.filtered, (out, np.arange(len(out))), seen, self.gray, *self.how, least=LEAST_ROWS)
        return torch.from_numpy(out).view(levels.shape)


class _ByProducts:
    """Products of 8 pixels of a row with their 12 neighbours of each of five rows, since no library promises how it
    sums up a convolution. In floats, whose integers are multiples of a power of two.

    linear (5, 12 C, 8 C): what each pixel of 12 in a row adds to 8 of a row, for each of five rows; a level is 1.
    limits, clipped (limits, 12, C): of clipped pairs, in eighths of a level.
    """

    def __init__(self, wiener: Wiener, device: torch.device) -> None:
        taps, colours = wiener.kernel, len(wiener.taps)
        out = np.zeros((2 * RADIUS + 1, WIDEST, colours, BLOCK_PX, colours))
        for place in range(BLOCK_PX):
            for right in range(2 * RADIUS + 1):
                out[:, place + right, :, place] = taps[:, :, :, right].transpose(2, 1, 0)
        unit = 1 / (LEVEL_UNITS << wiener.shift)
        out = out.reshape(2 * RADIUS + 1, WIDEST * colours, BLOCK_PX * colours) * unit
        exact = device.type == "cpu" and _multiplies_float32()
        self.linear = torch.from_numpy(out).to(device, torch.float32 if exact else torch.float64)
        self.limits, self.clipped = _eighths(wiener), wiener.clipped * unit

    def __call__(self, levels: Tensor) -> Tensor:
        height, width, colours = levels.shape
        whole = (levels * LEVEL_UNITS).round_().clamp_(0, LEVEL_LIMIT)
        padded = self.linear.new_empty(height + 2 * RADIUS, width + 2 * RADIUS, colours)
        inside = padded[RADIUS:-RADIUS]
        inside[:, RADIUS:-RADIUS], inside[:, :RADIUS], inside[:, -RADIUS:] = whole, whole[:, :1], whole[:, -1:]
        padded[:RADIUS], padded[-RADIUS:] = inside[0], inside[-1]
        blocks = padded.view(len(padded), -1).unfold(1, WIDEST * colours, BLOCK_PX * colours)
        _, across, reads = blocks.shape
        out = levels.new_empty(height * across, BLOCK_PX * colours)
        first, *others = self.linear.unbind()
        rows = height if levels.is_cuda else max(1, STRIP_FLOATS // (across * reads))
        for top in range(0, height, rows):
            bottom = min(top + rows, height)
            seen, size = blocks[top : bottom + 2 * RADIUS].reshape(-1, reads), (bottom - top) * across
            total = seen[:size].mm(first)
            for down, of_row in enumerate(others, 1):
                total.addmm_(seen[down * across : down * across + size], of_row)
            out[top * across : bottom * across] = total
        out = out.view(height, width, colours)
        if self.limits:
            add_clipped(out, brightness(padded).float(), self.limits, self.clipped)
        return out


def expected(x_hat: Tensor, wiener: Wiener | None) -> Tensor:
    """A decoded picture (1, 3, H, W) on 0 .. 1 as its filter will leave it, in floats: for an encoder's errors."""
    if wiener is None:
        return x_hat
    levels = x_hat[:, : len(wiener.taps)].float()
    made = compiled_filters() if x_hat.device.type == "cpu" else None
    if made is not None:
        out = _ByRows(wiener, made, LEVEL_LIMIT)(levels[0].permute(1, 2, 0)).permute(2, 0, 1)[None]
    else:
        out = _convolved(levels, wiener)
    return out.expand(-1, 3, -1, -1)


def _convolved(levels: Tensor, wiener: Wiener) -> Tensor:
    unit = 0.5**wiener.shift / LEVEL_LIMIT
    kernel = torch.from_numpy(wiener.kernel * unit).to(levels.device, torch.float32)
    seen = F.pad(levels.mul(LEVEL_LIMIT).round_().clamp_(0, LEVEL_LIMIT), (RADIUS,) * 4, mode="replicate")
    with torch.autocast(levels.device.type, enabled=False):
        out = F.conv2d(seen, kernel)
    if wiener.limits:
        bright = brightness(seen[0].permute(1, 2, 0))
        add_clipped(out[0].permute(1, 2, 0), bright, _eighths(wiener), wiener.clipped * unit)
    return out


def _eighths(wiener: Wiener) -> tuple[int, ...]:
    return tuple(LIMIT_UNITS * limit for limit in wiener.limits)


def _multiplies_float32() -> bool:
    """Whether float32 are multiplied as such: torch, or oneDNN by environment, may be told to cut them to bfloat16."""
    try:
        return torch.get_float32_matmul_precision() == "highest" and _is_exact_here()
    except RuntimeError:  # it was told so in another way
        return False


@cache
def _is_exact_here() -> bool:
    levels = torch.from_numpy(np.arange(LEVEL_LIMIT - 64 * WIDEST, LEVEL_LIMIT, dtype=np.float32).reshape(64, WIDEST))
    taps = torch.from_numpy(np.eye(WIDEST, dtype=np.float32) * (2**24 // LEVEL_LIMIT - 1))  # as large as any may be
    return torch.equal(levels.mm(taps).double(), levels.double().mm(taps.double()))
