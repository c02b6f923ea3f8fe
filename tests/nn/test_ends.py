"""Both ends of a decoder in integers: what is compiled is what torch does, in whatever shape and by however many."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from pipeline.codecs.learned import clipping
from pipeline.nn import bytes_compiled, bytewise, ends, parted

SIZES = [(1, 1), (1, 5), (33, 1), (19, 30), (2, 150)]
ASINH = torch.linspace(-5, 5, 2 * ends.ASINH_LIMIT + 1)


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def some(*size: int, most: float = 200.0) -> Tensor:
    return torch.empty(size).uniform_(-most, most, generator=torch.Generator().manual_seed(len(size) + size[-1]))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("everywhere", [True, False])
@pytest.mark.parametrize("channels", [7, 128, 150])
def test_latents_are_the_same_bytes(size, everywhere, channels, threads):
    count = 20 * size[0] * size[1]
    factors = [some(1 if everywhere else count, channels, most=most).abs() for most in (90, 120)]
    args = some(count, channels), *factors, ASINH, some(channels, most=40).abs()
    for left, right in zip(ends.latents(bytes_compiled, *args), ends.latents(None, *args), strict=True):
        assert torch.equal(left, right)
        assert len(left.unique()) > 60


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("everywhere", [True, False])
def test_what_enters_blocks_is_laid_out_the_same(size, everywhere, threads):
    count = size[0] * size[1]
    h, factor = some(count, 4 * 24), some(1 if everywhere else count, 24)
    found, wanted = (ends.laid_out(made, h, factor, *size) for made in (bytes_compiled, None))
    assert torch.equal(found, wanted)
    first_square = (h[0].view(4, 24) * factor[0]).view(2, 2, 24)
    assert torch.equal(wanted.view(2 * size[0], 2 * size[1], 24)[:2, :2], first_square)


@pytest.mark.parametrize("size", SIZES)
def test_pixels_are_the_same(size, threads):
    count = size[0] * size[1]
    high, low, fine = some(count, 768), some(count, 768) / 3, some(4 * count, 192)
    found, wanted = (torch.empty(size[0], 16, 48 * size[1]) for _ in range(2))
    ends.joined(bytes_compiled, high, low, fine, found)
    ends.joined(None, high.clone(), low, fine, wanted)
    assert torch.equal(found, wanted)
    first = (high[0] + low[0]).view(16, 16, 3)
    first[:8, :8] += fine[0].view(8, 8, 3)
    assert torch.equal(wanted[0].view(16, -1, 3)[:8, :8], first[:8, :8])
    levels = wanted.view(16 * size[0], 16 * size[1], 3)
    assert torch.equal(ends.rounded(bytes_compiled, levels), ends.rounded(None, levels.clone()))


def test_all_threads_have_a_part_of_wide_strips(monkeypatch):
    """Strips of a photo are few rows, each of many positions."""
    seen = list[int]()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(parted, "_pool", lambda threads: Pool(seen))
    ends.joined(
        bytes_compiled, some(6 * 64, 768), some(6 * 64, 768), some(4 * 6 * 64, 192), torch.empty(6, 16, 48 * 64)
    )
    assert seen == [2]


class Pool:
    def __init__(self, seen: list[int]) -> None:
        self.seen = seen

    def map(self, function, *bounds):
        self.seen.append(len(bounds[0]))
        return map(function, *bounds)


def test_what_is_no_number_is_read_from_within_the_table():
    """A network that has gone wrong must not take the process with it."""
    steps = torch.full((3, 24), torch.nan)
    one = torch.ones(1, 24)
    high, _, of_asinh = ends.latents(bytes_compiled, steps, one, one, ASINH, torch.ones(24))
    assert (high == 255).all()
    assert (of_asinh == 128 + round(float(ASINH[-1]))).all()


@pytest.mark.parametrize("found", [bytewise.bytewise, clipping.compiled_filters])
def test_what_is_compiled_is_looked_at_as_it_is_used_whatever_are_the_defaults(found):
    found.cache_clear()
    torch.set_default_device("meta")
    torch.set_default_dtype(torch.float64)
    try:
        assert found() is not None
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
