"""The accelerator half of a learned codec: pixels to symbols and back, for one picture at a time.

g_a and g_s run in tiles whose halo covers their receptive field, so that memory is bounded and there are no seams;
h_s runs in the same integer arithmetic as in the entropy coder, on whatever device the rest is on. The decoder
computes in fp32; the encoder may use bf16 for its CNN branches, for what it finds is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from pipeline.codecs.base import Symbols
from pipeline.codecs.learned.symbols import Grid, y_base
from pipeline.codecs.learned.weights import FrozenModel
from pipeline.nn import integer
from pipeline.nn.freeze import FrozenTransforms
from pipeline.nn.hyperprior import pad_to
from pipeline.nn.spec import HyperpriorSpec

TILE_PX = 1024
HALO_PX = 64
RDO_REACH = 32
VALUE_LIMIT = 32767


def pick_device(name: str) -> torch.device:
    """ "auto" is CUDA where there is one, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def has_fast_bf16() -> bool:
    """Whether this CPU multiplies bf16 in hardware; elsewhere bf16 is emulated and slower than fp32."""
    flags = torch.backends.cpu.get_cpu_capability()
    return flags.startswith("AVX512") and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


class Networks:
    """A frozen model on a device."""

    def __init__(self, model: FrozenModel, device: str = "auto") -> None:
        self.model = model
        self.device = pick_device(device)
        transforms = FrozenTransforms(HyperpriorSpec(**model.spec), dict(model.arrays))
        self.transforms = transforms.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.bf16 = self.device.type == "cuda" or has_fast_bf16()
        self.bits = torch.from_numpy(_bits_of(model)).to(self.device)
        self.h_s = model.h_s.to(lambda array: torch.from_numpy(array).to(self.device))

    @torch.inference_mode()
    def analyse(self, rgb: np.ndarray, quality_centi: int, gray: bool, effort: int = 1) -> tuple[Symbols, np.ndarray]:
        """Symbols of an (H, W, 3) uint8 picture, and the (H, W, 3) uint8 picture they decode to."""
        symbols, y_hat = self._quantised(rgb, quality_centi, gray, effort)
        return symbols, self._picture(y_hat, symbols)

    @torch.inference_mode()
    def symbols_of(self, rgb: np.ndarray, quality_centi: int, gray: bool, effort: int = 1) -> Symbols:
        """What `analyse` finds, without the work of synthesis."""
        return self._quantised(rgb, quality_centi, gray, effort)[0]

    def _quantised(self, rgb: np.ndarray, quality_centi: int, gray: bool, effort: int) -> tuple[Symbols, Tensor]:
        """Symbols, and y_hat (1, M, h, w) in quantiser steps."""
        height_px, width_px = rgb.shape[:2]
        grid, quality = Grid.of(height_px, width_px), self._quality(quality_centi)
        gain = self.transforms.gain(quality)
        y, error_bits = self._latents(rgb, quality, gain), self._error_bits(quality_centi, gain[0])
        z = self._hyper_latents(y)
        y_hat = y[0, :, : grid.height, : grid.width]
        symbols = np.empty(y_hat.shape, dtype=np.int16)
        for rows, position, mu in self._bands(grid, quality_centi, z):
            index = integer.index_of(position).long()
            residual = (y_hat[:, rows] - mu).clamp(-VALUE_LIMIT, VALUE_LIMIT)
            value = self._quantise(residual, index, error_bits) if effort else residual.round()
            value = value * (index >= self.model.skip_below)
            symbols[:, rows] = value.cpu().numpy()
            y_hat[:, rows] = value + mu
        found = Symbols(
            self.model.model_id, height_px, width_px, gray, quality_centi, symbols, z.cpu().numpy().astype(np.int16)
        )
        return found, y_hat[None]

    @torch.inference_mode()
    def synthesise(self, symbols: Symbols) -> np.ndarray:
        """(H, W, 3) uint8."""
        grid = Grid.of(symbols.height_px, symbols.width_px)
        y_hat = torch.from_numpy(symbols.y).to(self.device).float()
        z = torch.from_numpy(symbols.z.astype(np.float64)).to(self.device)
        for rows, _, mu in self._bands(grid, symbols.quality_centi, z):
            y_hat[:, rows] += mu
        return self._picture(y_hat[None], symbols)

    def _quality(self, quality_centi: int) -> Tensor:
        return torch.tensor([quality_centi / integer.QUALITY_UNITS], dtype=torch.float32, device=self.device)

    def _error_bits(self, quality_centi: int, gain: Tensor) -> Tensor:
        """What a squared error of one quantiser step is worth in bits, (M, 1, 1): lmbda * 255^2 / (3 gain^2).

        The loss is bpp + lmbda * MSE with MSE over three channels, and g_s is close to orthonormal.
        """
        lmbda = HyperpriorSpec(**self.model.spec).lmbda(quality_centi / integer.QUALITY_UNITS)
        return lmbda * 255**2 / (3 * gain.square())

    def _quantise(self, residual: Tensor, index: Tensor, error_bits: Tensor) -> Tensor:
        """Rate-distortion optimised rounding: the cheapest of the nearest magnitude, the one below it, and zero."""
        magnitude = residual.abs()
        nearest = magnitude.round()
        best, best_cost = nearest, self._cost(nearest, magnitude, index, error_bits)
        for other in ((nearest - 1).clamp_min(0), torch.zeros_like(nearest)):
            cost = self._cost(other, magnitude, index, error_bits)
            best, best_cost = torch.where(cost < best_cost, other, best), torch.minimum(cost, best_cost)
        return torch.where(magnitude < RDO_REACH, best, nearest) * residual.sign()

    def _cost(self, value: Tensor, magnitude: Tensor, index: Tensor, error_bits: Tensor) -> Tensor:
        bits = self.bits[index, value.clamp_max(RDO_REACH).long()]
        return bits + error_bits * (magnitude - value).square()

    def _hyper_latents(self, y: Tensor) -> Tensor:
        """round(h_a) over tiles of y (1, M, 4 hz, 4 wz) in quantiser steps: z (N, hz, wz), integers as float64."""

        def tile(top: int, bottom: int, left: int, right: int) -> Tensor:
            part = torch.asinh(y[:, :, top // 16 : bottom // 16, left // 16 : right // 16])
            return self.transforms.h_a(part)

        height_px, width_px = 16 * y.shape[2], 16 * y.shape[3]
        z = torch.empty(1, self.model.spec["hyper"], height_px // 64, width_px // 64, device=self.device)
        return _tiled(height_px, width_px, tile, z, 64)[0].double().round().clamp(-VALUE_LIMIT, VALUE_LIMIT)

    def _bands(self, grid: Grid, quality_centi: int, z: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """(rows of y, fixed-point scale position, mu in quantiser steps) of each band."""
        base = torch.from_numpy(y_base(self.model, quality_centi)).to(self.device)
        for band in grid.bands():
            offset, mean = band.hyper(self.h_s, z)
            position = integer.fixed_log2_sigma(base, offset)
            mu = mean.float() * (0.5**integer.ACTIVATION_BITS) * integer.sigma_of(position.float())
            yield band.rows, position, mu

    def _latents(self, rgb: np.ndarray, quality: Tensor, gain: Tensor) -> Tensor:
        """g_a over tiles, in quantiser steps: (1, M, 4 hz, 4 wz), the picture's edges repeated to multiples of 64."""

        def tile(top: int, bottom: int, left: int, right: int) -> Tensor:
            x = torch.from_numpy(rgb[top:bottom, left:right].copy()).to(self.device)
            x = x.permute(2, 0, 1)[None].float().div_(255)
            x = pad_to(x, 64).contiguous(memory_format=torch.channels_last)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                return self.transforms.g_a(x, quality) * gain

        return _tiled(rgb.shape[0], rgb.shape[1], tile, self._empty_latents(rgb.shape[:2]), 16)

    def _empty_latents(self, shape: tuple[int, ...]) -> Tensor:
        grid = Grid.of(*shape[:2])
        return torch.empty(1, self.model.spec["latent"], 4 * grid.z_height, 4 * grid.z_width, device=self.device)

    def _picture(self, y_hat: Tensor, symbols: Symbols) -> np.ndarray:
        """g_s over tiles, to 8 bits; gray pictures get the mean of the channels."""
        quality = self._quality(symbols.quality_centi)
        gain = self.transforms.gain(quality)
        out = torch.empty(1, 3, 16 * y_hat.shape[2], 16 * y_hat.shape[3], dtype=torch.uint8, device=self.device)

        def tile(top: int, bottom: int, left: int, right: int) -> Tensor:
            part = y_hat[:, :, top // 16 : bottom // 16, left // 16 : right // 16] / gain
            x_hat = self.transforms.g_s(part.contiguous(memory_format=torch.channels_last), quality)
            if symbols.gray:
                x_hat = x_hat.mean(1, keepdim=True).expand(-1, 3, -1, -1)
            return (x_hat * 255).round().clamp(0, 255).byte()

        out = _tiled(out.shape[2], out.shape[3], tile, out, 1)
        return np.ascontiguousarray(out[0, :, : symbols.height_px, : symbols.width_px].permute(1, 2, 0).cpu().numpy())


def _bits_of(model: FrozenModel) -> np.ndarray:
    """Cost of magnitudes 0 .. RDO_REACH under each table, (tables, RDO_REACH + 1) float32; escapes as in the table."""
    rows = []
    for index, reach in enumerate(model.tables.reaches):
        bits = model.tables.bits(index)
        row = np.full(RDO_REACH + 1, bits[-1] + 8, dtype=np.float32)
        held = bits[reach:-1][: RDO_REACH + 1]
        row[: len(held)] = held
        rows.append(row)
    return np.stack(rows)


def _tiled(height: int, width: int, tile: Callable[[int, int, int, int], Tensor], out: Tensor, unit: int) -> Tensor:
    """Fill `out` from `tile(top, bottom, left, right)` of windows in pixels; `unit` pixels make one element of `out`.

    Windows overlap by the halo, and only their inner part is used. One window if the picture is small.
    """
    for top, bottom, row0, row1 in _windows(height):
        for left, right, col0, col1 in _windows(width):
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
    return out


def _windows(size: int) -> Iterator[tuple[int, int, int, int]]:
    """(start, stop, start with halo, stop with halo) along one side."""
    if size <= TILE_PX + 2 * HALO_PX:
        yield 0, size, 0, size
        return
    for start in range(0, size, TILE_PX):
        stop = min(start + TILE_PX, size)
        yield start, stop, max(0, start - HALO_PX), min(size, stop + HALO_PX)
