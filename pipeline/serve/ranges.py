"""Range requests: one range of bytes, as RFC 9110 has it."""

from __future__ import annotations

import re

_RANGE = re.compile(r"bytes=(\d{0,15})-(\d{0,15})")


def cut(data: bytes, header: str | None) -> tuple[int, bytes, dict[str, str]]:
    """(status, body, headers) for `data` under a Range header; several ranges, or nonsense, give all of it."""
    match = _RANGE.fullmatch(header.replace(" ", "")) if header else None
    if match is None or match.groups() == ("", ""):
        return 200, data, {}
    first, last = match.groups()
    size = len(data)
    start = int(first) if first else max(0, size - int(last))
    stop = min(size, int(last) + 1) if first and last else size
    if first and last and int(last) < int(first):
        return 200, data, {}
    if start >= size or (not first and int(last) == 0):
        return 416, b"", {"Content-Range": f"bytes */{size}"}
    return 206, data[start:stop], {"Content-Range": f"bytes {start}-{stop - 1}/{size}"}
