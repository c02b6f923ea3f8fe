"""Image files made in code: the odd things an archive holds, in the smallest form that still shows them."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

PHOTOS = sorted((Path(__file__).parents[1] / "data" / "photos").glob("*.jpg"))


def gradient(width: int = 24, height: int = 16) -> Image.Image:
    """No two corners alike, so that every wrong turn shows."""
    y, x = np.mgrid[0:height, 0:width]
    return Image.fromarray(
        np.stack([x * 255 // max(width - 1, 1), y * 255 // max(height - 1, 1), x * 0 + 40], 2).astype(np.uint8)
    )


def file(image: Image.Image, format: str, **options: object) -> bytes:
    target = io.BytesIO()
    image.save(target, format, **options)
    return target.getvalue()


def exif(orientation: int | None, order: str = "<", kind: int = 3) -> bytes:
    """A TIFF structure with a camera name, an orientation of the given field type, and a maker's odd bytes."""
    entries = [(271, 2, 4, b"Cam\0")]
    if orientation is not None:
        entries.append((274, kind, 1, struct.pack(order + {1: "B3x", 3: "H2x", 4: "I"}[kind], orientation)))
    body = b"".join(struct.pack(order + "HHI", *entry[:3]) + entry[3] for entry in entries)
    magic = b"II*\0" if order == "<" else b"MM\0*"
    head = magic + struct.pack(order + "IH", 8, len(entries)) + body + struct.pack(order + "I", 0)
    return b"Exif\0\0" + head + b"\x12\x01maker\xff\xd8note"


def xmp(orientation: int) -> bytes:
    return (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        b'<rdf:Description tiff:Orientation="%d"/></rdf:RDF></x:xmpmeta>' % orientation
    )


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, extra: bytes = b"") -> bytes:
    """A PNG file by hand: `rows` with their filter bytes, `extra` chunks before the pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + extra + pixels + chunk(b"IEND", b"")


def tiff_with_pages(count: int) -> bytes:
    """A TIFF whose one directory is repeated `count` times in a chain."""
    data = bytearray(file(Image.new("L", (4, 4)), "TIFF"))
    start = struct.unpack_from("<I", data, 4)[0]
    end = start + 2 + 12 * struct.unpack_from("<H", data, start)[0]
    directory = bytes(data[start:end])
    struct.pack_into("<I", data, end, len(data))
    for k in range(1, count):
        following = len(data) + len(directory) + 4 if k < count - 1 else 0
        data += directory + struct.pack("<I", following)
    return bytes(data)
