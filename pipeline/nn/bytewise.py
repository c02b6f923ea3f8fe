"""What lies between products of bytes, by what Numba compiles, where there is Numba and it does what torch does."""

from __future__ import annotations

from functools import cache
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from pipeline.compiling import right
from pipeline.nn import ends
from pipeline.nn.codes import CODE_LIMIT, SPATIAL_LIMIT, coded, gate


@cache
def bytewise() -> ModuleType | None:
    """`bytes_compiled`, some times as fast as torch; None without it."""
    return right("pipeline.nn.bytes_compiled", _agrees, "decoders")


def _agrees(made: ModuleType) -> bool:
    """On all gates, on ties, and on what limits are for; in a millisecond."""
    random = np.random.default_rng(0)
    halves = [*np.arange(-160, 160.5, 0.5), -1e6, -3000, 3000, 1e6]
    v = np.array([halves, halves], np.float32)
    x, more = (np.array(random.integers(-300, 300, v.shape), np.float32) for _ in range(2))
    x /= 2
    more /= 2
    factor, limit = np.array(random.uniform(0.1, 4, v.shape[1]), np.float32), np.float32(SPATIAL_LIMIT)
    entering, sums, leaving = x.copy(), x.copy(), x.copy()
    spread, spread_taped, pairs = v.copy(), v.copy(), np.concatenate([x / 256, v], 1)
    codes, slopes = (np.zeros((6, *v.shape), dtype) for dtype in (np.uint8, np.int16))
    made.entered(entering, codes[0], factor)
    made.coded(x, codes[1], factor)
    made.added(sums, more, codes[2])
    made.added_and_entered(leaving, more, codes[3], factor)
    made.spread(spread, factor, limit)
    made.spread_taped(spread_taped, np.zeros(v.shape, np.int8), factor, limit)
    made.passed(pairs, codes[4])
    made.passed_taped(pairs, codes[5], np.zeros_like(codes[0]), slopes[0])
    gates, seven = v.copy(), np.array(7 / np.maximum(np.abs(v[0]), 0.5), np.float32)  # a gate more or less is 7 more
    made.spread(gates, seven, limit)

    by, u, w = (torch.from_numpy(each) for each in (factor, x / 256, v))
    in_units, with_more = torch.from_numpy(x) * by, torch.from_numpy(x + more)
    passed = coded(gate(w.round()).mul_(u))
    bytes_of = in_units.clone(), torch.from_numpy(x) + by, with_more.clone(), with_more * by
    wanted = torch.stack([*(coded(each) for each in bytes_of), passed, passed])
    spreading, gating = (
        gate(w.round()).mul_(w).mul_(each).round_().clamp_(-SPATIAL_LIMIT, SPATIAL_LIMIT)
        for each in (by, torch.from_numpy(seven))
    )
    floats = [(entering, _held(in_units)), (sums, with_more), (leaving, _held(with_more * by))]
    floats += [(spread, spreading), (spread_taped, spreading), (gates, gating)]
    same = all(torch.equal(torch.from_numpy(given), right) for given, right in floats)
    return same and torch.equal(torch.from_numpy(codes), wanted) and _ends_agree(made)


def _ends_agree(made: ModuleType) -> bool:
    random = torch.Generator("cpu").manual_seed(0)

    def some(*size: int, most: float = 200.0) -> Tensor:
        return (torch.rand(size, generator=random, dtype=torch.float32, device="cpu") - 0.5).mul_(2 * most)

    height, width, channels = 3, 2, ends.FINE_CHANNELS + 24
    asinh, entry = some(2 * ends.ASINH_LIMIT + 1, most=9), some(channels, most=16).abs_()
    steps, fine = some(6, channels), some(24, 192, most=600).round_().div_(2)
    steps[:, :4] = torch.tensor([[0.5, -1.5, 1e9, -1e9]], dtype=torch.float32, device="cpu")
    same = torch.equal(ends.rounded(made, fine), ends.rounded(None, fine.clone()))
    high, low = some(6, 768), some(6, 768)
    pictures = torch.empty(2, height, 16, 48 * width, dtype=torch.float32, device="cpu")
    for by, picture in zip((made, None), pictures, strict=True):
        ends.joined(by, high.clone(), low, fine, picture)
    same = same and torch.equal(*pictures)
    for count in (1, 6):
        factors = some(count, channels, most=100).abs_(), some(count, channels, most=200).abs_()
        for factor in factors:
            factor[:, :4] = 1
        read = [ends.latents(by, steps, *factors, asinh, entry) for by in (made, None)]
        same = same and all(map(torch.equal, *read))
        h, factor = some(6, 4 * channels), factors[0]
        same = same and torch.equal(*(ends.laid_out(by, h, factor, height, width) for by in (made, None)))
    return same


def _held(x: Tensor) -> Tensor:
    return x.clamp(-CODE_LIMIT, CODE_LIMIT)
