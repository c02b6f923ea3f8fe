"""The words everyone speaks: frozen records that travel between the rooms of the house.

A `SourceItem` is something listed (a file or a shard) and not yet read; a `SourceImage` is one image's bytes;
a `Picture` is its pixels; an `Outcome` is the row it ends as, whatever happened on the way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

ENCODED, KEPT_ORIGINAL, REJECTED = "encoded", "kept_original", "rejected"


def image_id_of(source_uri: str) -> str:
    """Stable id of the image at `source_uri` (member and row included): 32 hex digits of its SHA-256."""
    return hashlib.sha256(source_uri.encode("utf-8", "surrogateescape")).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class SourceItem:
    """One listed object of a source: an image file, or a shard that holds many images.

    `uri` is what `storage` opens; `version` changes whenever the content does (ETag, else size and mtime).
    """

    uri: str
    version: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class SourceImage:
    """One image as its source holds it. `data` is None only when reading failed, and then `error` says why.

    `source_uri` is the object's URI, plus `#member` inside a shard. `passthrough` holds the other columns of
    its record (labels, captions, tar siblings), untouched.
    """

    image_id: str
    source_uri: str
    source_version: str
    data: bytes | None
    passthrough: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A decoded picture, upright: EXIF orientation is applied and reset to 1 in `exif`.

    rgb    (H, W, 3) uint8, in the colour space that `icc` names (sRGB when None); colour under alpha is kept.
    gray   the source has one channel; all three of `rgb` are equal.
    alpha  (H, W) uint8, or None when opaque.
    source_format  Pillow's format name, e.g. "JPEG".
    obstacle  why 8-bit RGB (+ alpha) cannot stand for the source ("16 bits per channel"), else None.
    """

    rgb: np.ndarray
    gray: bool = False
    alpha: np.ndarray | None = None
    exif: bytes | None = None
    icc: bytes | None = None
    xmp: bytes | None = None
    source_format: str = ""
    obstacle: str | None = None

    @property
    def height_px(self) -> int:
        return int(self.rgb.shape[0])

    @property
    def width_px(self) -> int:
        return int(self.rgb.shape[1])


@dataclass(frozen=True, slots=True)
class Distortion:
    """How far a decoded picture is from its source; see `metrics.distortion` for definitions."""

    mse: float
    psnr_db: float
    ssim: float | None = None
    ms_ssim: float | None = None


@dataclass(frozen=True, slots=True)
class Rate:
    """What is asked of a codec: a `quality` in [0, 100], or a target, reached by search over quality.

    Exactly one field is set: `quality`, `psnr_db` (dB), `ms_ssim` (0..1) or `bpp` (payload bits per pixel).
    """

    quality: float | None = None
    psnr_db: float | None = None
    ms_ssim: float | None = None
    bpp: float | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one source image: the row it gets in the metrics table, and its payload."""

    source: SourceImage
    status: str
    reason: str | None = None
    picture: Picture | None = None
    codec: str | None = None
    model_id: str | None = None
    quality: float | None = None
    payload: bytes | None = None
    distortion: Distortion | None = None
    encode_ms: float | None = None
