"""Pictures on a GPU, several at once: its networks see them side by side, threads of the CPU search and write.

One small picture leaves a GPU idle: to be told of its operators takes longer than to compute them, and then it waits
for the search for symbols. So pictures of one size in units of 64 px are a batch, each padded as it would be alone, and
two batches are under way, one on the GPU while the other is searched. What is larger than a tile, or is looked at
several times, is done by itself, as many at a time as there are threads.

Symbols can differ from those of a picture that is analysed alone, as those of any two devices can; every decoder reads
either.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from pipeline.codecs.base import Symbols
from pipeline.codecs.learned.analysis import padded
from pipeline.codecs.learned.filtering import Evidence
from pipeline.codecs.learned.quantise import PASSES, pulls, trusted
from pipeline.codecs.learned.slopes import by_autograd
from pipeline.codecs.learned.steps import Steps
from pipeline.codecs.learned.symbols import Grid, mu_of, y_base
from pipeline.codecs.learned.synthesis import tinted
from pipeline.codecs.learned.tiles import TILE_PX, without_tf32
from pipeline.codecs.learned.trellis import Plan, TrellisQuantiser
from pipeline.entropy.coder import VALUE_LIMIT
from pipeline.nn import integer
from pipeline.nn.layers import asinh
from pipeline.records import Picture

if TYPE_CHECKING:
    from pipeline.codecs.learned.networks import Networks

T = TypeVar("T")
CHUNK_MPX, BATCH_MPX = 32.0, 8.0
"""Among so many megapixels in a row pictures are looked for that fit together; so many go to the GPU at once."""
UNDER_WAY = 2


class Found(NamedTuple):
    """Symbols of one picture, and y_hat (1, M, h, w) in quantiser steps as its decoder will have it, when asked."""

    symbols: Symbols
    y_hat: Callable[[], Tensor]


class Setting(NamedTuple):
    """What is the same for all pictures; the model has a trellis."""

    networks: Networks
    quality_centi: int
    effort: int

    @property
    def trellis(self) -> TrellisQuantiser:
        assert self.networks.trellis is not None
        return self.networks.trellis


def each(
    pictures: Iterable[Picture],
    threads: int,
    alone: Callable[[Picture], T],
    setting: Setting | None,
    finish: Callable[[Picture, Found], T],
) -> Iterator[T]:
    """What `finish` makes of each picture and what was found, in order; or `alone` of what cannot be in a batch.

    Nothing can without a `setting`. Both are called in `threads` threads; what they raise is raised in that picture's
    turn.
    """
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    batches = ThreadPoolExecutor(UNDER_WAY)
    waiting = deque[list[Callable[[], T]]]()
    try:
        for chunk in _chunks(pictures):
            results: dict[int, Callable[[], T]] = {}
            for members in _batches(chunk) if setting is not None else ():
                assert setting is not None
                batch = Batch(setting, [chunk[k] for k in members], pool)
                under_way = batches.submit(_finished, batch, finish)
                results |= {k: partial(_of, under_way, place) for place, k in enumerate(members)}
            results |= {k: pool.submit(alone, chunk[k]).result for k in range(len(chunk)) if k not in results}
            waiting.append([results[k] for k in range(len(chunk))])
            while len(waiting) > UNDER_WAY:
                yield from (result() for result in waiting.popleft())
        yield from (result() for results in waiting for result in results)
    finally:
        batches.shutdown(cancel_futures=True)
        pool.shutdown(cancel_futures=True)


def _chunks(pictures: Iterable[Picture]) -> Iterator[list[Picture]]:
    chunk, held_mpx = list[Picture](), 0.0
    for picture in pictures:
        chunk.append(picture)
        held_mpx += picture.rgb.size / 3e6
        if held_mpx >= CHUNK_MPX:
            yield chunk
            chunk, held_mpx = [], 0.0
    if chunk:
        yield chunk


def _batches(chunk: Sequence[Picture]) -> Iterator[list[int]]:
    """Places of pictures that are analysed together."""
    groups: dict[tuple[Grid, bool], list[int]] = {}
    for k, picture in enumerate(chunk):
        height_px, width_px = picture.rgb.shape[:2]
        if picture.obstacle is None and max(height_px, width_px) <= TILE_PX:
            groups.setdefault((_whole(height_px, width_px), picture.gray), []).append(k)
    for (grid, _), group in groups.items():
        count = -(-len(group) * grid.height * grid.width * 256 // int(BATCH_MPX * 1e6))
        yield from (group[len(group) * i // count : len(group) * (i + 1) // count] for i in range(count))


def _whole(height_px: int, width_px: int) -> Grid:
    """That of a picture padded to multiples of 64."""
    return Grid.of(-(-height_px // 64) * 64, -(-width_px // 64) * 64)


def _finished(batch: Batch, finish: Callable[[Picture, Found], T]) -> list[Future[T]]:
    return [batch.pool.submit(finish, *one) for one in zip(batch.pictures, batch.found(), strict=True)]


def _of(batch: Future[list[Future[T]]], place: int) -> T:
    return batch.result()[place].result()


@dataclass(frozen=True)
class Batch:
    """Pictures of one size in units of 64 px, all gray or none; searches run in `pool`.

    Tensors are of the padded pictures, (N, 3, 64 a, 64 b), and of their latents, (N, M, 4 a, 4 b).
    """

    setting: Setting
    pictures: Sequence[Picture]
    pool: ThreadPoolExecutor

    @torch.no_grad()
    def found(self) -> list[Found]:
        """What `Networks.symbols_of` finds for each."""
        networks, quality_centi, effort = self.setting
        trellis, quality = self.setting.trellis, quality_centi / integer.QUALITY_UNITS
        steps = networks._steps(quality_centi)
        with without_tf32():
            x = self._pixels()
            y, z = self._latents(x, steps)
            index, mu = self._tables(z)
            indexes = self._of_each(index)
            prices = steps.error_bits.flatten().cpu().numpy()
            plans = list(self.pool.map(partial(trellis.plan, prices=prices), indexes))
            target = y
            symbols, values = self._settled(plans, target - mu)
            evidence = [Evidence(picture.height_px, picture.width_px, picture.gray) for picture in self.pictures]
            for number, pull in enumerate(pulls(PASSES[effort], quality), 1):
                y_hat = values.to(networks.device).add_(mu)
                slope = self._slope(x, y_hat, steps, evidence if number == PASSES[effort] else [])
                target = target + pull * (y_hat - trusted(slope, steps.error_bits, quality) - target)
                symbols, values = self._settled(plans, target - mu)
        largest = int(networks.model.tables.reaches[-1])
        wieners = self.pool.map(lambda seen: seen.filter(quality, largest), evidence)
        hyper = z.to(torch.int16).cpu().numpy()
        return [
            Found(
                Symbols(
                    model_id=networks.model.model_id,
                    height_px=picture.height_px,
                    width_px=picture.width_px,
                    gray=picture.gray,
                    quality_centi=quality_centi,
                    y=symbols[k],
                    z=hyper[k],
                    trellis=trellis.states,
                    wiener=b"" if wiener is None else wiener.to_bytes(networks.model.tables),
                    index=indexes[k],
                ),
                partial(self._y_hat, k, values, mu),
            )
            for k, (picture, wiener) in enumerate(zip(self.pictures, wieners, strict=True))
        ]

    def _own(self, k: int) -> tuple[slice, slice]:
        """The rows and columns of latents that a picture has."""
        grid = Grid.of(*self.pictures[k].rgb.shape[:2])
        return slice(grid.height), slice(grid.width)

    def _of_each(self, latents: Tensor) -> list[np.ndarray]:
        """(M, h, w) for each picture, in the memory of the CPU."""
        here = _on_host(latents)
        return [np.ascontiguousarray(here[k][:, *self._own(k)]) for k in range(len(here))]

    def _pixels(self) -> Tensor:
        """In [0, 1], edges repeated; in channels_last."""
        whole = torch.stack([padded(torch.from_numpy(picture.rgb), 64) for picture in self.pictures])
        return whole.to(self.setting.networks.device).permute(0, 3, 1, 2).float().div_(255)

    def _latents(self, x: Tensor, steps: Steps) -> tuple[Tensor, Tensor]:
        """y in quantiser steps, and z (N, C, a, b), integers as float64."""
        networks = self.setting.networks
        with torch.autocast(x.device.type, torch.bfloat16, enabled=networks.bf16):
            y = (networks.transforms.g_a(x, steps.quality) * steps.gain).contiguous()
        z = networks.transforms.h_a(asinh(y))
        return y, z.double().round_().clamp_(-VALUE_LIMIT, VALUE_LIMIT)

    def _tables(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Scale indexes, uint8, and mu in quantiser steps."""
        networks, hyper = self.setting.networks, z.transpose(0, 1)
        offset, mean = map(torch.as_tensor, networks.h_s(hyper if z.is_cuda else hyper.numpy()))
        base = torch.from_numpy(y_base(networks.model, self.setting.quality_centi)).to(z.device)
        position = integer.fixed_log2_sigma(base[:, None], offset)
        index = integer.index_of(position).to(torch.uint8)
        return index.transpose(0, 1), mu_of(position, mean).transpose(0, 1).contiguous()

    def _settled(self, plans: Sequence[Plan], residual: Tensor) -> tuple[list[np.ndarray], Tensor]:
        """Symbols (M, h, w) int16 of each, and what all stand for, on the CPU, float32; zeros beyond a picture."""
        here = _on_host(residual.clamp_(-VALUE_LIMIT, VALUE_LIMIT))
        values = torch.empty(residual.shape, pin_memory=residual.is_cuda)

        def settle(k: int) -> np.ndarray:
            own = (slice(None), *self._own(k))
            symbols, found = self.setting.trellis.along(plans[k], np.ascontiguousarray(here[k][own]))
            values[k] = 0
            values[k][own] = torch.from_numpy(found)
            return symbols

        return list(self.pool.map(settle, range(len(plans)))), values

    def _slope(self, x: Tensor, y_hat: Tensor, steps: Steps, evidence: Sequence[Evidence]) -> Tensor:
        """Of lmbda times the decoded pictures' squared errors over y_hat, bits a step, as `Networks._slope` has it.

        `evidence` of each picture is shown what this decodes.
        """
        networks, gray = self.setting.networks, self.pictures[0].gray
        part = steps.in_pixel_units(y_hat)
        x_hat, back = by_autograd(networks.transforms.g_s, part, steps.quality, networks.bf16)
        x_hat, pixel_bits = tinted(x_hat, gray), steps.pixel_bits(*x.shape[2:])
        over_x = (x_hat - x).mul_(2 * pixel_bits)
        seen = list[Future[None]]()
        for k, picture in enumerate(self.pictures):
            height, width = picture.rgb.shape[:2]
            over_x[k, :, height:], over_x[k, :, :, width:] = 0, 0
            if evidence:
                decoded, source = (whole[k : k + 1, :, :height, :width] for whole in (x_hat, x))
                seen.append(self.pool.submit(evidence[k].add, decoded, source, pixel_bits))
        slope = back(tinted(over_x, gray)) / steps.gain
        for one in seen:
            one.result()
        return slope

    def _y_hat(self, k: int, values: Tensor, mu: Tensor) -> Tensor:
        own = (slice(None), *self._own(k))
        return (values[k][own].to(mu.device) + mu[k][own])[None]


def _on_host(x: Tensor) -> np.ndarray:
    """A copy in memory that a GPU writes without detour, and that torch keeps for the next one."""
    if not x.is_cuda:
        return x.contiguous().numpy()
    return torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x.contiguous()).numpy()
