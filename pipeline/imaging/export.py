"""Pixels and kept metadata back to an image file: what restore writes.

Metadata travels where Pillow can write it: EXIF, ICC and XMP in PNG, JPEG, WebP, AVIF and TIFF, none in JPEG 2000.
JPEG has no alpha, so transparent pictures are laid on white there; it also has no room for an EXIF or XMP block
above 64 KiB, which is then left out.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from pipeline.errors import ImageError
from pipeline.imaging import colour

FORMATS = {
    "png": "PNG",
    "jpeg": "JPEG",
    "webp": "WEBP",
    "avif": "AVIF",
    "tiff": "TIFF",
    "jpeg2000": "JPEG2000",
}
SUFFIXES = {"png": ".png", "jpeg": ".jpg", "webp": ".webp", "avif": ".avif", "tiff": ".tif", "jpeg2000": ".jp2"}
_JPEG_SEGMENT_BYTES = 65533
_XMP_MARKER_BYTES = 29


def to_pil(
    rgb: np.ndarray,
    *,
    gray: bool = False,
    alpha: np.ndarray | None = None,
    exif: bytes | None = None,
    icc: bytes | None = None,
    xmp: bytes | None = None,
) -> Image.Image:
    """Mode L, LA, RGB or RGBA, with the metadata in `info` under Pillow's names, where `save` finds it."""
    image = Image.fromarray(np.ascontiguousarray(rgb))
    if gray:
        image = image.convert("L")
    if alpha is not None:
        image.putalpha(Image.fromarray(np.ascontiguousarray(alpha)))
    given = {"exif": exif, "icc_profile": icc, "xmp": xmp}
    image.info.update({name: value for name, value in given.items() if value})
    return image


def save(image: Image.Image, format: str, quality: int | None = None) -> bytes:
    """`image` as the bytes of a file; `format` is a key of `FORMATS`, `quality` is 0 to 100.

    Without a quality nothing more is lost where the format can do that (PNG, TIFF, JPEG 2000, WebP); JPEG and
    AVIF then take quality 95 without chroma subsampling.

    Raises:
        ImageError: unknown format, or a picture this format cannot hold (above 65535 px a side for JPEG).
    """
    if format not in FORMATS:
        raise ImageError(f"format {format!r} is unknown; expected one of {', '.join(FORMATS)}")
    if format == "jpeg":
        image = on_white(image)
    target = io.BytesIO()
    try:
        image.save(target, FORMATS[format], **_options(format, quality), **_metadata(image, format))
    except Exception as error:  # each encoder has its own limits and its own exception for them
        raise ImageError(
            f"a picture of {image.width} x {image.height} px cannot be written as {format}: {error}; choose png"
        ) from error
    return target.getvalue()


def on_white(image: Image.Image) -> Image.Image:
    """The picture as it looks on a white page; opaque pictures come back as they are."""
    if "A" not in image.getbands():
        return image
    page = Image.new("LA" if image.mode == "LA" else "RGBA", image.size, "white")
    page = Image.alpha_composite(page.convert("RGBA"), image.convert("RGBA"))
    flat = page.convert("L" if image.mode == "LA" else "RGB")
    flat.info.update(image.info)
    return flat


def _options(format: str, quality: int | None) -> dict[str, Any]:
    if format == "jpeg":
        return {"quality": quality or 95, "optimize": True, "subsampling": 0 if quality is None else 2}
    if format == "webp":
        return {"lossless": True, "exact": True} if quality is None else {"quality": quality, "exact": True}
    if format == "avif":
        return {"quality": 95, "subsampling": "4:4:4"} if quality is None else {"quality": quality}
    if format == "tiff":
        return {"compression": "tiff_adobe_deflate"}
    if format == "jpeg2000":
        return (
            {"irreversible": False} if quality is None else {"quality_mode": "dB", "quality_layers": [20 + quality / 4]}
        )
    return {}


def _metadata(image: Image.Image, format: str) -> dict[str, Any]:
    exif, xmp = image.info.get("exif"), image.info.get("xmp")
    icc = colour.usable_profile(image.info.get("icc_profile"), "L" if image.mode in ("L", "LA") else "RGB")
    if format == "jpeg2000":
        return {}
    if format == "jpeg":
        exif = exif if exif and len(exif) <= _JPEG_SEGMENT_BYTES else None
        xmp = xmp if xmp and len(xmp) + _XMP_MARKER_BYTES <= _JPEG_SEGMENT_BYTES else None
    if format == "tiff":
        exif, xmp = _tiff_tags(exif, xmp), None
    found = {"exif": exif, "icc_profile": icc, "xmp": xmp}
    if format == "png":
        found = {"exif": exif, "icc_profile": icc, "pnginfo": _png_text(xmp)}
    return {name: value for name, value in found.items() if value}


def _tiff_tags(exif: bytes | None, xmp: bytes | None) -> Image.Exif | None:
    """Both as tags of the file's own directory, which is where a TIFF keeps them; broken EXIF is left out."""
    tags = Image.Exif()
    try:
        tags.load(exif or b"")
        dict(tags)  # tags are parsed when they are read
    except Exception:  # SyntaxError, struct.error and more, as elsewhere in Pillow
        tags = Image.Exif()
    if xmp:
        tags[700] = xmp
    return tags if len(tags) else None


def _png_text(xmp: bytes | None) -> PngImagePlugin.PngInfo | None:
    if not xmp:
        return None
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", xmp.decode("utf-8", "replace"))
    return info
