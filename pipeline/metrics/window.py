"""The Gaussian window of SSIM as separable NumPy slices, and the halving between scales of MS-SSIM.

Pictures are flat rows of interleaved channels, (rows, W * C): one pass filters all channels. Adding mirrored
slices before multiplying is 3 to 4 times faster than scipy.ndimage.correlate1d on the same data.
"""

from __future__ import annotations

import numpy as np

LENGTH_PX, SIGMA_PX = 11, 1.5


def gaussian(side_px: int) -> np.ndarray:
    """Normalised window of 11 taps, or of the largest odd number that a shorter side holds; float32."""
    radius = min(LENGTH_PX // 2, (side_px - 1) // 2)
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / SIGMA_PX) ** 2)
    return (taps / taps.sum()).astype(np.float32)


def filtered(maps: np.ndarray, down: np.ndarray, across: np.ndarray, channels: int) -> np.ndarray:
    """Windowed means of (K, rows, W * C) float32, where the window fits inside only."""
    return _along_rows(_along_columns(maps, down), across, channels)


def halved(picture: np.ndarray) -> np.ndarray:
    """2 x 2 px means of (H, W, C) as float32; an odd side is led by one row or column of zeros."""
    height, width = picture.shape[:2]
    if height % 2 or width % 2:
        picture = np.pad(picture, ((height % 2, 0), (width % 2, 0), (0, 0)))
    top, bottom = picture[0::2], picture[1::2]
    rows = np.add(top, bottom, dtype=np.float32)
    return (rows[:, 0::2] + rows[:, 1::2]) * np.float32(0.25)


def _along_columns(maps: np.ndarray, taps: np.ndarray) -> np.ndarray:
    last, size = len(taps) - 1, maps.shape[1] - len(taps) + 1
    total = maps[:, last // 2 : last // 2 + size] * taps[last // 2]
    pair = np.empty_like(total)
    for k in range(last // 2):
        np.add(maps[:, k : k + size], maps[:, last - k : last - k + size], out=pair)
        pair *= taps[k]
        total += pair
    return total


def _along_rows(maps: np.ndarray, taps: np.ndarray, channels: int) -> np.ndarray:
    last, size = (len(taps) - 1) * channels, maps.shape[2] - (len(taps) - 1) * channels
    total = maps[:, :, last // 2 : last // 2 + size] * taps[len(taps) // 2]
    pair = np.empty_like(total)
    for k in range(len(taps) // 2):
        near, far = k * channels, last - k * channels
        np.add(maps[:, :, near : near + size], maps[:, :, far : far + size], out=pair)
        pair *= taps[k]
        total += pair
    return total
