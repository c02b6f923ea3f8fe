"""Resampling as MATLAB's `imresize` does it: what super-resolution is trained for and judged by.

When a side shrinks, the kernel widens with it (antialiasing); beyond the borders the picture is mirrored. Published
figures rest on exactly this: another bicubic (a = -0.75, or no antialiasing) moves them.

Keys, "Cubic Convolution Interpolation for Digital Image Processing", IEEE TASSP 1981, with a = -1/2.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from pipeline.errors import ConfigError


def _cubic(x: np.ndarray) -> np.ndarray:
    x = np.abs(x)
    near, far = (1.5 * x - 2.5) * x**2 + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))


def _lanczos(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0.0)


KERNELS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], int]] = {"bicubic": (_cubic, 4), "lanczos": (_lanczos, 6)}
"""Name -> (kernel, how many input samples it covers)."""


class Taps(NamedTuple):
    """Output i is the sum over k of weights[i, k] times input sources[i, k]; both (size_out, taps)."""

    weights: np.ndarray
    sources: np.ndarray


@lru_cache(maxsize=64)
def taps(size_in: int, size_out: int, kernel: str = "bicubic") -> Taps:
    """How each of `size_out` samples is made of `size_in`.

    Raises:
        ConfigError: no such kernel.
    """
    if kernel not in KERNELS:
        raise ConfigError(f"kernel {kernel!r}: expected one of {', '.join(KERNELS)}")
    shape, support = KERNELS[kernel]
    shrink = min(1.0, size_out / size_in)
    reach = support / shrink
    centre = (np.arange(size_out) + 0.5) * size_in / size_out - 0.5
    first = np.floor(centre - reach / 2).astype(np.int64)
    sources = first[:, None] + np.arange(math.ceil(reach) + 2)
    weights = shape(shrink * (centre[:, None] - sources))
    weights /= weights.sum(axis=1, keepdims=True)
    used = np.abs(weights).max(axis=0) > 1e-12
    mirrored = sources[:, used] % (2 * size_in)
    mirrored = np.where(mirrored < size_in, mirrored, 2 * size_in - 1 - mirrored)
    return Taps(weights[:, used].astype(np.float32), mirrored)


def matrix(size_in: int, size_out: int, kernel: str = "bicubic") -> np.ndarray:
    """The same as (size_out, size_in) float32, for who multiplies matrices."""
    weights, sources = taps(size_in, size_out, kernel)
    full = np.zeros((size_out, size_in), np.float32)
    np.add.at(full, (np.arange(size_out)[:, None], sources), weights)
    return full


def resized(rgb: np.ndarray, height_px: int, width_px: int, kernel: str = "bicubic") -> np.ndarray:
    """(H, W, C) uint8 to (height, width, C) uint8."""
    along = _along_rows(rgb, taps(rgb.shape[0], height_px, kernel))
    across = _along_rows(along.swapaxes(0, 1), taps(rgb.shape[1], width_px, kernel)).swapaxes(0, 1)
    return np.ascontiguousarray(across.round().clip(0, 255).astype(np.uint8))


def _along_rows(picture: np.ndarray, how: Taps) -> np.ndarray:
    """One tap after the other, so that no more than two pictures of floats are held."""
    total = np.zeros((len(how.weights), *picture.shape[1:]), np.float32)
    for k in range(how.weights.shape[1]):
        total += how.weights[:, k, None, None] * picture[how.sources[:, k]]
    return total
