"""Restore: a stored payload becomes a picture file again, with its profile, metadata and transparency.

`original` means the source file byte for byte where the codec can give it back (`original`, JPEG through
`jxl-lossless`), and otherwise a PNG of the decoded picture. A format that cannot hold a picture (alpha in JPEG,
more than 16383 px in WebP) gives way to PNG, which can.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pipeline.codecs.base import Codec
from pipeline.errors import BitstreamError, ConfigError

FORMATS = ("original", "png", "jpeg", "webp")
_SUFFIXES = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
# What was lost is lost; a restored copy must not lose more. WebP and PNG are lossless, JPEG is 4:4:4 at 95.
_OPTIONS: dict[str, dict[str, Any]] = {
    "png": {"compress_level": 3},
    "jpeg": {"quality": 95, "subsampling": 0},
    "webp": {"lossless": True, "quality": 40, "exact": True},
}


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """One row of a data part, as far as a picture needs it; `alpha` is (H, W) uint8."""

    payload: bytes
    width: int
    height: int
    alpha: np.ndarray | None = None
    exif: bytes | None = None
    icc: bytes | None = None
    xmp: bytes | None = None


@dataclass(frozen=True, slots=True)
class Restored:
    """A file, the suffix its content deserves (None: that of the source), and whether it is the source itself."""

    data: bytes
    suffix: str | None
    is_source: bool


def restore(stored: Stored, codec: Codec, file_format: str = "original") -> Restored:
    """Raises BitstreamError for a damaged payload, ConfigError for an unknown format."""
    if file_format not in FORMATS:
        raise ConfigError(f"--format {file_format}: expected one of {', '.join(FORMATS)}")
    if file_format == "original":
        source = codec.restore_source(stored.payload)
        if source is not None:
            return Restored(source, None, is_source=True)
    image = picture_of(stored, codec)
    name = "png" if file_format == "original" else file_format
    data = _saved(image, stored, name)
    if data is None:
        name, data = "png", _saved(image, stored, "png")
    if data is None:
        raise BitstreamError("the decoded picture cannot be written as PNG; restore it with --format original")
    return Restored(data, _SUFFIXES[name], is_source=False)


def picture_of(stored: Stored, codec: Codec) -> Image.Image:
    """The decoded picture, with alpha; gray pictures are mode L, as a gray ICC profile demands."""
    rgb = codec.decode(stored.payload)
    if rgb.shape != (stored.height, stored.width, 3):
        raise BitstreamError(
            f"the payload decodes to {rgb.shape[1]}x{rgb.shape[0]} px, its row says {stored.width}x{stored.height}; "
            "check the archive with `python -m jobs.verify`"
        )
    gray = np.array_equal(rgb[..., 0], rgb[..., 1]) and np.array_equal(rgb[..., 0], rgb[..., 2])
    image = Image.fromarray(rgb[..., 0] if gray else rgb)
    if stored.alpha is not None:
        image.putalpha(Image.fromarray(stored.alpha))
    return image


def _saved(image: Image.Image, stored: Stored, name: str) -> bytes | None:
    """`image` as a file, or None when this format cannot hold it."""
    options = dict(_OPTIONS[name])
    icc = stored.icc if _profile_fits(stored.icc, image) else None
    if icc:
        options["icc_profile"] = icc
    if stored.exif:
        options["exif"] = stored.exif
    if stored.xmp:
        options |= _xmp_option(stored.xmp, name)
    if name == "jpeg" and image.mode not in ("L", "RGB"):
        return None
    if name == "webp" and image.mode not in ("RGB", "RGBA"):
        image = image.convert("RGBA" if "A" in image.mode else "RGB")
    sink = io.BytesIO()
    try:
        image.save(sink, name.upper(), **options)
    except (OSError, ValueError):  # too large a side, or EXIF beyond 64 KiB in JPEG
        return None
    return sink.getvalue()


def _profile_fits(icc: bytes | None, image: Image.Image) -> bool:
    """A profile's colour space (bytes 16 to 19, ICC.1:2022 7.2.6) must be that of the pixels."""
    if icc is None:
        return False
    return icc[16:20] == (b"GRAY" if image.mode in ("L", "LA") else b"RGB ")


def _xmp_option(xmp: bytes, name: str) -> dict[str, Any]:
    if name != "png":
        return {"xmp": xmp}
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", xmp.decode("utf-8", "replace"))
    return {"pnginfo": info}
