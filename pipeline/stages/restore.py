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

from pipeline.archive import StoredImage
from pipeline.codecs.base import PIXEL_LIMIT, Codec
from pipeline.errors import BitstreamError, ConfigError
from pipeline.imaging.decode import decode
from pipeline.records import Picture

FORMATS = ("original", "png", "jpeg", "webp")
_SUFFIXES = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
# What was lost is lost; a restored copy must not lose more. WebP and PNG are lossless, JPEG is 4:4:4 at 95.
_OPTIONS: dict[str, dict[str, Any]] = {
    "png": {"compress_level": 3},
    "jpeg": {"quality": 95, "subsampling": 0},
    "webp": {"lossless": True, "quality": 40, "exact": True},
}


@dataclass(frozen=True, slots=True)
class Restored:
    """A file, the suffix its content deserves (None: that of the source), and whether it is the source itself."""

    data: bytes
    suffix: str | None
    is_source: bool


def restore(stored: StoredImage, codec: Codec, file_format: str = "original") -> Restored:
    """Raises BitstreamError for a damaged payload, ConfigError for an unknown format."""
    if file_format not in FORMATS:
        raise ConfigError(f"--format {file_format}: expected one of {', '.join(FORMATS)}")
    if file_format == "original":
        source = codec.restore_source(stored.payload)
        if source is not None:
            return Restored(source, None, is_source=True)
    picture = picture_of(stored, codec)
    image = _image_of(picture)
    name = "png" if file_format == "original" else file_format
    data = _saved(image, picture, name)
    if data is None:
        name, data = "png", _saved(image, picture, "png")
    if data is None:
        raise BitstreamError("the decoded picture cannot be written as PNG; restore it with --format original")
    return Restored(data, _SUFFIXES[name], is_source=False)


def picture_of(stored: StoredImage, codec: Codec) -> Picture:
    """The decoded picture with its metadata, from beside the payload or, if it holds the source file, from in it."""
    source = codec.restore_source(stored.payload)
    if source is not None:
        return _checked(decode(source, pixel_limit=PIXEL_LIMIT), stored)
    alpha = None if stored.alpha is None else np.asarray(Image.open(io.BytesIO(stored.alpha)))
    rgb = codec.decode(stored.payload)
    return _checked(Picture(rgb, bool(stored.gray), alpha, stored.exif, stored.icc, stored.xmp), stored)


def _checked(picture: Picture, stored: StoredImage) -> Picture:
    if (picture.width_px, picture.height_px) != (stored.width, stored.height):
        raise BitstreamError(
            f"{stored.image_id}: the payload decodes to {picture.width_px}x{picture.height_px} px, its row says "
            f"{stored.width}x{stored.height}; check the archive with `python -m jobs.verify`"
        )
    return picture


def _image_of(picture: Picture) -> Image.Image:
    """Gray pictures are mode L, as a gray ICC profile demands."""
    image = Image.fromarray(np.ascontiguousarray(picture.rgb[..., 0]) if picture.gray else picture.rgb)
    if picture.alpha is not None:
        image.putalpha(Image.fromarray(picture.alpha))
    return image


def _saved(image: Image.Image, picture: Picture, name: str) -> bytes | None:
    """`image` as a file, or None when this format cannot hold it."""
    options = dict(_OPTIONS[name])
    icc = picture.icc if _profile_fits(picture.icc, image) else None
    if icc:
        options["icc_profile"] = icc
    if picture.exif:
        options["exif"] = picture.exif
    if picture.xmp:
        options |= _xmp_option(picture.xmp, name)
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
