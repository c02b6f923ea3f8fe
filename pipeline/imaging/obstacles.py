"""Why 8-bit RGB (+ alpha) cannot stand for a source, read from headers before any pixel is decoded.

Pillow quietly gives 8 bits of a 16-bit picture, the first frame of an animation and the preview of a camera raw
file. A lossy payload made of that would lose the rest, so each case is named and codecs refuse it.
"""

from __future__ import annotations

import re
from typing import Any

from PIL import ImageFile

from pipeline.imaging import jpeg

_MODES = {
    "CMYK": "CMYK colours",
    "LAB": "Lab colours",
    "HSV": "HSV colours",
    "I": "integer samples of more than 8 bits",
    "F": "floating-point samples",
    "RGBX": "an extra channel that is not alpha",
}
_AV1C = re.compile(rb"av1C\x81.(.)", re.DOTALL)
_NCLX = re.compile(rb"colrnclx(..)(..)", re.DOTALL)
_MOTION = re.compile(rb"""(?:MotionPhoto|MicroVideo)(?:\s*=\s*["']|>)\s*1""")
_THUMBNAIL = "Large Thumbnail"
MAX_PAGES = 1000


def find(image: ImageFile.ImageFile, data: bytes, allow_cmyk: bool) -> str | None:
    """The first obstacle in words, or None. `image` is opened and not loaded, and is left at its first frame."""
    return _depth(image, data) or _mode(image.mode, allow_cmyk) or _structure(image, data) or _frames(image)


def _depth(image: ImageFile.ImageFile, data: bytes) -> str | None:
    bits = max(_bits_per_channel(image, data), 16 if image.mode.startswith("I;16") else 0)
    return f"{bits} bits per channel" if bits > 8 else None


def _bits_per_channel(image: ImageFile.ImageFile, data: bytes) -> int:
    """As the header says, for the formats where Pillow's mode does not tell."""
    if image.format == "PNG":
        return data[24]
    if image.format == "AVIF":
        return max((_av1_bits(found[1][0]) for found in _AV1C.finditer(data)), default=8)
    if image.format == "JPEG2000":
        return _jpeg2000_bits(data)
    if image.format == "TIFF":
        return max(_numbers(_tags(image).get(258)), default=1)
    if image.format == "SGI":
        return 8 * data[3]
    if image.format == "PPM":
        return max((_maxval(tile.args).bit_length() for tile in image.tile), default=8)
    return 8


def _av1_bits(flags: int) -> int:
    return 8 if not flags & 0x40 else 12 if flags & 0x20 else 10


def _jpeg2000_bits(data: bytes) -> int:
    """Largest depth in the SIZ marker of the codestream, ISO 15444-1 A.5.1."""
    siz = data.find(b"\xff\x4f\xff\x51") + 4
    count = int.from_bytes(data[siz + 36 : siz + 38], "big")
    return max(((depth & 0x7F) + 1 for depth in data[siz + 38 : siz + 38 + 3 * count : 3]), default=8)


def _maxval(args: Any) -> int:
    return args[1] if isinstance(args, tuple) and len(args) > 1 and isinstance(args[1], int) else 255


def _mode(mode: str, allow_cmyk: bool) -> str | None:
    return None if mode == "CMYK" and allow_cmyk else _MODES.get(mode)


def _structure(image: ImageFile.ImageFile, data: bytes) -> str | None:
    if image.format == "PSD":
        return "a layered document"
    if image.format == "TIFF":
        return _tiff_structure(image)
    if image.format == "PNG":
        return _png_colour(image, data)
    if image.format == "AVIF":
        return _avif_colour(image, data)
    if image.format in ("JPEG", "MPO"):
        return _jpeg_structure(image, data)
    return None


def _tiff_structure(image: ImageFile.ImageFile) -> str | None:
    tags = _tags(image)
    if 50706 in tags:
        return "a camera raw file (DNG)"
    if 330 in tags or tags.get(254, 0) == 1:
        return "a TIFF with further images inside (camera raw or pyramid)"
    if max(_numbers(tags.get(339)), default=1) not in (1, 4):
        return "samples that are not unsigned integers"
    if max(_numbers(tags.get(277)), default=1) > max(len(image.getbands()), 3 if image.mode in ("P", "PA") else 1):
        return "more channels than colour and alpha"
    return None


def _png_colour(image: ImageFile.ImageFile, data: bytes) -> str | None:
    header = data[: data.find(b"IDAT")]
    if b"cICP" in header and header[header.find(b"cICP") + 4 :][:2] != b"\x01\x0d":
        return "a colour space given by a cICP chunk"
    gamma = image.info.get("gamma")
    if gamma and "icc_profile" not in image.info and "srgb" not in image.info and not 0.43 < gamma < 0.48:
        return f"a gAMA chunk of {gamma:g}, which is not sRGB"
    return None


def _avif_colour(image: ImageFile.ImageFile, data: bytes) -> str | None:
    if b"tmap" in data[8:64]:
        return "an HDR gain map"
    found = None if "icc_profile" in image.info else _NCLX.search(data)
    if found and (found[1] not in (b"\0\1", b"\0\2") or found[2] in (b"\0\x10", b"\0\x12", b"\0\x08")):
        return "a colour space other than sRGB, given as CICP numbers"
    return None


def _jpeg_structure(image: ImageFile.ImageFile, data: bytes) -> str | None:
    xmp = image.info.get("xmp", b"")
    if b"hdrgm:Version" in xmp:
        return "an HDR gain map"
    extra = "video" if _MOTION.search(xmp) else None if image.format == "MPO" else jpeg.appendix(data)
    return f"a second {extra} after the picture" if extra == "picture" else extra and f"a {extra} after the picture"


def _frames(image: ImageFile.ImageFile) -> str | None:
    if image.format == "MPO":
        return _second_picture(image)
    if image.format == "ICO":
        return None
    try:
        count = _pages(image) if image.format == "TIFF" else getattr(image, "n_frames", 1)
        image.seek(0)
    except Exception as error:  # the first frame may still be whole
        return f"frames that cannot be counted ({type(error).__name__})"
    if count <= 1:
        return None
    return f"{count} pages" if image.format == "TIFF" else f"animation, {count} frames"


def _pages(image: ImageFile.ImageFile) -> int:
    """Pages of a TIFF, counted up to a limit: Pillow's count takes quadratic time, minutes for a hostile file."""
    count = 1
    while count < MAX_PAGES and _opens(image, count):
        count += 1
    return count


def _second_picture(image: ImageFile.ImageFile) -> str | None:
    """MPO holds stereo pairs and panoramas, but also mere previews, and indexes whose pictures were cut off."""
    entries = getattr(image, "mpinfo", {}).get(0xB002, ())
    kinds = [str(entry["Attribute"]["MPType"]) for entry in entries]
    others = [k for k, kind in enumerate(kinds) if k and not kind.startswith(_THUMBNAIL) and _opens(image, k)]
    image.seek(0)
    return f"{len(others) + 1} pictures in one file ({kinds[others[0]]})" if others else None


def _opens(image: ImageFile.ImageFile, frame: int) -> bool:
    try:
        image.seek(frame)
    except Exception:  # missing or damaged: there is nothing to lose
        return False
    return True


def _tags(image: ImageFile.ImageFile) -> Any:
    return getattr(image, "tag_v2", {})


def _numbers(value: Any) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else () if value is None else (value,)
