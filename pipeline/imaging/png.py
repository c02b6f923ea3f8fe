"""PNG text and profile chunks that unpack to more than Pillow's limit: the picture is read without them.

A zTXt chunk of 10 kB can hold 10 MB of text. Pillow refuses the whole file then; the pixels are innocent.
"""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.imaging.guard import PNG_MAGIC

_COMPRESSED = frozenset({b"zTXt", b"iTXt", b"tEXt", b"iCCP"})


def is_text_bomb(data: bytes, error: ValueError) -> bool:
    """Whether `error` is Pillow's refusal to unpack a text or profile chunk of the PNG file `data`."""
    text = str(error)
    return data.startswith(PNG_MAGIC) and ("MAX_TEXT_CHUNK" in text or "MAX_TEXT_MEMORY" in text)


def without_text(data: bytes) -> bytes:
    """The same PNG file less its text and profile chunks."""
    return PNG_MAGIC + b"".join(chunk for kind, chunk in _chunks(data) if kind not in _COMPRESSED)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    position = len(PNG_MAGIC)
    while position + 8 <= len(data):
        end = position + 12 + int.from_bytes(data[position : position + 4], "big")
        yield data[position + 4 : position + 8], data[position:end]
        position = end
