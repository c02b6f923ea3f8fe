"""Small pictures and source images for tests of the stages."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from pipeline.records import SourceImage, image_id_of


def noise(height: int = 64, width: int = 96, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth(height: int = 128, width: int = 192) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) * 255 // (width + height)], -1).astype(np.uint8)


def file_of(pixels: np.ndarray, file_format: str = "PNG", **options: object) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, file_format, **options)
    return sink.getvalue()


def source_of(data: bytes | None, name: str = "a.png", error: str | None = None, **passthrough: object) -> SourceImage:
    uri = f"/photos/{name}"
    return SourceImage(image_id_of(uri), uri, "v1", data, passthrough, error)
