"""Source bytes to an upright 8-bit picture, or one sentence saying why not.

Whatever the bytes are, the only thing that leaves `decode` besides a picture is ImageError: a poison image must
cost one row and not a job. Content decides the format; file names are never looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from PIL import Image, ImageFile

from pipeline.errors import ImageError
from pipeline.imaging import colour, guard, metadata, obstacles, orientation, png
from pipeline.records import Picture

DEFAULT_PIXEL_LIMIT = 200_000_000
_STRIP_PIXELS = 4_000_000
_GRAY_MODES = frozenset({"1", "L", "LA", "La", "I", "F", "I;16", "I;16L", "I;16B", "I;16N"})
_ADDRESS = re.compile(r"<[^>]* at 0x[0-9a-f]+>")


def decode(data: bytes, *, pixel_limit: int = DEFAULT_PIXEL_LIMIT, allow_cmyk: bool = False) -> Picture:
    """The picture in `data`, upright, in the source's colour space, with its metadata.

    `obstacle` is set when 8-bit RGB cannot stand for the source (16 bits, animation, CMYK, ...): the picture is
    then an approximation for looking at and measuring. `allow_cmyk` takes CMYK converted to sRGB for good.

    Raises:
        ImageError: not an image, damaged or truncated, more than `pixel_limit` pixels, or a format not read here.
    """
    try:
        return _within_pillow_limit(data, pixel_limit, allow_cmyk)
    except ImageError:
        raise
    except Exception as error:  # Pillow raises a dozen types on damaged files, MemoryError among them
        raise ImageError(_sentence(data, error)) from error


def _within_pillow_limit(data: bytes, pixel_limit: int, allow_cmyk: bool) -> Picture:
    try:
        return _decode(data, pixel_limit, allow_cmyk)
    except Image.DecompressionBombError as error:
        try:
            with guard.pillow_limit(pixel_limit):
                return _decode(data, pixel_limit, allow_cmyk)
        except Image.DecompressionBombError:
            raise ImageError(guard.too_large(data, error, pixel_limit)) from error


def _decode(data: bytes, pixel_limit: int, allow_cmyk: bool) -> Picture:
    try:
        return _picture(data, pixel_limit, allow_cmyk)
    except ValueError as error:
        if not png.is_text_bomb(data, error):
            raise
        picture = _picture(png.without_text(data), pixel_limit, allow_cmyk)
        return replace(picture, obstacle=picture.obstacle or "text or profile chunks of more than 1 MiB")


def _picture(data: bytes, pixel_limit: int, allow_cmyk: bool) -> Picture:
    image = guard.open_checked(data, pixel_limit)
    obstacle = obstacles.find(image, data, allow_cmyk)
    early = metadata.exif_of(image)  # TIFF forgets tags while it turns its pixels; PNG may have them at its end
    image.load()
    _scale_gray_key(image, data)
    exif, xmp = early or metadata.exif_of(image), metadata.xmp_of(image)
    upright = orientation.turned(image, _orientation(image, exif, xmp))
    rgb, alpha = _pixels(upright, image.info.get("icc_profile"))
    gray = image.mode in _GRAY_MODES
    return Picture(
        rgb=rgb,
        gray=gray,
        alpha=alpha,
        exif=orientation.reset_exif(exif),
        icc=_icc(image, gray),
        xmp=orientation.reset_xmp(xmp),
        source_format=image.format or "",
        obstacle=obstacle,
    )


def _orientation(image: ImageFile.ImageFile, exif: bytes | None, xmp: bytes | None) -> int:
    """What is still to be turned: Pillow turns TIFF while loading, and AVIF's irot box overrules its XMP."""
    if image.format == "TIFF":
        return 1
    return orientation.read(exif, None if image.format == "AVIF" else xmp)


def _icc(image: ImageFile.ImageFile, gray: bool) -> bytes | None:
    if image.mode in ("CMYK", "LAB"):
        return None
    return colour.usable_profile(image.info.get("icc_profile"), "L" if gray else "RGB")


def _pixels(image: Image.Image, icc: bytes | None) -> tuple[np.ndarray, np.ndarray | None]:
    """(H, W, 3) RGB and (H, W) alpha, both uint8; an alpha channel that hides nothing is None."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return np.repeat(_to_8_bits(np.asarray(image))[:, :, None], 3, axis=2), None
    rgb = np.empty((image.height, image.width, 3), np.uint8)
    alpha = np.empty(rgb.shape[:2], np.uint8) if image.has_transparency_data else None
    for top, strip in _strips(image):
        rows = slice(top, top + strip.height)
        if alpha is None:
            rgb[rows] = np.asarray(strip if strip.mode == "RGB" else colour.to_rgb(strip, icc))
        else:
            rgba = np.asarray(strip if strip.mode == "RGBA" else strip.convert("RGBA"))
            rgb[rows], alpha[rows] = rgba[:, :, :3], rgba[:, :, 3]
    return rgb, None if alpha is None or alpha.min() == 255 else alpha


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """The picture in strips from the top: converting a giant whole would hold it three times over."""
    step = max(_STRIP_PIXELS // image.width, 1)
    if step >= image.height:
        yield 0, image
        return
    for top in range(0, image.height, step):
        yield top, image.crop((0, top, image.width, min(top + step, image.height)))


def _to_8_bits(samples: np.ndarray) -> np.ndarray:
    """An approximation of deep samples: integers by their high byte, floats over [0, 1] or [0, max]."""
    if samples.dtype.kind == "f":
        finite = np.nan_to_num(samples, nan=0.0, posinf=0.0, neginf=0.0)
        return np.rint(np.clip(finite / max(float(finite.max()), 1.0), 0, 1) * 255).astype(np.uint8)
    positive = np.clip(samples.astype(np.int64), 0, None)
    shift = 24 if positive.max() > 0xFFFF else 8 if positive.max() > 0xFF or samples.dtype.itemsize == 2 else 0
    return (positive >> shift).astype(np.uint8)


def _scale_gray_key(image: ImageFile.ImageFile, data: bytes) -> None:
    """A transparent gray of a 2- or 4-bit PNG is given in its own levels, and Pillow's pixels are in 0..255."""
    if image.format == "PNG" and image.mode == "L" and data[24] < 8 and "transparency" in image.info:
        image.info["transparency"] *= 255 // ((1 << data[24]) - 1)


def _sentence(data: bytes, error: Exception) -> str:
    text = _ADDRESS.sub("file", " ".join(str(error).split()))[:160] or type(error).__name__
    kind = guard.kind_of(data) or "image"
    if isinstance(error, MemoryError):
        text = "out of memory"
    return (
        f"the {kind} file of {len(data)} bytes cannot be decoded: {text}; expected a complete, undamaged file, "
        "so fetch or export it again"
    )
