"""g_s in integers: the same picture from the same payload, to the last bit, on every device.

Factors of every product are integers of 8 bits (of the depth-wise layers, which no hardware takes as bytes, of 10 and
12), so that every sum of products is an integer below 2^24: exact in float32 and in int32, in any order of summation.
What lies between is done one IEEE operation at a time, each of which is defined to the last bit, and the two functions
that are not, asinh and the sigmoid, are read from a table or rounded far from where two roundings meet. Where a CPU
multiplies bytes in hardware, it is also the fastest way.

Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", CVPR
2018; for decoders that must agree, Balle, Johnston & Minnen, "Integer Networks", ICLR 2019.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from types import ModuleType

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.errors import BitstreamError
from pipeline.nn import ends, integer
from pipeline.nn.bytewise import bytewise
from pipeline.nn.codes import (
    CODE_LIMIT,
    GATE_ONE,
    GATE_UNITS,
    SPATIAL_LIMIT,
    SPATIAL_WEIGHT_LIMIT,
    WEIGHT_LIMIT,
    ByteLinear,
    coded,
    entered,
    gate,
    power,
    require_exact,
)
from pipeline.nn.ends import ASINH_BITS, ASINH_LIMIT, ASINH_UNITS, FINE_CHANNELS, Y_UNITS
from pipeline.nn.layers import DepthConvBlock
from pipeline.nn.parted import over_rows, strips
from pipeline.nn.spec import HyperpriorSpec
from pipeline.nn.transforms import FREE, SynthesisTransform

PREFIX = "exact."
LOG2_UNITS = 1 << 16
"""Gains and modulations are powers of two whose exponents are in units of 2^-16."""
FACTOR_LEAST, FACTOR_LIMIT, SHIFT_LIMIT, LOG2_LIMIT = 1e-9, 1e6, 40, 30
"""No model has any like it; beyond, float32 could overflow."""
KEPT_QUALITIES = 128
STRIP_POSITIONS = 1536
"""So many positions at a time have what is between the two products of a feed-forward in the cache."""
STRIP_LATENTS = 192
"""The same of what becomes pixels."""
TAPE_OF_SPREAD, TAPE_OF_GATES = 100, (255, 256)
"""What is one in tapes."""


class Tape:
    """What the way back through a block reads, of its n positions.

    of_spread (n, C): the derivative of SiLU. gates, of_gates (n, 2 C): what slopes over what passes are multiplied by,
    in codes and units of the gate, to be those over u and v.
    """

    def __init__(self, positions: int, channels: int) -> None:
        self.of_spread = np.empty((positions, channels), np.int8)
        self.gates = np.empty((positions, 2 * channels), np.uint8)
        self.of_gates = np.empty((positions, 2 * channels), np.int16)


class _Block:
    """`layers.DepthConvBlock`: x (1, h, w, C) float32 in units of its own, changed in place."""

    def __init__(self, arrays: Mapping[str, np.ndarray], name: str, device: torch.device) -> None:
        self.enter, self.spread = (
            torch.from_numpy(arrays[f"{name}.{part}"]).to(device) for part in ("rescale", "spatial.rescale")
        )
        self.expand, self.project, self.gate, self.merge = (
            _linear(arrays, f"{name}.{part}", device) for part in ("expand", "project", "gate", "merge")
        )
        weight, shift, bias = (arrays[f"{name}.spatial.{part}"] for part in ("weight", "shift", "bias"))
        require_exact(weight, SPATIAL_LIMIT)
        scale = power(shift)
        self.kernel = (torch.from_numpy(weight).float() * scale[:, None]).view(-1, 1, 3, 3).to(device)
        self.bias = torch.from_numpy(bias).to(device)
        self.convolved: Callable[..., Tensor] = _depthwise if device.type == "cuda" else F.conv2d
        self.arrays = [x.cpu().numpy().copy() for x in (self.spread, self.bias, self.enter)]

    def __call__(self, x: Tensor) -> Tensor:
        _, height, width, channels = x.shape
        v = self.expand(entered(x, self.enter))
        spread = gate(v.round()).mul_(v).mul_(self.spread).round_().clamp_(-SPATIAL_LIMIT, SPATIAL_LIMIT)
        seen = self.convolved(spread.permute(0, 3, 1, 2), self.kernel, None, 1, 1, 1, channels)
        x.add_(self.project(coded(seen.permute(0, 2, 3, 1).add_(self.bias))))
        together = height if x.is_cuda else max(1, STRIP_POSITIONS // width)
        for strip in [x] if height <= together else x.split(together, 1):
            u, v = self.gate(coded(strip.clone())).chunk(2, 3)
            strip.add_(self.merge(coded(gate(v.round_()).mul_(u))))
        return x

    def by(
        self, made: ModuleType, x: Tensor, codes: Tensor, height: int, leave: np.ndarray, tape: Tape | None = None
    ) -> None:
        """The same by what is compiled: x (h w, C), as it entered, and its codes to those that `leave`."""
        v, (spread, bias, _) = self.expand(codes), self.arrays
        factor = spread, np.float32(SPATIAL_LIMIT)
        if tape is None:
            over_rows(made.spread, (v,), *factor)
        else:
            over_rows(made.spread_taped, (v, tape.of_spread), *factor)
        image = v.view(1, height, -1, v.shape[1]).permute(0, 3, 1, 2)
        seen = self.convolved(image, self.kernel, None, 1, 1, 1, v.shape[1]).permute(0, 2, 3, 1)
        out, rows, packed = seen.reshape(v.shape).contiguous().numpy(), x.numpy(), codes.numpy()
        for strip in strips(len(rows)):
            here, own, read = rows[strip], packed[strip], codes[strip]
            over_rows(made.coded, (out[strip], own), bias)
            over_rows(made.added, (here, self.project(read), own))
            inner = np.empty((len(own), 2 * own.shape[1]), np.uint8)
            if tape is None:
                over_rows(made.passed, (self.gate(read), inner))
            else:
                over_rows(made.passed_taped, (self.gate(read), inner, tape.gates[strip], tape.of_gates[strip]))
            over_rows(made.added_and_entered, (here, self.merge(torch.from_numpy(inner)), own), leave)


def _depthwise(x: Tensor, kernel: Tensor, *_: object) -> Tensor:
    """For GPUs: cuDNN may transform factors (Winograd, FFT), and sums are exact no more. torch's own does not."""
    found: Tensor = torch.ops.aten._conv_depthwise2d(x, kernel, [3, 3], None, [1, 1], [1, 1], [1, 1])
    return found


def in_integers(arrays: Mapping[str, np.ndarray]) -> bool:
    """Whether a model's decoder is one; models from before, and those that were not polished, decode in floats."""
    return any(name.startswith(PREFIX) for name in arrays)


def hold(g_s: SynthesisTransform, arrays: Mapping[str, np.ndarray]) -> None:
    """Hold what passes the gates of g_s in floats within what codes of it reach.

    So slopes, and pictures in bf16, are nearer to the decoder's. Where units were learned, values beyond are many. A
    model does not tell its units, so they are found again, by least squares, from what integers are to floats: those of
    what goes into `expand`, whose results are in units of the gate, then those of what comes out of `gate`.
    """

    def factors(layer: str) -> Tensor:
        weight, shift = (torch.from_numpy(arrays[f"{PREFIX}{layer}.{part}"]) for part in ("weight", "shift"))
        return weight.double() * torch.exp2(-shift.double())[:, None]

    for k, block in enumerate(g_s.blocks):
        assert isinstance(block, DepthConvBlock)
        expand, gated = (layer.weight.detach().cpu().double().flatten(1) for layer in (block.expand, block.gate))
        unit = (factors(f"{k}.expand") * expand).sum(0) / expand.square().sum(0) / GATE_UNITS
        told = gated * unit.nan_to_num(0, 0, 0)
        reach = CODE_LIMIT / GATE_ONE * told.square().sum(1) / (factors(f"{k}.gate") * told).sum(1)
        reach = reach.chunk(2)[0].nan_to_num(FREE, FREE, FREE)
        reach = torch.where(reach > 0, reach, FREE).clamp_max(FREE)
        block.held = reach.float().view(1, -1, 1, 1).to(block.gate.weight.device)


class ExactSynthesis:
    """g_s of a frozen model.

    Raises:
        BitstreamError: an array is missing or misshapen, or a sum could leave the exact range of float32.
    """

    def __init__(self, spec: HyperpriorSpec, arrays: Mapping[str, np.ndarray], device: torch.device) -> None:
        own = {name.removeprefix(PREFIX): value for name, value in arrays.items() if name.startswith(PREFIX)}
        _require_fitting(own, spec)
        self.device, self.tables = device, {name: own[name] for name in ("log2_gain", "log2_modulation", "y_std")}
        self.high, self.low, self.head = (_linear(own, name, device) for name in ("klt.high", "klt.low", "head"))
        places = np.arange(4 * spec.width).reshape(spec.width, 4).T.ravel()  # of a square, all of one together
        together = {name: own[name][places] for name in ("up.weight", "up.shift", "up.bias")}
        self.up = _linear(together, "up", device)
        self.blocks = [_Block(own, str(k), device) for k in range(spec.decoder_blocks)]
        self.leave, self.entry = (torch.from_numpy(own[f"{x}.rescale"].copy()).to(device) for x in ("head", "up"))
        self.leaving = own["head.rescale"].copy()  # Numba takes none that may not be written to
        self.asinh = torch.from_numpy(asinh_table()).to(device)
        self._kept: dict[int, list[Tensor]] = {}
        self._made_of = spec, {PREFIX + name: value for name, value in own.items()}, device

    def __reduce__(self) -> tuple[type[ExactSynthesis], tuple[HyperpriorSpec, dict[str, np.ndarray], torch.device]]:
        """Made again where it arrives: weights in the order of oneDNN do not travel."""
        return ExactSynthesis, self._made_of

    def __call__(self, y_hat: Tensor, quality_centi: Tensor, tapes: list[Tape] | None = None) -> Tensor:
        """x_hat (16 h, 16 w, 3) on 0 .. 255, neither rounded nor clamped, float32; `tapes` takes that of each block.

        Args:
            y_hat: (M, h, w) float32 in quantiser steps.
            quality_centi: (1,) for all positions, or (1, h, w) for each; integers of 0 to 10,000 of any dtype.
        """
        channels, height, width = y_hat.shape
        made = bytewise() if y_hat.device.type == "cpu" else None
        to_klt, to_asinh, of_h = self.factors(quality_centi)
        steps = y_hat.permute(1, 2, 0).contiguous().view(-1, channels)
        high, low, entering = ends.latents(made, steps, to_klt, to_asinh, self.asinh, self.entry)
        x = ends.laid_out(made, self.up(entering), of_h, height, width)
        codes = self._through_blocks(made, x, 2 * height, tapes)
        out = torch.empty(height, 16, 48 * width, dtype=torch.float32, device=y_hat.device)
        rows = height if y_hat.is_cuda else max(1, STRIP_LATENTS * torch.get_num_threads() // width)
        parts = zip(*(part.split(rows * width) for part in (high, low, codes.view(len(steps), -1))), strict=True)
        for strip, (coarse, rest, fine) in zip(out.split(rows), parts, strict=True):
            ends.joined(made, self.high(coarse), self.low(rest), self.head(fine.view(4 * len(fine), -1)), strip)
        return out.view(16 * height, 16 * width, 3)

    def _through_blocks(self, made: ModuleType | None, x: Tensor, height: int, tapes: list[Tape] | None) -> Tensor:
        """The bytes (n, C) that enter the head, of x (n, C), which is overwritten."""
        if made is None:
            assert tapes is None, "only what is compiled keeps tapes"
            x = x.view(1, height, -1, x.shape[1])
            for block in self.blocks:
                x = block(x)
            return entered(x, self.leave).flatten(0, 2)
        codes = torch.empty(x.shape, dtype=torch.uint8, device="cpu")
        enters = [block.arrays[-1] for block in self.blocks]
        over_rows(made.entered, (x, codes), enters[0])
        leaves = [*enters[1:], self.leaving]
        for block, leave in zip(self.blocks, leaves, strict=True):
            tape = None if tapes is None else Tape(*x.shape)
            block.by(made, x, codes, height, leave, tape)
            if tapes is not None and tape is not None:
                tapes.append(tape)
        return codes

    def factors(self, quality_centi: Tensor) -> list[Tensor]:
        """What y_hat is multiplied by for the KLT and for asinh, (1 or n, M), and what h is, (1 or n, C)."""
        if quality_centi.dim() == 1:
            return self._factors_at(int(quality_centi))
        found, place = quality_centi.reshape(-1).unique(return_inverse=True)
        tables = zip(*(self._factors_at(int(centi)) for centi in found.tolist()), strict=True)
        return [torch.cat(table).index_select(0, place) for table in tables]

    def _factors_at(self, quality_centi: int) -> list[Tensor]:
        kept = self._kept.get(quality_centi)
        if kept is not None:
            return kept
        gain, modulation = (
            exp2(integer.interpolate(self.tables[name], quality_centi)) for name in ("log2_gain", "log2_modulation")
        )
        found = Y_UNITS / gain, ASINH_UNITS / (gain * self.tables["y_std"].astype(np.float64)), modulation
        made = [torch.from_numpy(x.astype(np.float32)[None]).to(self.device) for x in found]
        if len(self._kept) >= KEPT_QUALITIES:  # other threads look here, too
            self._kept = {}
        self._kept[quality_centi] = made
        return made


def asinh_table() -> np.ndarray:
    """asinh(k / 128) for k = -16383 .. 16383, rounded to 12 bits after the point: none closer to a tie than 1e-5."""
    grid = np.arange(-ASINH_LIMIT, ASINH_LIMIT + 1) / ASINH_UNITS
    return (np.round(np.arcsinh(grid) * 2**ASINH_BITS) / 2**ASINH_BITS).astype(np.float32)


def exp2(exponents: np.ndarray) -> np.ndarray:
    """2^(e / 2^16) of integers, float64 within 2^-35, the same everywhere: a product of two entries of tables."""
    whole, rest = np.divmod(exponents.astype(np.int64), LOG2_UNITS)
    coarse, fine = _powers()
    return np.ldexp(coarse[rest >> 8] * fine[rest & 255], whole)


@cache
def _powers() -> tuple[np.ndarray, np.ndarray]:
    """2^(k / 2^8) and 2^(k / 2^16) for k = 0 .. 255, cut to 36 bits behind the point, where all libraries agree."""
    coarse, fine = (np.round(np.exp2(np.arange(256) / 2**bits) * 2.0**36) / 2.0**36 for bits in (8, 16))
    return coarse, fine


def _linear(arrays: Mapping[str, np.ndarray], name: str, device: torch.device) -> ByteLinear:
    weight, shift, bias = (arrays[f"{name}.{part}"] for part in ("weight", "shift", "bias"))
    return ByteLinear(weight, shift, bias, device)


def _shapes(spec: HyperpriorSpec) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of every array there must be."""
    latent, width, blocks = spec.latent, spec.width, range(spec.decoder_blocks)
    products = {
        "klt.high": (768, latent),
        "klt.low": (768, latent + min(latent, FINE_CHANNELS)),
        "up": (4 * width, latent),
        "head": (192, width),
    }
    factors = {"up.rescale": latent, "head.rescale": width, "y_std": latent}
    for k in blocks:
        products |= {f"{k}.expand": (width, width), f"{k}.spatial": (width, 9), f"{k}.project": (width, width)}
        products |= {f"{k}.gate": (4 * width, width), f"{k}.merge": (width, 2 * width)}
        factors |= {f"{k}.rescale": width, f"{k}.spatial.rescale": width}
    found: dict[str, tuple[str, tuple[int, ...]]] = {name: ("float32", (size,)) for name, size in factors.items()}
    for name, size in products.items():
        found[f"{name}.weight"] = "int16" if name.endswith(".spatial") else "int8", size
        found |= {f"{name}.shift": ("int8", size[:1]), f"{name}.bias": ("float32", size[:1])}
    for name, columns in (("log2_gain", latent), ("log2_modulation", width)):
        found[name] = "int32", (spec.anchors, columns)
    return found


def _require_fitting(arrays: Mapping[str, np.ndarray], spec: HyperpriorSpec) -> None:
    wanted = _shapes(spec)
    found = {name: (str(value.dtype), value.shape) for name, value in arrays.items()}
    odd = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    if odd:
        raise BitstreamError(
            f"weights: {len(odd)} arrays of the integer decoder do not fit, such as {PREFIX}{odd[0]}, which is "
            f"{found.get(odd[0])}, expected {wanted.get(odd[0])}; the file is damaged, fetch it again"
        )
    for name, value in arrays.items():
        low, high = _range_of(name, value)
        if not ((value >= low) & (value <= high)).all():
            raise BitstreamError(
                f"weights: {PREFIX}{name} has values outside of {low:g} .. {high:g}; the file is damaged, fetch "
                "it again"
            )


def _range_of(name: str, value: np.ndarray) -> tuple[float, float]:
    if name.endswith(("rescale", "y_std")):
        return FACTOR_LEAST, FACTOR_LIMIT
    sizes = {"float32": FACTOR_LIMIT, "int32": LOG2_LIMIT * LOG2_UNITS, "int16": SPATIAL_WEIGHT_LIMIT}
    limit = sizes.get(str(value.dtype), SHIFT_LIMIT if name.endswith(".shift") else WEIGHT_LIMIT)
    return -limit, limit
