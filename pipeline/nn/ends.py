"""Both ends of a decoder in integers: latents to what products read, what they leave to blocks and to a picture.

By what is compiled (`bytewise`) where that is `made`, else by torch, with the same results to the last bit.
"""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from pipeline.nn.codes import coded
from pipeline.nn.parted import over_rows

Y_UNITS, Y_HIGH, Y_LIMIT = 1 << 10, 1 << 7, 16319
"""The KLT reads latents in units of 2^-10, as 128 times a byte plus another one."""
FINE_CHANNELS = 128
"""The strongest, whose weights have 8 more bits."""
ASINH_UNITS, ASINH_LIMIT, ASINH_BITS = 128, 16383, 12
"""asinh is read from a table of its argument in units of 1/128, and is in units of 2^-12."""
LEAST_LATENTS = 96
"""Fewer are not worth a thread."""


def latents(
    made: ModuleType | None, steps: Tensor, to_klt: Tensor, to_asinh: Tensor, asinh: Tensor, entry: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Bytes of latents in steps (n, M): high (n, M) and low (n, M + up to FINE_CHANNELS) for the KLT, and of their
    asinh (n, M).

    Args:
        to_klt, to_asinh: what makes them units of the KLT and of the table `asinh`, (1, M) or (n, M).
        entry: (M,), what makes asinh what products read.
    """
    steps = steps.detach()
    if made is None:
        return *_of_klt(steps * to_klt), _of_asinh(steps * to_asinh, asinh, entry)
    count, channels = steps.shape
    high, low, out = (
        torch.empty(count, size, dtype=torch.uint8, device="cpu")
        for size in (channels, channels + min(channels, FINE_CHANNELS), channels)
    )
    tables = asinh.numpy(), entry.numpy()
    if len(to_klt) == 1:
        over_rows(made.latents, (steps, high, low, out), to_klt.numpy(), to_asinh.numpy(), *tables)
    else:
        over_rows(made.latents, (steps, high, low, out, to_klt, to_asinh), *tables)
    return high, low, out


def _of_klt(y: Tensor) -> tuple[Tensor, Tensor]:
    y = y.round_().clamp_(-Y_LIMIT, Y_LIMIT)
    high = (y * (1 / Y_HIGH)).round_()
    low = torch.cat([y.sub_(high * Y_HIGH), high[:, :FINE_CHANNELS]], dim=1)
    return coded(high), coded(low)


def _of_asinh(y: Tensor, asinh: Tensor, entry: Tensor) -> Tensor:
    place = y.round_().clamp_(-ASINH_LIMIT, ASINH_LIMIT).to(torch.int32).add_(ASINH_LIMIT)
    return coded(asinh.index_select(0, place.view(-1)).view(y.shape).mul_(entry))


def laid_out(made: ModuleType | None, h: Tensor, factor: Tensor, height: int, width: int) -> Tensor:
    """h (height width, 4 C), a square of 2 x 2 positions each, times `factor`, (1, C) or (height width, C), where they
    belong: (4 height width, C), rows of a picture one after the other.
    """
    channels = factor.shape[1]
    if made is None:
        h = h.view(len(h), 4, channels) * factor[:, None]
        return h.view(height, width, 2, 2, channels).transpose(1, 2).reshape(-1, channels)
    out = torch.empty(height, 4 * width, channels, dtype=torch.float32, device="cpu")
    rows = h.view(height, width, 4 * channels), out
    if len(factor) == 1:
        over_rows(made.laid_out, rows, factor.view(1, 1, channels).numpy(), least=_rows_of(width))
    else:
        over_rows(made.laid_out, (*rows, factor.reshape(height, width, channels)), least=_rows_of(width))
    return out.view(-1, channels)


def joined(made: ModuleType | None, high: Tensor, low: Tensor, fine: Tensor, out: Tensor) -> None:
    """Into `out` (H, 16, 48 W), rows of 16 px of a picture: what `high` and `low` leave of squares of 16 px, both
    (H W, 768), and `fine` of those of 8 px, (4 H W, 192), added to that.
    """
    height, width = out.shape[0], out.shape[2] // 48
    if made is None:
        out.view(height, 16, width, 48).copy_(_rows(high.add_(low), height, width, 16))
        out.view(2 * height, 8, 2 * width, 24).add_(_rows(fine, 2 * height, 2 * width, 8))
    else:
        large = (part.view(height, width, 768) for part in (high, low))
        over_rows(made.joined, (*large, fine.view(height, 4 * width, 192), out), least=_rows_of(width))


def _rows_of(width: int) -> int:
    return max(1, LEAST_LATENTS // max(1, width))


def _rows(patches: Tensor, height: int, width: int, side: int) -> Tensor:
    """Patches (height * width, side * side * 3) as rows of the picture, (height, side, width, side * 3), not copied."""
    return patches.view(height, width, side, 3 * side).transpose(1, 2)


def rounded(made: ModuleType | None, levels: Tensor) -> Tensor:
    """Levels (H, W, C), which may be overwritten, as bytes."""
    if made is None or not levels.is_contiguous():
        return levels.round_().clamp_(0, 255).byte()
    out = torch.empty(levels.shape, dtype=torch.uint8, device="cpu")
    over_rows(made.rounded, (levels.flatten(1), out.flatten(1)), least=16 * _rows_of(levels.shape[1] // 16))
    return out
