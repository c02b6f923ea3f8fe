"""What h_s says of latents, made of use: tables for symbols, and y_hat of symbols.

In single IEEE operations, by what is compiled where there is Numba and by NumPy elsewhere, so that every machine has
the same y_hat to the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from types import ModuleType

import numpy as np

from pipeline.codecs.learned import adaptive
from pipeline.codecs.learned.weights import FrozenModel
from pipeline.codecs.learned.weights_checks import Trellis
from pipeline.compiling import right
from pipeline.nn import integer


def y_base(model: FrozenModel, quality_centi: int) -> np.ndarray:
    """(M, 1, 1) integers as float32: log2 sigma at this quality, before the hyper-decoder's offset."""
    return integer.interpolate(model.arrays["log2_base"], quality_centi).astype(np.float32)[:, None, None]


@dataclass(frozen=True, eq=False)
class Placed:
    """What h_s says of scales, (M, h, w): fixed-point `position` as float32, `index` of the nearest table as uint8; and
    levels (h, w), if quality is adaptive.
    """

    position: integer.Array
    index: integer.Array
    level: integer.Array | None = None


def placed(model: FrozenModel, quality_centi: int, strength: int, offset: integer.Array) -> Placed:
    """Scales at this quality, for offsets (M, h, w) that h_s gives."""
    if strength:
        level = adaptive.levels(strength, offset)
        bases = _like(offset, adaptive.bases(model, quality_centi))
        return _placed(bases[:, integer.as_index(level) + adaptive.LEVEL_LIMIT], offset, level)
    base, made = y_base(model, quality_centi), _compiled_for(offset)
    if made is None:
        return _placed(_like(offset, base), offset)
    found = Placed(np.empty(offset.shape, np.float32), np.empty(offset.shape, np.uint8))
    made.placed(_rows(offset), base.ravel(), integer.ORIGIN, _rows(found.position), _rows(found.index))
    return found


def _placed(base: integer.Array, offset: integer.Array, level: integer.Array | None = None) -> Placed:
    position = integer.fixed_log2_sigma(base, offset)
    return Placed(position, integer.as_bytes(integer.index_of(position)), level)


def _like(offset: integer.Array, constants: np.ndarray) -> integer.Array:
    return constants if isinstance(offset, np.ndarray) else offset.new_tensor(constants)


def mu_of(position: integer.Array, mean: integer.Array) -> integer.Array:
    """Means in quantiser steps: `mean` in units of 2^-ACTIVATION_BITS sigma, sigma at a fixed-point `position`."""
    made = _compiled_for(mean)
    if made is None:
        return mean * (0.5**integer.ACTIVATION_BITS) * integer.sigma_of(position)
    out = np.empty(mean.shape, np.float32)
    made.mu(_rows(position), _rows(mean), integer.sigmas(), _rows(out))
    return out


@dataclass(frozen=True, eq=False)
class DecodedBand:
    """What is known of a band of y once it is decoded, all (M, rows, w).

    y int16 symbols, index uint8 the tables they were coded with, position and mean what h_s said (integers as float32),
    trellis what they were coded by, if it was that.
    """

    y: np.ndarray
    index: np.ndarray
    position: np.ndarray
    mean: np.ndarray
    trellis: Trellis | None = None


def dequantised(model: FrozenModel, band: DecodedBand) -> np.ndarray:
    """y_hat in quantiser steps, (M, rows, w) float32: symbols at the centroids of their bins, plus mu."""
    y_hat, made = mu_of(band.position, band.mean), compiled_dequantiser()
    shifts, step = (model.shifts, 1.0) if band.trellis is None else (band.trellis.shifts, band.trellis.step)
    if made is None:
        _add_symbols(y_hat, band.y, band.index, shifts, np.float32(step))
    else:
        made.add_symbols(
            _rows(band.y), _rows(band.index), np.require(shifts, requirements=["C", "W"]), step, _rows(y_hat)
        )
    return y_hat


def _add_symbols(y_hat: np.ndarray, y: np.ndarray, index: np.ndarray, shifts: np.ndarray, step: np.float32) -> None:
    """`dequantise_compiled.add_symbols`; tables from INDEX_COUNT on are of a trellis' second quantiser."""
    coded = np.flatnonzero(y != 0)
    symbols, tables = y.ravel()[coded].astype(np.float32), index.ravel()[coded]
    second = np.float32(0.5) * (tables >= integer.INDEX_COUNT)
    y_hat.reshape(-1)[coded] += np.sign(symbols) * ((np.abs(symbols) - second) * step - shifts[tables])


def _rows(x: np.ndarray) -> np.ndarray:
    """(M, h, w) as (M, h w), which is the same memory where that is in one piece; Numba takes none that is not."""
    return np.require(x, requirements=["C", "W"]).reshape(len(x), -1)


@cache
def compiled_dequantiser() -> ModuleType | None:
    """`dequantise_compiled`, some times as fast as NumPy, where there is Numba and what it compiles is right."""
    return right("pipeline.codecs.learned.dequantise_compiled", _agrees, "dequantisers")


def _compiled_for(x: integer.Array) -> ModuleType | None:
    return compiled_dequantiser() if isinstance(x, np.ndarray) else None


def _agrees(made: ModuleType) -> bool:
    random, sigmas = np.random.default_rng(0), integer.sigmas()
    offset, mean = (random.integers(-9000, 9000, (5, 40)).astype(np.float32) for _ in range(2))
    base = random.integers(-500, 500, 5).astype(np.float32)
    position, index = np.empty_like(offset), np.empty(offset.shape, np.uint8)
    made.placed(offset, base, integer.ORIGIN, position, index)
    wanted = integer.fixed_log2_sigma(base[:, None], offset)
    agreed = np.array_equal(position, wanted) and np.array_equal(index, integer.index_of(wanted).astype(np.uint8))
    y, tables = random.integers(-3, 4, (5, 40)).astype(np.int16), random.integers(0, 178, (5, 40)).astype(np.uint8)
    shifts, out = random.uniform(-0.5, 0.5, 178).astype(np.float32), np.empty_like(mean)
    made.mu(wanted, mean, sigmas, out)
    expected = mean * np.float32(0.5**integer.ACTIVATION_BITS) * integer.sigma_of(wanted)
    agreed = agreed and np.array_equal(out, expected)
    made.add_symbols(y, tables, shifts, np.float32(1.25), out)
    _add_symbols(expected, y, tables, shifts, np.float32(1.25))
    return agreed and np.array_equal(out, expected)
