"""Pixels to pictures that live inside the page: crops as they are, errors and bits as heat maps."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

CROP_PX = (480, 360)
MAP_PX = 320
BLOCKS_UP_TO = 6_000
QUALITIES = (88, 78, 66, 52, 38)
# Viridis at nine even steps (van der Walt & Smith, 2015): rising lightness, told apart without colour vision.
_VIRIDIS = (0x440154, 0x472D7B, 0x3B528B, 0x2C728E, 0x21918C, 0x28AE80, 0x5EC962, 0xADDC30, 0xFDE725)


def data_uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def photo(rgb: np.ndarray, limit_bytes: int) -> str:
    """A WebP of (H, W, 3) uint8 as good as fits into `limit_bytes`, at least of the last quality."""
    data = b""
    for quality in QUALITIES:
        data = _saved(Image.fromarray(rgb), "WEBP", quality=quality, method=4)
        if len(data) <= limit_bytes:
            break
    return data_uri(data, "webp")


def heat_map(values: np.ndarray, top: float) -> str:
    """(h, w) values from 0 to `top` in viridis; small maps keep their blocks, large ones are shrunk."""
    scaled = np.clip(values / top if top > 0 else values, 0, 1)
    picture = Image.fromarray(viridis(scaled))
    if max(picture.size) > MAP_PX:
        share = MAP_PX / max(picture.size)
        size = (max(1, round(picture.width * share)), max(1, round(picture.height * share)))
        picture = picture.resize(size, Image.Resampling.BOX)
    if picture.width * picture.height > BLOCKS_UP_TO:  # as PNG the noise of an error map would be 100 kB
        return data_uri(_saved(picture, "WEBP", quality=60, method=4), "webp")
    return data_uri(_saved(picture, "PNG", optimize=True), "png")


def viridis(values: np.ndarray) -> np.ndarray:
    """(..., 3) uint8 of values in [0, 1]."""
    stops = np.array([[v >> 16, v >> 8 & 255, v & 255] for v in _VIRIDIS], dtype=np.float64)
    at = np.linspace(0, 1, len(stops))
    return np.stack([np.interp(values, at, stops[:, k]) for k in range(3)], axis=-1).round().astype(np.uint8)


def error_of(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Mean absolute difference of the channels at each pixel, in 8-bit levels: (H, W) float32."""
    return np.abs(before.astype(np.int16) - after).mean(axis=2, dtype=np.float32)


def worst_window(error: np.ndarray, size: tuple[int, int] = CROP_PX, step: int = 16) -> tuple[int, int, int, int]:
    """(top, left, height, width) of the window with the largest squared error; the whole picture when it is smaller."""
    height, width = min(size[1], error.shape[0]), min(size[0], error.shape[1])
    sums = np.pad(np.square(error, dtype=np.float64), ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    tops = np.unique([*range(0, error.shape[0] - height + 1, step), error.shape[0] - height])
    lefts = np.unique([*range(0, error.shape[1] - width + 1, step), error.shape[1] - width])
    a, b = np.ix_(tops, lefts)
    inside = sums[a + height, b + width] - sums[a, b + width] - sums[a + height, b] + sums[a, b]
    row, column = np.unravel_index(int(inside.argmax()), inside.shape)
    return int(tops[row]), int(lefts[column]), height, width


def shrunk(values: np.ndarray, side: int = MAP_PX) -> np.ndarray:
    """Means over blocks, so that at most `side` remain along the longer side."""
    factor = -(-max(values.shape) // side)
    if factor == 1:
        return values
    edge = [(0, -size % factor) for size in values.shape]
    blocks = np.pad(values, edge, mode="edge")
    return blocks.reshape(blocks.shape[0] // factor, factor, -1, factor).mean(axis=(1, 3))


def percentages(window: Sequence[int], shape: Sequence[int]) -> dict[str, str]:
    """A window in percent of its picture, for outlines in the page."""
    top, left, height, width = window
    shares = {"top": top / shape[0], "left": left / shape[1], "height": height / shape[0], "width": width / shape[1]}
    return {name: f"{100 * share:.2f}%" for name, share in shares.items()}


def _saved(picture: Image.Image, file_format: str, **options: int | bool) -> bytes:
    out = io.BytesIO()
    picture.save(out, file_format, **options)
    return out.getvalue()
