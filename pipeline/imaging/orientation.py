"""Which way is up: read from EXIF or XMP, applied to the pixels once, and reset to 1 where it was read.

The tag's value is overwritten in place, so every other byte of the blob, maker notes included, stays as it was.
TIFF is the exception: Pillow itself turns those pixels while it loads them.

EXIF 2.32 (CIPA DC-008), section 4.6.4, tag 274.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

from PIL import ExifTags, Image

TAG = ExifTags.Base.Orientation
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_IN_XMP = re.compile(rb"""(tiff:Orientation(?:\s*=\s*["']|>)\s*)([0-9])""")
_INTEGERS = {1: "B", 3: "H", 4: "I"}  # TIFF field types BYTE, SHORT, LONG
_EXIF_PREFIX = b"Exif\x00\x00"


def turned(image: Image.Image, orientation: int) -> Image.Image:
    """`image` as it should be looked at; unknown values turn nothing."""
    turn = _TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


def read(exif: bytes | None, xmp: bytes | None) -> int:
    """Orientation 1..8. EXIF is asked first, XMP only if EXIF has no such tag; nonsense is 1."""
    value = _in_exif(exif) if exif else None
    if value is None and xmp and (found := _IN_XMP.search(xmp)):
        value = int(found[2])
    return value if value in _TURNS else 1


def reset_exif(exif: bytes | None) -> bytes | None:
    """`exif` with orientation 1 if it has one; None when a blob says otherwise but cannot be rewritten."""
    if not exif or _in_exif(exif) in (None, 1):
        return exif
    blob = bytearray(exif)
    for place, form in _places(exif):
        struct.pack_into(form, blob, place, 1)
    patched = bytes(blob)
    return patched if _in_exif(patched) == 1 else _rewritten(exif)


def reset_xmp(xmp: bytes | None) -> bytes | None:
    """`xmp` with every tiff:Orientation set to 1, at unchanged length."""
    return _IN_XMP.sub(rb"\g<1>1", xmp) if xmp else xmp


def _in_exif(exif: bytes) -> int | None:
    values = [struct.unpack_from(form, exif, place)[0] for place, form in _places(exif)]
    return values[-1] if values else _by_pillow(exif)


def _places(exif: bytes) -> Iterator[tuple[int, str]]:
    """Offsets and struct formats of the orientation values in the first directory."""
    start = len(_EXIF_PREFIX) if exif.startswith(_EXIF_PREFIX) else 0
    order = {b"II*\x00": "<", b"MM\x00*": ">"}.get(exif[start : start + 4])
    if order is None or len(exif) < start + 8:
        return
    directory = start + struct.unpack_from(order + "I", exif, start + 4)[0]
    if directory + 2 > len(exif):
        return
    count = struct.unpack_from(order + "H", exif, directory)[0]
    for entry in range(directory + 2, min(directory + 2 + 12 * count, len(exif) - 11), 12):
        tag, kind, values = struct.unpack_from(order + "HHI", exif, entry)
        if tag == TAG and values == 1 and kind in _INTEGERS:
            yield entry + 8, order + _INTEGERS[kind]


def _by_pillow(exif: bytes) -> int | None:
    """Pillow's reading of an odd blob (another field type, several blocks in one)."""
    try:
        parsed = Image.Exif()
        parsed.load(exif)
        value = parsed.get(TAG)
    except Exception:  # damaged EXIF is common and says nothing about the pixels
        return None
    return value if isinstance(value, int) else None


def _rewritten(exif: bytes) -> bytes | None:
    try:
        parsed = Image.Exif()
        parsed.load(exif)
        parsed[TAG] = 1
        return parsed.tobytes()
    except Exception:  # damaged beyond writing: better no EXIF than a second turn
        return None
