"""Local folders. A file appears whole or not at all: temporary file in the same folder, fsync, rename."""

from __future__ import annotations

import errno
import os
import stat as modes
import uuid
from collections.abc import Callable, Iterator
from typing import TypeVar
from urllib.parse import unquote

from pipeline.errors import StorageError
from pipeline.storage.base import Entry, patiently

T = TypeVar("T")
_TRANSIENT = {errno.EAGAIN, errno.ETIMEDOUT, errno.ESTALE, errno.ECONNRESET}
_OUTAGES = {errno.ENOTCONN, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.EMFILE, errno.ENFILE}  # a dead mount, no handles
_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}
_WAYS_OUT = {
    errno.ENOENT: "no such file; check the path",
    errno.EACCES: "permission denied; check owner and mode",
    errno.EPERM: "operation not permitted; check owner and mode",
    errno.ENOSPC: "no space left on the device; free some or choose another one",
    errno.EDQUOT: "disk quota exceeded; free some space or raise the quota",
    errno.EROFS: "the file system is read-only; choose a writable folder",
    errno.EISDIR: "a folder stands where a file was expected",
    errno.ENOTDIR: "a part of this path is a file, expected a folder",
    errno.EEXIST: "a file stands where a folder was expected",
    errno.ENAMETOOLONG: "the name is too long for this file system",
    errno.EMFILE: "too many open files; raise the limit (ulimit -n)",
}


class LocalStore:
    """Plain paths and file:// URIs."""

    def absolute(self, uri: str) -> str:
        return os.path.abspath(unquote(uri[7:]) if uri[:7].lower() == "file://" else uri)

    def read(self, uri: str, start: int = 0, stop: int | None = None) -> bytes:
        def action() -> bytes:
            with open(self.absolute(uri), "rb") as file:
                file.seek(start)
                return file.read() if stop is None else file.read(stop - start)

        return _guarded(action, uri)

    def stat(self, uri: str) -> Entry | None:
        path = self.absolute(uri)
        try:
            found = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StorageError(_explain(uri, error)) from None
        return _entry(path, found) if modes.S_ISREG(found.st_mode) else None

    def write(self, uri: str, data: bytes) -> None:
        def action() -> None:
            temporary, path = _write_temporary(self.absolute(uri), data)
            try:
                os.replace(temporary, path)
            except OSError:
                os.unlink(temporary)
                raise
            _sync_folder(path)

        _guarded(action, uri)

    def create(self, uri: str, data: bytes) -> bool:
        def action() -> bool:
            temporary, path = _write_temporary(self.absolute(uri), data)
            try:
                return _link_or_create(temporary, path, data)
            finally:
                os.unlink(temporary)
                _sync_folder(path)

        return _guarded(action, uri)

    def remove(self, uri: str) -> None:
        def action() -> None:
            try:
                os.unlink(self.absolute(uri))
            except FileNotFoundError:
                return

        _guarded(action, uri)

    def is_folder(self, uri: str) -> bool:
        return os.path.isdir(self.absolute(uri))

    def walk(self, folder: str, deep: bool = True) -> Iterator[Entry]:
        """Links are followed, unless into a folder we are in; a dangling one is listed, lest it vanish unseen."""

        def refuse(error: OSError) -> None:
            raise StorageError(_explain(str(error.filename or folder), error)) from None

        above: dict[str, tuple[str, ...]] = {}
        for here, folders, names in os.walk(self.absolute(folder), followlinks=True, onerror=refuse):
            real, parents = os.path.realpath(here), above.pop(here, ())
            if real in parents:
                folders.clear()
                continue
            yield from filter(None, (_listed(os.path.join(here, name)) for name in names))
            if not deep:
                folders.clear()
            above |= {os.path.join(here, name): (*parents, real) for name in folders}


def _guarded(action: Callable[[], T], uri: str) -> T:
    def transient(error: Exception) -> bool:
        return isinstance(error, OSError) and error.errno in _TRANSIENT

    def outage(error: Exception) -> bool:
        return isinstance(error, OSError) and error.errno in _OUTAGES

    return patiently(action, transient, lambda error: _explain(uri, error), outage=outage)


def _explain(uri: str, error: Exception) -> str:
    number = error.errno if isinstance(error, OSError) else None
    return f"{uri}: {_WAYS_OUT.get(number or 0, f'{type(error).__name__}: {error}')}"


def _entry(path: str, found: os.stat_result) -> Entry:
    return Entry(path, f"{found.st_size}-{found.st_mtime_ns}", found.st_size, found.st_mtime)


def _listed(path: str) -> Entry | None:
    try:
        found = os.stat(path)
    except OSError:
        return Entry(path, "unreadable", 0, 0.0)
    return _entry(path, found) if modes.S_ISREG(found.st_mode) else None


def _write_temporary(path: str, data: bytes) -> tuple[str, str]:
    folder = os.path.dirname(path)
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f".tmp-{uuid.uuid4().hex}")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise
    return temporary, path


def _link_or_create(temporary: str, path: str, data: bytes) -> bool:
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        return _create_exclusive(path, data)
    return True


def _create_exclusive(path: str, data: bytes) -> bool:
    """For file systems without hard links: exclusive, though a reader may catch the file half written."""
    try:
        with open(path, "xb") as file:
            file.write(data)
            os.fsync(file.fileno())
    except FileExistsError:
        return False
    return True


def _sync_folder(path: str) -> None:
    """Makes the rename itself durable; some file systems cannot sync a folder, and need not."""
    try:
        handle = os.open(os.path.dirname(path), os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        return
    finally:
        os.close(handle)
