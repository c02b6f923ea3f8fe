"""EXIF and XMP as the source holds them, from wherever its format keeps them.

EXIF is always "Exif\\0\\0" plus a TIFF structure, the form a JPEG APP1 segment has and Pillow's `exif=` takes.
"""

from __future__ import annotations

from typing import Any

from PIL import Image, ImageFile

PREFIX = b"Exif\x00\x00"
# What describes the photo, not how a TIFF file stores it: description, camera, dates, people, rights, resolution.
_TIFF_TAGS = (270, 271, 272, 274, 282, 283, 296, 305, 306, 315, 316, 33432, 40091, 40092, 40093, 40094, 40095)
_TIFF_IFDS = (0x8769, 0x8825)  # Exif, GPS


def exif_of(image: ImageFile.ImageFile) -> bytes | None:
    """The EXIF blob with its prefix, or None; damaged EXIF is kept as it is, since pixels do not depend on it."""
    blob = image.info.get("exif") or _from_text(image.info.get("Raw profile type exif"))
    if not blob and image.format == "TIFF":
        blob = _from_tiff(image)
    if not isinstance(blob, bytes) or len(blob) <= len(PREFIX):
        return None
    return blob if blob.startswith(PREFIX) else PREFIX + blob


def xmp_of(image: ImageFile.ImageFile) -> bytes | None:
    """The XMP packet, or None."""
    xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    if isinstance(xmp, str):
        return xmp.encode("utf-8")
    return xmp if isinstance(xmp, bytes) and xmp else None


def _from_text(profile: Any) -> bytes | None:
    """ImageMagick's PNG text chunk: a name, a length, then hex digits."""
    try:
        return bytes.fromhex("".join(profile.split("\n")[3:])) if profile else None
    except (AttributeError, ValueError):
        return None


def _from_tiff(image: ImageFile.ImageFile) -> bytes | None:
    """A new blob of the tags that describe the picture; offsets into the TIFF file mean nothing elsewhere."""
    try:
        source, kept = image.getexif(), Image.Exif()
        for tag in _TIFF_TAGS:
            if tag in source:
                kept[tag] = source[tag]
        for ifd in _TIFF_IFDS:
            if values := source.get_ifd(ifd):
                kept.get_ifd(ifd).update(values)
        return kept.tobytes() if len(kept) else None
    except Exception:  # damaged tags cost the metadata, never the picture
        return None
