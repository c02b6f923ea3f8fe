"""Pictures on a GPU, several at once: they are analysed and searched side by side, and threads of the CPU write.

One small picture leaves a GPU idle, which takes longer to be told of operators than to compute them. So pictures of one
size in units of 64 px are a batch, each padded as it would be alone, and two batches are under way. What is larger than
a tile, or is looked at several times, is done by itself, as many at a time as there are threads and memory.

Symbols can differ from those of a picture that is analysed alone, as those of any two devices can, and by a little more
next to edges that were padded; every decoder reads either.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from pipeline.codecs.base import Symbols
from pipeline.codecs.learned import hyper_latents
from pipeline.codecs.learned.analysis import padded
from pipeline.codecs.learned.dequantise import mu_of, y_base
from pipeline.codecs.learned.filtering import Evidence
from pipeline.codecs.learned.filters import expected
from pipeline.codecs.learned.quantise import PASSES, PASSES_TO_BE_EXACT, move, passes_of, worth_in
from pipeline.codecs.learned.slopes import by_autograd, by_klt
from pipeline.codecs.learned.steps import Steps
from pipeline.codecs.learned.symbols import Grid
from pipeline.codecs.learned.synthesis import tinted
from pipeline.codecs.learned.tiles import TILE_PX, without_tf32
from pipeline.codecs.learned.trellis import TrellisQuantiser
from pipeline.entropy.coder import VALUE_LIMIT
from pipeline.nn import integer
from pipeline.nn.layers import asinh
from pipeline.records import Picture

if TYPE_CHECKING:
    from pipeline.codecs.learned.networks import Networks

T = TypeVar("T")
CHUNK_MPX, BATCH_MPX, MPX_A_GIB = 32.0, 16.0, 0.25
"""Among so many megapixels in a row pictures are looked for that fit together; so many at most go to the GPU at once,
and so many for each GiB of its memory, for two batches under way take 1 GiB a megapixel."""
GIB_ALONE = 2.0
"""Of memory for each picture that is done by itself: so many go at once, and it is hoped that it will do."""
UNDER_WAY = 2


class Found(NamedTuple):
    """Symbols of one picture, and y_hat (1, M, h, w) in quantiser steps as its decoder will have it."""

    symbols: Symbols
    y_hat: Tensor


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
    device: torch.device,
    threads: int,
    alone: Callable[[Picture], T],
    setting: Setting | None,
    finish: Callable[[Picture, Found], T],
) -> Iterator[T]:
    """What `finish` makes of each picture and what was found, in order; or `alone` of what cannot be in a batch.

    Nothing can without a `setting`. Both are called in `threads` threads at most; what they raise is raised in that
    picture's turn, and what `pictures` raises behind the last of those before.
    """
    pool, batches = _threads(threads)
    lone = _lone(max(1, int(min(threads, _gib(device) / GIB_ALONE))))
    stopped = threading.Event()

    def unless_stopped(work: Callable[..., T]) -> Callable[..., T]:
        def careful(*args: Any) -> T:
            if stopped.is_set():
                raise CancelledError
            return work(*args)

        return careful

    begin = _Begin(pool, batches, lone, unless_stopped(alone), setting, unless_stopped(finish), stopped)
    if setting is not None and device.type == "cuda":
        setting.trellis.search.settle()  # made here, as other constants were, and there before other streams use them
        torch.cuda.synchronize(device)
    waiting = deque[list[Callable[[], T]]]()
    try:
        for chunk in _chunks(pictures):
            if isinstance(chunk, Exception):
                yield from (result() for results in waiting for result in results)
                raise chunk
            waiting.append(begin(chunk))
            while len(waiting) > UNDER_WAY:
                yield from (result() for result in waiting.popleft())
        yield from (result() for results in waiting for result in results)
    finally:
        stopped.set()  # for what has not begun


class _Begin(NamedTuple):
    """Begins with a chunk of pictures; gives what waits for the result of each."""

    pool: ThreadPoolExecutor
    batches: ThreadPoolExecutor
    lone: ThreadPoolExecutor
    alone: Callable[[Picture], Any]
    setting: Setting | None
    finish: Callable[[Picture, Found], Any]
    stopped: threading.Event

    def __call__(self, chunk: Sequence[Picture]) -> list[Callable[[], Any]]:
        results: dict[int, Callable[[], Any]] = {}
        if self.setting is not None:
            for members in _batches(chunk, min(BATCH_MPX, MPX_A_GIB * _gib(self.setting.networks.device))):
                batch = Batch(self.setting, [chunk[k] for k in members], self.pool)
                future = self.batches.submit(self.finished, batch)
                results |= {k: partial(_of, future, place) for place, k in enumerate(members)}
        for k in range(len(chunk)):
            if k not in results:
                results[k] = self.lone.submit(self.alone, chunk[k]).result
        return [results[k] for k in range(len(chunk))]

    def finished(self, batch: Batch) -> list[Future[Any]]:
        """Each picture's result to come; what a GPU cannot do for all at once is done one by one."""
        if self.stopped.is_set():
            raise CancelledError
        found = None
        try:
            with _stream(batch.setting.networks.device):
                found = batch.found()
        except RuntimeError as error:  # out of memory, mostly
            logging.getLogger(__name__).warning(
                "%d pictures go one by one, for together they failed: %s",
                len(batch.pictures),
                str(error).split("\n")[0],
            )
        if found is None:  # and the error is gone, with what it held
            return [self.lone.submit(self.alone, picture) for picture in batch.pictures]
        return [self.pool.submit(self.finish, *one) for one in zip(batch.pictures, found, strict=True)]


@cache
def _lone(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count)


@cache
def _threads(count: int) -> tuple[ThreadPoolExecutor, ThreadPoolExecutor]:
    """Kept, for cuDNN takes a second to prepare what it does for a thread."""
    return ThreadPoolExecutor(count), ThreadPoolExecutor(UNDER_WAY)


_mine = threading.local()


@contextmanager
def _stream(device: torch.device) -> Iterator[None]:
    """A stream for each thread, so that it does not wait for what another one has asked for."""
    if device.type != "cuda":
        yield
        return
    if not hasattr(_mine, "streams"):
        _mine.streams = {}
    if device not in _mine.streams:
        _mine.streams[device] = torch.cuda.Stream(device)
    with torch.cuda.stream(_mine.streams[device]):
        yield


def _gib(device: torch.device) -> float:
    """What there is of memory for a process: free, or its own already."""
    if device.type != "cuda":
        return math.inf
    return (torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)) / 2**30


def _chunks(pictures: Iterable[Picture]) -> Iterator[list[Picture] | Exception]:
    """Pictures in a row, and last, if there is one, the error that they ended with."""
    chunk, held_mpx = list[Picture](), 0.0
    coming = iter(pictures)
    while True:
        try:
            picture = next(coming, None)
        except Exception as error:
            yield chunk
            yield error
            return
        if picture is not None:
            chunk.append(picture)
            held_mpx += picture.rgb.size / 3e6
        if chunk and (picture is None or held_mpx >= CHUNK_MPX):
            yield chunk
            chunk, held_mpx = [], 0.0
        if picture is None:
            return


def _batches(chunk: Sequence[Picture], limit_mpx: float) -> Iterator[list[int]]:
    """Places of pictures that are analysed together."""
    groups: dict[tuple[Grid, bool], list[int]] = {}
    for k, picture in enumerate(chunk):
        height_px, width_px = picture.rgb.shape[:2]
        if picture.obstacle is None and max(height_px, width_px) <= TILE_PX:
            groups.setdefault((_whole(height_px, width_px), picture.gray), []).append(k)
    for (grid, _), group in groups.items():
        most = max(1, int(limit_mpx * 1e6 / (grid.height * grid.width * 256)))
        count = -(-len(group) // most)
        yield from (group[len(group) * i // count : len(group) * (i + 1) // count] for i in range(count))


def _whole(height_px: int, width_px: int) -> Grid:
    """That of a picture padded to multiples of 64."""
    return Grid.of(-(-height_px // 64) * 64, -(-width_px // 64) * 64)


def _of(batch: Future[list[Future[T]]], place: int) -> T:
    return batch.result()[place].result()


@dataclass(frozen=True)
class Batch:
    """Pictures of one size in units of 64 px, all gray or none; what the CPU does for each is done in `pool`.

    Tensors are of the padded pictures, (N, 3, 64 a, 64 b), and of their latents, (N, M, 4 a, 4 b).
    """

    setting: Setting
    pictures: Sequence[Picture]
    pool: ThreadPoolExecutor

    @torch.no_grad()
    def found(self) -> list[Found]:
        """What `Networks.symbols_of` finds for each."""
        networks, quality_centi, effort = self.setting
        trellis, quality, passes = self.setting.trellis, quality_centi / integer.QUALITY_UNITS, PASSES[effort]
        steps = networks._steps(quality_centi).with_errors_worth(worth_in(passes))
        with without_tf32():
            x = self._pixels()
            y, z = self._latents(x, steps)
            index, mu = self._tables(z)
            layout = trellis.search.layout(index, (index >= networks.model.skip_below) & self._inside(y))

            def settled(target: Tensor) -> tuple[Tensor, Tensor]:
                residual = (target - mu).clamp_(-VALUE_LIMIT, VALUE_LIMIT)
                symbols, values = trellis.search.cheapest(layout, residual, steps.error_bits)
                return symbols, values.add_(mu)

            symbols, y_hat = settled(y)
            evidence = nothing = self._no_evidence(quality, passes >= PASSES_TO_BE_EXACT)
            for step in passes_of(passes, quality):
                evidence = [one.copy(sent=step.last) for one in nothing]
                slope = self._slope(x, y_hat, steps, evidence, passes, step.linear)
                move(y, y_hat, slope, steps.error_bits, quality, step)
                symbols, y_hat = settled(y)
        sent, tables, hyper = _on_host(symbols), _on_host(index), _on_host(z.to(torch.int16))

        def one(k: int) -> Found:
            own, picture = (slice(None), *self._own(k)), self.pictures[k]
            wiener = evidence[k].filter()
            found = Symbols(
                model_id=networks.model.model_id,
                height_px=picture.height_px,
                width_px=picture.width_px,
                gray=picture.gray,
                quality_centi=quality_centi,
                y=sent[k][own].copy(),
                z=hyper[k].copy(),
                trellis=trellis.states,
                wiener=b"" if wiener is None else wiener.to_bytes(networks.model.tables),
                index=tables[k][own].copy(),
            )
            return Found(found, y_hat[k][own][None])

        return list(self.pool.map(one, range(len(self.pictures))))

    def _no_evidence(self, quality: float, thorough: bool) -> list[Evidence]:
        """For each picture."""
        largest = self.setting.networks.largest_tap
        return [Evidence(one.height_px, one.width_px, one.gray, quality, largest, thorough) for one in self.pictures]

    def _own(self, k: int) -> tuple[slice, slice]:
        """The rows and columns of latents that a picture has."""
        grid = Grid.of(*self.pictures[k].rgb.shape[:2])
        return slice(grid.height), slice(grid.width)

    def _inside(self, latents: Tensor) -> Tensor:
        """Which positions each picture has, (N, 1, 4 a, 4 b)."""
        inside = torch.zeros(len(latents), 1, *latents.shape[2:], dtype=torch.bool)
        for k, place in enumerate(inside):
            place[0][self._own(k)] = True
        return inside.to(latents.device)

    def _pixels(self) -> Tensor:
        """In [0, 1], edges repeated; in channels_last."""
        grid = _whole(self.pictures[0].height_px, self.pictures[0].width_px)
        shape = len(self.pictures), 16 * grid.height, 16 * grid.width, 3
        whole = torch.empty(shape, dtype=torch.uint8, pin_memory=self.setting.networks.device.type == "cuda")
        for picture, place in zip(self.pictures, whole, strict=True):
            rgb = np.require(picture.rgb, requirements=["C", "W"])
            place.copy_(padded(torch.from_numpy(rgb), 64))
        return whole.to(self.setting.networks.device).permute(0, 3, 1, 2).float().div_(255)

    def _latents(self, x: Tensor, steps: Steps) -> tuple[Tensor, Tensor]:
        """y in quantiser steps, and z (N, C, a, b), integers as float64."""
        networks = self.setting.networks
        with torch.autocast(x.device.type, torch.bfloat16, enabled=networks.bf16):
            y = (networks.transforms.g_a(x, steps.quality) * steps.gain).contiguous()
        z = networks.transforms.h_a(asinh(y))
        return y, z.double().round_().clamp_(-hyper_latents.LIMIT, hyper_latents.LIMIT)

    def _tables(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Scale indexes, uint8, and mu in quantiser steps."""
        networks, hyper = self.setting.networks, z.transpose(0, 1)
        offset, mean = map(torch.as_tensor, networks.h_s(hyper if z.is_cuda else hyper.numpy()))
        base = torch.from_numpy(y_base(networks.model, self.setting.quality_centi)).to(z.device)
        position = integer.fixed_log2_sigma(base[:, None], offset)
        index = integer.index_of(position).to(torch.uint8)
        return index.transpose(0, 1), mu_of(position, mean).transpose(0, 1).contiguous()

    def _slope(
        self, x: Tensor, y_hat: Tensor, steps: Steps, evidence: Sequence[Evidence], passes: int, linear: bool
    ) -> Tensor:
        """Of lmbda times the decoded pictures' squared errors over y_hat, bits a step, as `Networks._slope` has it.

        Floats see what a picture was padded with behind its edges, a decoder sees zeros: slopes there are not quite
        its own. `evidence` of each picture is shown what is decoded, and errors are those behind its filter.
        """
        networks, gray = self.setting.networks, self.pictures[0].gray
        part = steps.in_pixel_units(y_hat)
        way = by_klt if linear else by_autograd
        x_hat, back = way(networks.transforms.g_s, part, steps.quality, networks.bf16)
        if passes >= PASSES_TO_BE_EXACT and networks.synthesis.exact is not None:
            x_hat = x_hat.clone()
            for k, one in enumerate(y_hat):
                exactly = networks.synthesis.exact(one[:, *self._own(k)], steps.centi).div_(255)
                x_hat[k, :, : exactly.shape[0], : exactly.shape[1]] = exactly.permute(2, 0, 1)
        x_hat, pixel_bits = tinted(x_hat, gray), steps.pixel_bits(*x.shape[2:])
        over_x = torch.zeros_like(x)  # and beyond each picture's edges
        for k, seen in enumerate(evidence):
            own = slice(k, k + 1), slice(None), slice(seen.height_px), slice(seen.width_px)
            seen.add(x_hat[own], x[own], pixel_bits)
            over_x[own] = (expected(x_hat[own], seen.filter()) - x[own]).mul_(2 * pixel_bits)
        return back(tinted(over_x, gray)) / steps.gain


def _on_host(x: Tensor) -> np.ndarray:
    """A copy in memory that a GPU writes without detour, and that torch keeps for the next one."""
    if not x.is_cuda:
        return x.contiguous().numpy()
    return torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x.contiguous()).numpy()
