"""The skeleton of a JPEG file: how many scans it has and where the picture ends.

Pillow stops reading at the end of the picture, but phones append videos and depth maps after it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_SOS, _EOI = 0xDA, 0xD9
_STANDALONE = frozenset({0x01, 0xD8, *range(0xD0, 0xD8)})
# In entropy-coded data FF is followed by 00 (a stuffed byte), a restart marker or more FF.
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")


@dataclass(frozen=True, slots=True)
class Skeleton:
    """`scans` start-of-scan markers before offset `end`, just after the end-of-image marker (or the last byte)."""

    scans: int
    end: int


def walk(data: bytes) -> Skeleton:
    """Follow the markers of the first picture in `data`; damaged files end where they stop making sense."""
    scans, position = 0, 2
    while found := _MARKER.search(data, position):
        marker, position = data[found.start() + 1], found.end()
        if marker == _EOI:
            return Skeleton(scans, position)
        if marker in _STANDALONE:
            continue
        scans += marker == _SOS
        position += max(int.from_bytes(data[position : position + 2], "big"), 2)
    return Skeleton(scans, len(data))


def appendix(data: bytes) -> str | None:
    """What follows the picture, in words, when it is more than padding: a video or another picture."""
    trailer = data[walk(data).end :]
    if b"ftyp" in trailer[:4096] or b"MotionPhoto_Data" in trailer:
        return "video"
    if trailer.lstrip(b"\x00\xff\r\n ").startswith(b"\xd8\xff") or b"\xff\xd8\xff" in trailer[:4096]:
        return "picture"
    return None
