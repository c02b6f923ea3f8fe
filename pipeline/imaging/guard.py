"""What stands between unknown bytes and Pillow: a list of formats, and a pixel limit checked on the header.

Only raster formats that Pillow decodes in its own process are opened: EPS starts Ghostscript, WMF draws with the
system, and formats without a signature (TGA, DIB) would take any bytes for a picture.
"""

from __future__ import annotations

import io
import re
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image, ImageFile

from pipeline.errors import ImageError
from pipeline.imaging import jpeg

FORMATS = (
    *("JPEG", "PNG", "WEBP", "AVIF", "GIF", "TIFF", "JPEG2000", "BMP"),
    *("ICO", "PPM", "PSD", "QOI", "PCX", "SGI", "SUN"),
)
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
# libjpeg-turbo's own fuzzers stop at 500 scans: each one costs a pass over all pixels, for ten bytes of file.
MAX_JPEG_SCANS = 500

_KNOWN = (
    ("JPEG", rb"\xff\xd8"),
    ("PNG", rb"\x89PNG"),
    ("GIF", rb"GIF8"),
    ("WebP", rb"RIFF....WEBP"),
    ("AVIF", rb"....ftypavi[fs]"),
    ("HEIC", rb"....ftyp(hei[cfsxm]|hev[cx]|mif1|msf1)"),
    ("JPEG XL", rb"\xff\x0a|\x00\x00\x00\x0cJXL "),
    ("JPEG 2000", rb"\xff\x4f\xff\x51|\x00\x00\x00\x0cjP  "),
    ("TIFF", rb"II[\x2a\x2b]\x00|MM\x00[\x2a\x2b]"),
    ("BMP", rb"BM"),
    ("Photoshop", rb"8BPS"),
    ("WMF or EMF drawing", rb"\xd7\xcd\xc6\x9a|\x01\x00\x00\x00.{36} EMF|[\x01\x02]\x00\x09\x00"),
    ("PostScript", rb"%!PS|\xc5\xd0\xd3\xc6"),
    ("PDF", rb"%PDF"),
    ("SVG", rb"\s*(<\?xml[^>]*>)?\s*(<!--.*?-->)?\s*<svg"),
    ("HTML", rb"(?i)\s*(<!doctype html|<html|<head|<body)"),
    ("XML", rb"\s*<\?xml"),
    ("video", rb"....ftyp"),
    ("ZIP archive", rb"PK\x03\x04"),
    ("gzip", rb"\x1f\x8b"),
    ("JSON", rb"\s*[\[{]"),
)
_PATTERNS = tuple((name, re.compile(pattern, re.DOTALL)) for name, pattern in _KNOWN)
_limit_lock = threading.Lock()

# Pillow warns about every damaged tag and about pictures above 89 MP; what becomes of an image is said in its row.
# `append` lets any filter of the user come first.
warnings.filterwarnings("ignore", module=r"PIL\.", append=True)


def kind_of(data: bytes) -> str | None:
    """What the first bytes claim to be, in words ("PNG", "HTML"), or None."""
    head = data[:512]
    return next((name for name, pattern in _PATTERNS if pattern.match(head)), None)


def open_checked(data: bytes, pixel_limit: int) -> ImageFile.ImageFile:
    """The opened, not yet decoded picture; width x height is at most `pixel_limit`.

    Raises:
        ImageError: no picture, a format outside `FORMATS`, or too many pixels. Pillow's own errors may pass.
    """
    if not data:
        raise ImageError("the file is empty: found 0 bytes, expected an image; fetch it again from where it came")
    for width, height in _sizes_inside_ico(data):
        _check_size("ICO", width, height, pixel_limit)
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.UnidentifiedImageError:
        raise ImageError(_unidentified(data)) from None
    _check_size(image.format or "image", image.width, image.height, pixel_limit)
    _check_scans(image, data)
    return image


@contextmanager
def pillow_limit(pixel_limit: int) -> Iterator[None]:
    """Lift Pillow's own limit of 179 MP to `pixel_limit`, for one picture at a time in this process.

    That limit is a global, so other threads see it lifted meanwhile, never lowered; `open_checked` guards ours.
    """
    with _limit_lock:
        before = Image.MAX_IMAGE_PIXELS
        if before is not None:
            Image.MAX_IMAGE_PIXELS = max(before, (pixel_limit + 1) // 2)  # Pillow raises above twice this number
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def too_large(data: bytes, error: Exception, pixel_limit: int) -> str:
    """The sentence for a picture that Pillow itself refused as a decompression bomb."""
    found = re.search(r"\d+", str(error))
    return (
        f"the {kind_of(data) or 'image'} header promises {found[0] if found else 'too many'} pixels, above the limit "
        f"of {pixel_limit} pixels, and was not decoded; raise the pixel limit if the picture is real"
    )


def _check_size(name: str, width: int, height: int, pixel_limit: int) -> None:
    if width < 1 or height < 1:
        raise ImageError(f"{name} of {width} x {height} px has no pixels; expected at least 1 x 1")
    if width * height > pixel_limit:
        raise ImageError(
            f"{name} of {width} x {height} px is above the limit of {pixel_limit} pixels and was not decoded; "
            "raise the pixel limit if the picture is real"
        )


def _check_scans(image: ImageFile.ImageFile, data: bytes) -> None:
    if image.info.get("progressive") and (scans := jpeg.walk(data).scans) > MAX_JPEG_SCANS:
        raise ImageError(
            f"progressive JPEG with {scans} scans was not decoded: expected at most {MAX_JPEG_SCANS}, since each "
            "costs a pass over all pixels; re-save it with fewer scans"
        )


def _unidentified(data: bytes) -> str:
    kind = kind_of(data)
    if kind in ("JPEG", "PNG", "GIF", "WebP", "AVIF", "JPEG 2000", "TIFF", "BMP", "Photoshop"):
        return f"the {kind} header is damaged or of an unsupported kind in this file of {len(data)} bytes"
    found = kind or f"bytes {data[:8].hex(' ')}"
    return f"not an image this decoder reads: found {found}, expected one of {', '.join(FORMATS)}"


def _sizes_inside_ico(data: bytes) -> Iterator[tuple[int, int]]:
    """Sizes of the pictures in an icon file: Pillow decodes the largest one while opening it."""
    if data[:4] != b"\x00\x00\x01\x00" or len(data) < 6:
        return
    for entry in range(6, min(6 + 16 * int.from_bytes(data[4:6], "little"), len(data) - 15), 16):
        offset = int.from_bytes(data[entry + 12 : entry + 16], "little")
        head = data[offset : offset + 24]
        if len(head) == 24:
            yield struct.unpack(">16xII", head) if head.startswith(PNG_MAGIC) else _dib_size(head)


def _dib_size(head: bytes) -> tuple[int, int]:
    width, height = struct.unpack("<4xii12x", head)
    return abs(width), max(abs(height) // 2, 1)  # colours and mask are stacked
