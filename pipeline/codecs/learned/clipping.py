"""The part of a filter that is not linear: neighbours count by how much brighter they are, but only up to a limit.

What a neighbour across an edge shows is another thing, so that no linear filter may trust it much. In integers, so
that every order of summation gives the same. After the clipped differences of the adaptive loop filter of VVC:
Karczewicz et al., "VVC In-Loop Filters", IEEE Trans. Circuits and Systems for Video Technology 2021.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from pipeline.codecs.learned.wiener import PAIRS, RADIUS
from pipeline.compiling import right

STRIP_PX = 1 << 18


def brightness(levels: Tensor) -> Tensor:
    """(red + 2 green + blue) / 4, rounded down, of integers (..., 3), float32: (...); those of (..., 1) themselves."""
    if levels.shape[-1] == 1:
        return levels[..., 0].contiguous()
    red, green, blue = levels.unbind(-1)
    return torch.add(red, green, alpha=2).add_(blue).mul_(0.25).floor_()


def clipped_pairs(rows: Tensor, limits: Sequence[float]) -> Tensor:
    """What both of each pair have more than their centre, each within each limit, of five `rows` (n, 5, W) at a time,
    contiguous float32: (limits, 12, n, W - 4).
    """
    made = compiled_filters() if rows.device.type == "cpu" else None
    if made is None:
        return _clipped_pairs(rows, limits)
    out = rows.new_empty(len(limits), len(PAIRS), len(rows), rows.shape[2] - 2 * RADIUS)
    made.pairs(rows.numpy(), np.array(limits, np.float32), np.array(PAIRS), out.numpy())
    return out


def _clipped_pairs(rows: Tensor, limits: Sequence[float]) -> Tensor:
    around = rows.unfold(2, rows.shape[2] - 2 * RADIUS, 1).permute(1, 2, 0, 3).flatten(0, 1)
    more = around - around[len(PAIRS)]
    out = more.new_empty(len(limits), len(PAIRS), *more.shape[1:])
    for within, limit in zip(out, limits, strict=True):
        each = more.clamp(-limit, limit)  # in the order of pairs, once backwards and, behind the centre, once forwards
        torch.add(each[-len(PAIRS) :], each[: len(PAIRS)].flip(0), out=within)
    return out


def add_clipped(out: Tensor, seen: Tensor, limits: Sequence[int], taps: np.ndarray) -> None:
    """Adds `taps` (limits, 12, C) times clipped pairs of `seen` (H + 4, W + 4), integers, to `out` (H, W, C), all
    float32.
    """
    factors = torch.from_numpy(np.ascontiguousarray(taps, np.float32)).to(out.device)
    height, width, _ = out.shape
    rows = seen.unfold(0, 2 * RADIUS + 1, 1).transpose(1, 2)
    together = max(1, STRIP_PX // width)
    for top in range(0, height, together):
        strip = out[top : top + together]
        for within, by in zip(_clipped_pairs(rows[top : top + together], limits), factors, strict=True):
            for pair, factor in zip(within, by, strict=True):
                strip.addcmul_(pair[..., None], factor)


@cache
def compiled_filters() -> ModuleType | None:
    """`filters_compiled`, some times as fast as torch, where there is Numba and what it compiles is right."""
    return right("pipeline.codecs.learned.filters_compiled", _agrees, "filters")


def _agrees(made: ModuleType) -> bool:
    """On rows and columns that are more than what is compiled takes at once."""
    random, pairs = np.random.default_rng(0), np.array(PAIRS)
    rows = torch.from_numpy(random.integers(0, 200, (3, 5, 604)).astype(np.float32))
    wanted = _clipped_pairs(rows, (16, 64))
    given = torch.zeros_like(wanted)
    made.pairs(rows.numpy(), np.array((16, 64), np.float32), pairs, given.numpy())
    agreed = torch.equal(given, wanted)
    for colours, limits in ((1, (16, 64)), (3, (0, 0)), (3, (16, 64))):
        levels = random.integers(-20, 300, (30, 300, colours)).astype(np.float32) / 16  # ties in eighths, among others
        centre, taps = (random.integers(-9, 10, size).astype(np.float32) for size in ((3, 3), (len(PAIRS), 3, 3)))
        clipped = random.integers(-9, 10, (len(PAIRS), 2, 3)).astype(np.float32)
        found = np.zeros((30, 300 * colours), np.float32)
        how = colours == 1, 8.0, 120.0, 0.5, centre, taps, np.array(limits, np.float32), clipped, pairs
        made.filtered(found, np.arange(30), levels.reshape(30, -1), *how)
        whole = np.rint(levels * 8).clip(0, 120)
        padded = np.pad(whole, [(RADIUS, RADIUS), (RADIUS, RADIUS), (0, 0)], mode="edge")
        around = np.lib.stride_tricks.sliding_window_view(padded, (30, 300), (0, 1))  # (5, 5, C, 30, 300)
        sums = np.einsum("dhw,dc->hwc", around[RADIUS, RADIUS], centre[:colours, :colours])
        for (down, across), of in zip(PAIRS, taps, strict=True):
            both = around[RADIUS + down, RADIUS + across] + around[RADIUS - down, RADIUS - across]
            sums += np.einsum("dhw,dc->hwc", both, of[:colours, :colours])
        total, bright = torch.from_numpy(np.ascontiguousarray(sums)), brightness(torch.from_numpy(padded))
        add_clipped(total, bright, limits, clipped[:, :, :colours].transpose(1, 0, 2))
        agreed = agreed and np.array_equal(found.reshape(sums.shape), total.numpy() * 0.5)
    return agreed
