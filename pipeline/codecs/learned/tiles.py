"""Networks over a picture of any size on any device: in tiles, in the precision that was asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache

import torch
from torch import Tensor

from pipeline.errors import ConfigError

TILE_PX = 1024
HALO_PX = 64


def pick_device(name: str) -> torch.device:
    """ "auto" is CUDA where there is one, else the CPU. Raises ConfigError for what torch does not have here."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        why = str(error).partition("\n")[0]
        raise ConfigError(f"device {name!r}: {why}; use auto, cpu, or a CUDA device that exists") from None
    return torch.device(name)


@cache
def has_fast_bf16() -> bool:
    """Whether this CPU multiplies bf16 faster than fp32: with AMX, or AMD's AVX-512.

    Intel's AVX-512 alone takes twice as long as for fp32. That is told by what the CPU is and never by a clock, which
    on a busy machine says either, and then two processes would make different bytes of one photo.
    """
    if not torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
        return False
    has = torch.cpu.get_capabilities()
    if not has.get("amx_bf16") and not (has.get("avx512_bf16") and has.get("sse4a")):  # which only AMD has
        return False
    row = torch.ones(1, 32, dtype=torch.bfloat16, device="cpu")
    try:
        torch.ops.mkldnn._linear_pointwise(row, row, None, "none", [], "")
    except (
        AttributeError,
        RuntimeError,
    ):  # torch asks the CPU, and oneDNN may have been told of a smaller one, or not be here
        return False
    return True


def multiplies_rows() -> bool:
    """Whether oneDNN is here, and at home, whose products `learned.rows` is made of."""
    return torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability().startswith("AVX")


class _Tf32:
    """What torch was told of TF32, before the first of those came who do not want it and are still here."""

    lock, inside, before = threading.Lock(), 0, True


@contextmanager
def without_tf32() -> Iterator[None]:
    """Convolutions of float32 as such: on a GPU torch cuts their factors to 10 bits unless told otherwise.

    torch knows one answer for all threads, so that the last of them to leave puts it back.
    """
    with _Tf32.lock:
        if not _Tf32.inside:
            _Tf32.before = torch.backends.cudnn.allow_tf32
            torch.backends.cudnn.allow_tf32 = False
        _Tf32.inside += 1
    try:
        yield
    finally:
        with _Tf32.lock:
            _Tf32.inside -= 1
            if not _Tf32.inside:
                torch.backends.cudnn.allow_tf32 = _Tf32.before


def tiled(
    height: int,
    width: int,
    tile: Callable[[int, int, int, int], Tensor],
    out: Tensor,
    unit: int,
    halo_px: int = HALO_PX,
    tile_px: int | None = None,
) -> Tensor:
    """Fill `out` from `tile(top, bottom, left, right)` of windows in pixels; `unit` pixels make one element of `out`.

    Windows overlap by the halo, and only their inner part is used. One window if the picture is small.
    Tiles are `tile_px` wide, or TILE_PX.
    """
    with without_tf32() if out.is_cuda else nullcontext():
        _fill(height, width, tile, out, unit, halo_px, tile_px or TILE_PX)
    return out


def _fill(
    height: int,
    width: int,
    tile: Callable[[int, int, int, int], Tensor],
    out: Tensor,
    unit: int,
    halo_px: int,
    tile_px: int,
) -> None:
    for top, bottom, row0, row1 in _windows(height, halo_px, tile_px):
        for left, right, col0, col1 in _windows(width, halo_px, tile_px):
            part = tile(row0, row1, col0, col1)
            rows = slice(top // unit, top // unit + min(-(-(bottom - top) // unit), out.shape[2] - top // unit))
            cols = slice(left // unit, left // unit + min(-(-(right - left) // unit), out.shape[3] - left // unit))
            if bottom >= height:
                rows = slice(rows.start, out.shape[2])
            if right >= width:
                cols = slice(cols.start, out.shape[3])
            first, across = (top - row0) // unit, (left - col0) // unit
            out[:, :, rows, cols] = part[
                :, :, first : first + rows.stop - rows.start, across : across + cols.stop - cols.start
            ]


def _windows(size: int, halo_px: int, tile_px: int) -> Iterator[tuple[int, int, int, int]]:
    """(start, stop, start with halo, stop with halo) along one side."""
    if size <= tile_px + 2 * halo_px:
        yield 0, size, 0, size
        return
    for start in range(0, size, tile_px):
        stop = min(start + tile_px, size)
        yield start, stop, max(0, start - halo_px), min(size, stop + halo_px)
