"""Integer hyper-decoder: z_hat to scale indexes and means, bit-exact on every device.

Both ends of the entropy coder must derive the same table for every symbol. Float convolutions differ in the
last bit between devices, and one wrong index garbles the rest of the image, so h_s runs in integers after
export. They are carried in float64 matrix products: every product and partial sum is an integer below 2^53,
hence exact, whatever the order of summation, the number of threads or the device.

Balle, Johnston & Minnen, "Integer Networks for Data Compression with Latent-Variable Models", ICLR 2019.

The functions take NumPy arrays or torch tensors alike, so that reading a payload's symbols needs no torch.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from types import ModuleType
from typing import Any

import numpy as np

from pipeline.compiling import right
from pipeline.errors import BitstreamError

ACTIVATION_BITS = 8
"""Fractional bits of activations between layers, and of the means that come out."""
SCALE_BITS = 6
"""Fractional bits of the scale index: log2(sigma) travels in units of 1/8 octave / 2^6."""
INDEX_STEPS_PER_OCTAVE = 8
LOG2_SIGMA_MIN = -3
INDEX_COUNT = 89
ACTIVATION_LIMIT = 1 << 24
"""Of results of layers, which float32 holds exactly up to here."""
COLUMNS = 256
"""Positions of a product whose results stay in the cache until they are float32."""
QUALITY_UNITS = 10_000
ORIGIN = float(-LOG2_SIGMA_MIN * INDEX_STEPS_PER_OCTAVE << SCALE_BITS)
"""Of fixed-point positions of scales."""

Array = Any


@dataclass(frozen=True, eq=False)
class IntegerLayer:
    """floor((weight * x + bias) / 2^shift), then ReLU where `relu`; weight (9 or 1, out, in) of integers.

    Nine matrices are the taps of a 3x3 convolution in reading order, one is a 1x1 convolution. All are float64
    arrays with integer values; the division is done to factors instead, exactly.
    """

    weight: Array
    bias: Array
    shift: int
    relu: bool

    @cached_property
    def _taps(self) -> list[Array]:
        """Matrices over 2^shift, where torch is loaded as its tensors."""
        torch, divided = sys.modules.get("torch"), self.weight * 0.5**self.shift
        return list(divided if torch is None or not isinstance(divided, np.ndarray) else torch.from_numpy(divided))

    @cached_property
    def _offset(self) -> Array:
        return self.bias[:, None] * 0.5**self.shift

    def __call__(self, x: Array) -> Array:
        """(in, ..., h, w) to (out, ..., h, w)."""
        channels, *beside, height, width = x.shape
        if self.weight.shape[0] == 1:
            total = _product(self._taps[0], x.reshape(channels, -1))
        else:
            padded = _zeros_like(x, (channels, *beside, height + 2, width + 2))
            padded[..., 1:-1, 1:-1] = x
            total = None
            for place, tap in enumerate(self._taps):
                i, j = divmod(place, 3)
                seen = padded[..., i : i + height, j : j + width]
                total = _product(tap, seen.reshape(channels, -1), total)
        total += self._offset
        return _floored(total, 0 if self.relu else -ACTIVATION_LIMIT, ACTIVATION_LIMIT).reshape(-1, *x.shape[1:])

    def narrow(self, x: Array) -> Array:
        """The same as float32; on a CPU, a 1x1 convolution takes less than half the time, which memory had cost."""
        if not isinstance(x, np.ndarray):
            return self(x).float()
        if len(self.weight) != 1:
            return self(x).astype(np.float32)
        shape, (tap,) = x.shape, self._taps
        x = x.reshape(len(x), -1)
        out, made = np.empty((len(self.bias), x.shape[1]), np.float32), compiled_layers()
        low = 0 if self.relu else -ACTIVATION_LIMIT
        for first in range(0, x.shape[1], COLUMNS):
            total = _product(tap, x[:, first : first + COLUMNS])
            if made is not None:
                made.floored(total, self._offset[:, 0], low, ACTIVATION_LIMIT, out, first)
            else:
                total += self._offset
                out[:, first : first + COLUMNS] = _floored(total, low, ACTIVATION_LIMIT)
        return out.reshape(-1, *shape[1:])


@dataclass(frozen=True, eq=False)
class IntegerHyperSynthesis:
    """h_s after export; `to` moves its constants to where z lives.

    `compression` (256,) holds asinh(0 .. 255) as integers in units of 2^-ACTIVATION_BITS: what |z| becomes on entry.
    """

    layers: tuple[IntegerLayer, ...]
    compression: Array

    def __call__(self, z: Array) -> tuple[Array, Array]:
        """z (N, h, w), integers as float64, to scale offsets and means, both (M, 4h, 4w) integers as float32.

        Offsets are in units of 2^-SCALE_BITS index steps, means in units of 2^-ACTIVATION_BITS sigma. Several pictures
        of one size are (N, B, h, w) and (M, B, 4h, 4w).
        """
        *_, out = self.layers
        x = out.narrow(self._features(z))
        half = x.shape[0] // 2
        return x[:half], x[half:]

    def scales(self, z: Array) -> Array:
        """The scale offsets alone, which is what entropy coding asks for."""
        *_, out = self.layers
        half = out.weight.shape[1] // 2
        return IntegerLayer(out.weight[:, :half], out.bias[:half], out.shift, out.relu).narrow(self._features(z))

    def _features(self, z: Array) -> Array:
        conv1, up1, conv2, up2, _ = self.layers
        magnitude = self.compression[as_index(abs(z).clip(0, len(self.compression) - 1))]
        x = _pixel_shuffle(up1(conv1(magnitude * ((z > 0) * 1.0 - (z < 0) * 1.0))))
        return _pixel_shuffle(up2(conv2(x)))

    def to(self, convert: Any) -> IntegerHyperSynthesis:
        """The same network with `convert` applied to every constant."""
        return IntegerHyperSynthesis(
            tuple(IntegerLayer(convert(x.weight), convert(x.bias), x.shift, x.relu) for x in self.layers),
            convert(self.compression),
        )


LAYER_NAMES = ("conv1", "up1", "conv2", "up2", "out")


def layers(arrays: Mapping[str, np.ndarray], relu: Mapping[str, bool]) -> tuple[IntegerLayer, ...]:
    """Those of names in `relu`, which says whether they end in one: from `<name>.weight`, `.bias` and `.shift`.

    Raises:
        BitstreamError: an array is missing, misshapen or of other than integers, or a sum could leave the exact range
            of float64.
    """
    found = []
    for name, ends_in_relu in relu.items():
        try:
            weight, bias, shift = (arrays[f"{name}.{part}"] for part in ("weight", "bias", "shift"))
        except KeyError as error:
            raise BitstreamError(f"weights: {error.args[0]} is missing; the file is damaged, fetch it again") from error
        whole = all(part.dtype.kind in "iu" for part in (weight, bias, shift))
        fits = weight.ndim == 3 and weight.shape[0] in (1, 9) and bias.shape == weight.shape[1:2] and shift.size == 1
        if not whole or not fits or not 0 <= shift.item() < 64 or _largest_sum(weight, bias) >= 2.0**53:
            raise BitstreamError(f"weights: {name} does not fit exact arithmetic; the file is damaged or foreign")
        found.append(IntegerLayer(weight.astype(np.float64), bias.astype(np.float64), int(shift.item()), ends_in_relu))
    return tuple(found)


def _largest_sum(weight: np.ndarray, bias: np.ndarray) -> float:
    sums = np.abs(weight.astype(np.float64)).sum(axis=(0, 2)) * ACTIVATION_LIMIT + np.abs(bias.astype(np.float64))
    return float(sums.max(initial=0))


def load_layers(arrays: Mapping[str, np.ndarray]) -> IntegerHyperSynthesis:
    """Layers from `h_s.<name>.weight`, `.bias`, `.shift` and `h_s.compression`, all integer arrays.

    Raises:
        BitstreamError: as `layers`.
    """
    found = layers(arrays, {f"h_s.{name}": name != "out" for name in LAYER_NAMES})
    compression = arrays.get("h_s.compression")
    if compression is None or compression.ndim != 1 or not 1 <= len(compression) <= 1 << 15:
        raise BitstreamError("weights: h_s.compression is missing or misshapen; the file is damaged, fetch it again")
    if np.abs(compression).max() > ACTIVATION_LIMIT:
        raise BitstreamError("weights: h_s.compression does not fit exact arithmetic; the file is damaged or foreign")
    return IntegerHyperSynthesis(found, compression.astype(np.float64))


def interpolate(table: np.ndarray, quality_centi: int) -> np.ndarray:
    """Row of an integer table (anchors, C) at a quality of 0 .. 10000, linear between anchors: (C,) int64, floored."""
    position = quality_centi * (table.shape[0] - 1)
    row, rest = divmod(position, QUALITY_UNITS)
    if rest == 0:
        return table[row].astype(np.int64)
    low, high = table[row].astype(np.int64), table[row + 1].astype(np.int64)
    return ((QUALITY_UNITS - rest) * low + rest * high) // QUALITY_UNITS


def fixed_log2_sigma(base: Array, offset: Array) -> Array:
    """Index position in fixed point, clamped to the tables: base (C, 1, 1) plus offset (C, h, w)."""
    return (base + offset + ORIGIN).clip(0, (INDEX_COUNT - 1) << SCALE_BITS)


def index_of(position: Array) -> Array:
    """Nearest scale index of a fixed-point position; still in the dtype of `position`."""
    return _floor((position + (1 << (SCALE_BITS - 1))) * 0.5**SCALE_BITS)


def sigma_of(position: Array) -> Array:
    """sigma = 2^log2_sigma of a fixed-point position, float32; used for means only, never for tables."""
    if isinstance(position, np.ndarray):
        return sigmas()[as_index(position)]
    return position.new_tensor(sigmas()).index_select(0, position.reshape(-1).int()).view(position.shape)


@cache
def sigmas() -> np.ndarray:
    """sigma at every position, float32: looked up, for no two libraries agree in the last bit of exp2."""
    positions = np.arange((INDEX_COUNT - 1 << SCALE_BITS) + 1)
    return np.exp2(positions / (INDEX_STEPS_PER_OCTAVE << SCALE_BITS) + LOG2_SIGMA_MIN).astype(np.float32)


def sigma_of_index(index: int) -> float:
    """The sigma that table `index` stands for."""
    return float(2.0 ** (index / INDEX_STEPS_PER_OCTAVE + LOG2_SIGMA_MIN))


def _pixel_shuffle(x: Array) -> Array:
    """(4C, ..., h, w) to (C, ..., 2h, 2w), as torch.pixel_shuffle does."""
    channels, (*beside, height, width) = x.shape[0] // 4, x.shape[1:]
    x = x.reshape(channels, 2, 2, *x.shape[1:])
    *others, rows, columns = range(3, x.ndim)
    places = (0, *others, rows, 1, columns, 2)
    x = x.transpose(places) if isinstance(x, np.ndarray) else x.permute(places)
    return x.reshape(channels, *beside, 2 * height, 2 * width)


def as_index(x: Array) -> Array:
    return x.astype(np.int64) if isinstance(x, np.ndarray) else x.long()


def as_bytes(x: Array) -> Array:
    return x.astype(np.uint8) if isinstance(x, np.ndarray) else x.byte()


def _floor(x: Array) -> Array:
    return np.floor(x) if isinstance(x, np.ndarray) else x.floor()


def _floored(x: Array, low: int, high: int) -> Array:
    """floor(x) within bounds, in place: x is large, and a pass over a new array costs more than what is done in it."""
    if isinstance(x, np.ndarray):
        return np.clip(np.floor(x, out=x), low, high, out=x)
    return x.floor_().clamp_(low, high)


def _product(weight: Array, x: Array, total: Array = None) -> Array:
    """weight @ x, added to `total` in place if there is one.

    By torch where it is loaded anyway, so that one pool of threads does all the work of a process. Threads of NumPy's
    BLAS spin while they wait, on the cores that torch's threads want next: on two cores, decoding took 1.7 times as
    long with both.
    """
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(x, np.ndarray):
        if total is None:
            return weight @ x
        total += weight @ x
        return total
    weight = torch.from_numpy(weight) if isinstance(weight, np.ndarray) else weight
    if total is None:
        return torch.matmul(weight, torch.from_numpy(x)).numpy()
    torch.from_numpy(total).addmm_(weight, torch.from_numpy(x))
    return total


@cache
def compiled_layers() -> ModuleType | None:
    """`integer_compiled`, where there is Numba and what it compiles is right."""
    return right("pipeline.nn.integer_compiled", _agrees, "hyper-decoders")


def _agrees(made: ModuleType) -> bool:
    random = np.random.default_rng(0)
    total, offset, given = random.normal(0, 60, (3, 41)), random.normal(0, 9, 3), np.zeros((3, 50), np.float32)
    made.floored(total, offset, -50.0, 70.0, given, 9)
    wanted = np.pad(_floored(total + offset[:, None], -50, 70), ((0, 0), (9, 0)))
    return np.array_equal(given, wanted.astype(np.float32))


def _zeros_like(x: Array, shape: tuple[int, ...]) -> Array:
    return np.zeros(shape, x.dtype) if isinstance(x, np.ndarray) else x.new_zeros(shape)
