"""Tar members as a stream, from tars that nobody vouches for.

Python's `tarfile` ends quietly at a damaged header and reads headers of any size into memory. An archive job must
do neither, so the blocks are walked here and `tarfile` only parses the single header. Names are names: nothing is
ever written to disk. Tars that were concatenated are read to the end of the last one.
"""

from __future__ import annotations

import gzip
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, cast

from pipeline.errors import SourceError

BLOCK = 512
EXTENSION_LIMIT_BYTES = 1 << 20
_SKIP_CHUNK = 1 << 20

_LONG_NAME, _LONG_LINK, _PAX, _PAX_SOLARIS, _PAX_GLOBAL = b"L", b"K", b"x", b"X", b"g"
_EXTENSIONS = (_LONG_NAME, _LONG_LINK, _PAX, _PAX_SOLARIS, _PAX_GLOBAL)
_FOLDER, _VOLUME_LABEL = tarfile.DIRTYPE, b"V"
_NO_BYTES = {b"1": "a hard link", b"2": "a symbolic link", b"3": "a device", b"4": "a device", b"6": "a named pipe"}

_BROKEN_COMPRESSION = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError)


class TarDamage(SourceError):
    """The tar cannot be followed any further."""


@dataclass(frozen=True, slots=True)
class Member:
    """One entry of a tar that is no folder. `data` is None only with a `problem` that says why."""

    name: str
    data: bytes | None
    problem: str | None = None


def decompressed(stream: BinaryIO) -> BinaryIO:
    """`stream`, through gzip or xz if its first bytes say so."""
    magic = stream.read(6)
    stream.seek(0)
    if magic[:2] == b"\x1f\x8b":
        return cast(BinaryIO, gzip.GzipFile(fileobj=stream))
    return cast(BinaryIO, lzma.LZMAFile(stream)) if magic == b"\xfd7zXZ\x00" else stream


def members(stream: BinaryIO, limit_bytes: int, skip: Callable[[str], bool]) -> Iterator[Member]:
    """Entries in order; data of those that `skip` names is passed over, and larger ones come with a problem.

    Raises:
        TarDamage: at the first block that makes no sense, after every entry before it.
    """
    extensions: dict[str, str] = {}
    while (header := _next_header(stream)) is not None:
        if header.type in _EXTENSIONS:
            extensions |= _extension(stream, header)
            continue
        name, size, sparse = _effective(header, extensions)
        extensions = {}
        if header.type == tarfile.GNUTYPE_SPARSE:
            _skip_sparse_maps(stream, header)
        if header.type in (_FOLDER, _VOLUME_LABEL):
            continue
        if header.type not in _NO_BYTES and skip(name):
            _skip(stream, _padded(size), name)
        elif not skip(name):
            yield _member(stream, header, name, size, sparse, limit_bytes)


def _member(stream: BinaryIO, header: tarfile.TarInfo, name: str, size: int, sparse: bool, limit_bytes: int) -> Member:
    if kind := _NO_BYTES.get(header.type):
        return Member(name, None, f"damaged: {kind} in the tar, without bytes of its own")
    if sparse or size > limit_bytes:
        _skip(stream, _padded(size), name)
        too_large = f"too large: {size} bytes; expected at most {limit_bytes}; raise source.member_limit_bytes"
        return Member(name, None, "damaged: a sparse file; pack it without --sparse" if sparse else too_large)
    data = _exactly(stream, size, name)
    _read(stream, _padded(size) - size)  # a cut here leaves the member whole; the next header notices it
    return Member(name, data)


def _next_header(stream: BinaryIO) -> tarfile.TarInfo | None:
    """The next header; None at a proper end: at least one block of zeros, then nothing or no header."""
    zeros = 0
    while True:
        block = _read(stream, BLOCK)
        if zeros and len(block) < BLOCK:
            return None
        if len(block) < BLOCK:
            raise TarDamage("ends without the two blocks of zeros that close a tar; it was cut short")
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            if block.count(0) == BLOCK:
                zeros += 1
                continue
            if zeros >= 2:
                return None
            raise TarDamage(f"found no tar header where the next member should begin ({error})") from error
        if header.size < 0:
            raise TarDamage(f"header of {header.name!r} gives a size of {header.size} bytes")
        return header


def _extension(stream: BinaryIO, header: tarfile.TarInfo) -> dict[str, str]:
    """What a GNU or pax header says about the member after it, in pax terms."""
    if header.size > EXTENSION_LIMIT_BYTES:
        raise TarDamage(f"an extended header claims {header.size} bytes; expected at most {EXTENSION_LIMIT_BYTES}")
    data = _exactly(stream, header.size, "an extended header")
    _skip(stream, _padded(header.size) - header.size, "an extended header")
    if header.type == _LONG_NAME:
        return {"path": data.partition(b"\0")[0].decode("utf-8", "surrogateescape")}
    return _pax_records(data) if header.type in (_PAX, _PAX_SOLARIS) else {}


def _pax_records(data: bytes) -> dict[str, str]:
    """Records `<length> <key>=<value>\\n` of POSIX.1-2001; a length counts its own digits."""
    records, at = {}, 0
    while at < len(data) and data[at]:
        space = data.find(b" ", at, at + 8)
        digits = data[at:space] if space > at else b""
        end = at + int(digits) if digits.isdigit() else at
        if not at < space < end <= len(data):
            raise TarDamage("an extended header has a record without a valid length")
        key, _, value = data[space + 1 : end - 1].partition(b"=")
        records[key.decode("utf-8", "surrogateescape")] = value.decode("utf-8", "surrogateescape")
        at = end
    return records


def _effective(header: tarfile.TarInfo, extensions: dict[str, str]) -> tuple[str, int, bool]:
    """Name, stored size and sparseness of a member, its extended headers applied."""
    size_text = extensions.get("size", "")
    if size_text and not (size_text.isascii() and size_text.isdigit() and len(size_text) < 20):
        raise TarDamage(f"an extended header gives a size of {size_text[:40]!r}")
    name = extensions.get("GNU.sparse.name") or extensions.get("path") or header.name
    sparse = header.type == tarfile.GNUTYPE_SPARSE or any(key.startswith("GNU.sparse.") for key in extensions)
    return name, int(size_text) if size_text else header.size, sparse


def _skip_sparse_maps(stream: BinaryIO, header: tarfile.TarInfo) -> None:
    """Pass over the map blocks of an old GNU sparse member, which its size does not count."""
    more = bool(header._sparse_structs[1])  # type: ignore[attr-defined]
    while more:
        more = bool(_exactly(stream, BLOCK, header.name)[504])


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _read(stream: BinaryIO, size: int) -> bytes:
    """Up to `size` bytes; fewer only at the end, or at damage of the compression around the tar."""
    pieces, missing = [], size
    while missing:
        try:
            piece = stream.read(missing)
        except _BROKEN_COMPRESSION as error:
            raise TarDamage(f"its compression is broken: {error}") from error
        if not piece:
            break
        pieces.append(piece)
        missing -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _exactly(stream: BinaryIO, size: int, name: str) -> bytes:
    data = _read(stream, size)
    if len(data) < size:
        raise TarDamage(f"ends inside {name!r}: found {len(data)} of {size} bytes")
    return data


def _skip(stream: BinaryIO, size: int, name: str) -> None:
    while size > 0:
        size -= len(_exactly(stream, min(size, _SKIP_CHUNK), name))
