"""The one door to files and objects: local folders and S3, by URI.

A URI is an absolute or relative path, `file:///path`, or `s3://bucket/key`. Every function raises StorageError with
one clear sentence, after patient retries of what is transient. Writes are atomic: a reader sees all or nothing.

    __init__   the functions everybody calls        base        what a store is; retries
    local      folders                              s3          S3 through s3fs
    redaction  secrets out of every message
"""

from __future__ import annotations

import io
import re
from collections.abc import Collection, Iterable
from typing import Any, BinaryIO, cast

from pipeline.errors import StorageError
from pipeline.records import SourceItem
from pipeline.storage.base import Entry, Store
from pipeline.storage.local import LocalStore
from pipeline.storage.redaction import redact, redact_tree
from pipeline.storage.s3 import S3Store

__all__ = [
    "absolute", "exists", "is_empty", "join", "keeps_versions", "list_files", "modified_s", "open_read",
    "put_if_absent", "read_bytes", "read_if_exists", "redact", "redact_tree", "remove", "size_of", "write_atomic",
]  # fmt: skip

_LOCAL, _S3 = LocalStore(), S3Store()
_STORES: dict[str, Store] = {"": _LOCAL, "file": _LOCAL, "s3": _S3, "s3a": _S3}
_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")
_MAGIC = re.compile(r"[*?\[]")


def read_bytes(uri: str) -> bytes:
    """All bytes of one file or object."""
    return _store(uri).read(uri)


def read_if_exists(uri: str) -> bytes | None:
    """All bytes, or None when there is no such file."""
    return _store(uri).read(uri) if exists(uri) else None


def open_read(uri: str, buffer_bytes: int = 4 << 20) -> BinaryIO:
    """A seekable binary file; from S3 it is read in ranges of `buffer_bytes`, each with its own retries."""
    store = _store(uri)
    if isinstance(store, LocalStore):
        try:
            return open(store.absolute(uri), "rb")
        except OSError:
            store.read(uri, 0, 0)  # fails in the same way, with the clear sentence
            raise
    raw = _RangeReader(store, uri, size_of(uri))
    return cast(BinaryIO, io.BufferedReader(raw, buffer_size=buffer_bytes))


def write_atomic(uri: str, data: bytes) -> None:
    """Creates or replaces: one PUT, or temporary file, fsync and rename; missing folders are made."""
    _store(uri).write(uri, data)


def put_if_absent(uri: str, data: bytes) -> bool:
    """True when this call created `uri`, False when it was there before. `data` should hold a random token.

    Atomic locally and on stores that honour `If-None-Match` (probed once per bucket). Others, `rclone serve s3`
    among them, get a weaker look-write-wait-read-back; see `S3Store._claim`.
    """
    return _store(uri).create(uri, data)


def exists(uri: str) -> bool:
    """Whether a file or object (not a folder) is there."""
    return _store(uri).stat(uri) is not None


def size_of(uri: str) -> int:
    """Size in bytes."""
    return _stat(uri).size_bytes


def modified_s(uri: str) -> float:
    """Unix time of the last change, by the store's clock."""
    return _stat(uri).modified_s


def remove(uri: str) -> None:
    """Removes one file or object; no error when it is gone already."""
    _store(uri).remove(uri)


def keeps_versions(uri: str) -> bool:
    """Whether what is removed there can be brought back: a bucket with versioning."""
    store = _store(uri)
    return isinstance(store, S3Store) and store.keeps_versions(uri)


def is_empty(uri: str) -> bool:
    """No visible file below this folder or prefix; also True when there is no such folder."""
    store = _store(uri)
    if store.stat(uri) is not None:
        return False
    return not store.is_folder(uri) or next(iter(_visible(store.walk(uri), store.absolute(uri))), None) is None


def absolute(uri: str) -> str:
    """The one spelling of a URI: an absolute plain path, or `s3://bucket/key`."""
    return _store(uri).absolute(uri)


def join(uri: str, *parts: str) -> str:
    """`uri/part/part`, for every kind of URI."""
    return "/".join([uri.rstrip("/"), *(part.strip("/") for part in parts)])


def list_files(
    uri: str, suffixes: Collection[str] | None = None, *, hidden: bool = False, missing_ok: bool = False
) -> list[SourceItem]:
    """A file, all files below a folder or prefix, or a glob (`*`, `?`, `[..]`, `**` across folders); sorted by URI.

    `suffixes` such as {".jpg"} match in any case. Names with a leading dot, and what lies in folders with one, are
    left out unless `hidden`. A name that exists as spelled is taken as it is, even with glob characters in it.
    Raises StorageError when there is nothing of that name, unless `missing_ok`; a glob may match nothing.
    """
    store = _store(uri)
    wanted = tuple(s.lower() for s in suffixes) if suffixes else ("",)
    found = _find(store, uri, hidden, missing_ok)
    items = (SourceItem(e.uri, e.version, e.size_bytes) for e in found if e.uri.lower().endswith(wanted))
    return sorted(items, key=lambda item: item.uri)


def _find(store: Store, uri: str, hidden: bool, missing_ok: bool) -> Iterable[Entry]:
    if (entry := store.stat(uri)) is not None:
        return [entry]
    if store.is_folder(uri):
        return _shown(store.walk(uri), store.absolute(uri), hidden)
    if _MAGIC.search(uri):
        return _glob(store, uri, hidden)
    if missing_ok:
        return []
    raise StorageError(
        f"{redact(uri)}: nothing found; expected a file, a folder or prefix with files, or a glob; check the spelling"
    )


def _glob(store: Store, uri: str, hidden: bool) -> list[Entry]:
    from fsspec.utils import glob_translate

    pattern = store.absolute(uri)
    start = _MAGIC.search(pattern)
    base = pattern[: start.start() if start else len(pattern)].rpartition("/")[0]
    tail = pattern[len(base) + 1 :]
    if not store.is_folder(base or "/"):
        return []
    matches = re.compile(glob_translate(tail)).match
    listed = _shown(store.walk(base or "/", deep="/" in tail or "**" in tail), base, hidden)
    return [entry for entry in listed if matches(entry.uri[len(base) + 1 :])]


def _shown(entries: Iterable[Entry], base: str, hidden: bool) -> Iterable[Entry]:
    return entries if hidden else _visible(entries, base)


def _visible(entries: Iterable[Entry], base: str) -> Iterable[Entry]:
    return (e for e in entries if not any(p.startswith(".") for p in e.uri[len(base) :].split("/")))


def _stat(uri: str) -> Entry:
    entry = _store(uri).stat(uri)
    if entry is None:
        raise StorageError(f"{redact(uri)}: no such file or object; check the spelling")
    return entry


def _store(uri: str) -> Store:
    match = _SCHEME.match(uri)
    scheme = match.group(1).lower() if match else ""
    if scheme not in _STORES:
        raise StorageError(f"{redact(uri)}: found the scheme {scheme}://, expected a path, file:// or s3://")
    return _STORES[scheme]


class _RangeReader(io.RawIOBase):
    """A remote object as a seekable file; every read is one ranged GET."""

    def __init__(self, store: Store, uri: str, size_bytes: int) -> None:
        self._store, self._uri, self._size_bytes, self._at = store, uri, size_bytes, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size_bytes}[whence])
        return self._at

    def readinto(self, buffer: Any) -> int:
        stop = min(self._at + len(buffer), self._size_bytes)
        if self._at >= stop:
            return 0
        data = self._store.read(self._uri, self._at, stop)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
