"""`shardpress://archive/image_id`: archived pictures as read-only files, for anything that opens a path.

    fsspec.open("shardpress://s3://cold/photos/0f3a...e1.jpg")       archive by URI, picture by id
    fsspec.open("shardpress:///data/archive/0f3a...e1.png")          another suffix: another format
    fs = fsspec.filesystem("shardpress", archive="s3://cold/photos")
    fs.ls(""); fs.cat("0f3a...e1")

A file has the format its source had, and is the source byte for byte where the payload can give it back.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from fsspec.spec import AbstractFileSystem

from pipeline import storage
from pipeline.data.pictures import FORMATS, Pictures, suffix_of
from pipeline.errors import PipelineError, StorageError

_IMAGE_ID = re.compile(r"[0-9a-f]{32}")


class ArchiveFileSystem(AbstractFileSystem):
    """Folders are archives, files are pictures named by image_id and the suffix of their format.

    Args:
        archive: the archive that names without a folder are looked up in.
        device: where learned payloads are synthesised.
        cached_files: how many decoded files are kept.
    """

    protocol = "shardpress"
    root_marker = ""
    cachable = True

    def __init__(
        self, archive: str | None = None, device: str = "auto", cached_files: int = 16, **options: Any
    ) -> None:
        super().__init__(**options)
        self._archive = archive
        self._opened = lru_cache(maxsize=8)(lambda uri: Pictures(uri, device=device))
        self._rendered = lru_cache(maxsize=cached_files)(self._render)

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(each) for each in path]
        text = str(path)
        return text.removeprefix("shardpress://").rstrip("/")

    def ls(self, path: str, detail: bool = True, **options: Any) -> list[Any]:
        """The pictures of an archive; their sizes are known only after decoding, which `info` of one does."""
        path = self._strip_protocol(path)
        archive, name = self._split(path)
        if name is not None:
            entries = [self.info(path)]
        else:
            prefix = f"{path}/" if path else ""
            rows = (
                self._pictures(archive).table.select(["image_id", "source_format", "codec", "source_uri"]).to_pylist()
            )
            entries = [
                {"name": f"{prefix}{row['image_id']}{suffix_of(row)}", "size": None, "type": "file"}
                | {"source_uri": row["source_uri"]}
                for row in rows
            ]
        return entries if detail else [entry["name"] for entry in entries]

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        path = self._strip_protocol(path)
        archive, name = self._split(path)
        if name is None:
            self._pictures(archive)
            return {"name": path, "size": 0, "type": "directory"}
        data = self._rendered(archive, name)
        row = self._pictures(archive).row(name[:32])
        return {"name": path, "size": len(data), "type": "file", "source_uri": row["source_uri"], "part": row["part"]}

    def exists(self, path: str, **options: Any) -> bool:
        """Looks at the metrics table and decodes nothing."""
        try:
            archive, name = self._split(self._strip_protocol(path))
            pictures = self._pictures(archive)
            if name is not None:
                pictures.row(name[:32])
        except (OSError, PipelineError):
            return False
        return True

    def isfile(self, path: str) -> bool:
        return self._split(self._strip_protocol(path))[1] is not None and self.exists(path)

    def isdir(self, path: str) -> bool:
        return self._split(self._strip_protocol(path))[1] is None and self.exists(path)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        archive, name = self._split(self._strip_protocol(path))
        if name is None:
            raise self._no_picture(path, archive)
        return bytes(self._rendered(archive, name)[start:end])

    def checksum(self, path: str) -> str:
        """Changes when the stored picture does; decodes nothing."""
        archive, name = self._split(self._strip_protocol(path))
        if name is None:
            raise self._no_picture(path, archive)
        row = self._row(archive, name)
        return f"{row['part']}-{name}"

    ukey = checksum

    def invalidate_cache(self, path: str | None = None) -> None:
        """Forgets metrics tables and decoded files, so that what was committed since shows up."""
        self._opened.cache_clear()
        self._rendered.cache_clear()

    def _open(self, path: str, mode: str = "rb", **options: Any) -> io.BytesIO:
        if mode != "rb":
            raise PermissionError(f"{path}: an archive is read-only through this file system; expected mode 'rb'")
        return io.BytesIO(self.cat_file(path))

    def _refuse(self, path: Any, *rest: Any, **options: Any) -> Any:
        raise PermissionError(f"{path}: an archive is read-only through this file system; write with jobs.recompress")

    mkdir = makedirs = rmdir = rm_file = _rm = cp_file = put_file = pipe_file = touch = _refuse

    def _split(self, path: str) -> tuple[str, str | None]:
        """(archive URI, file name or None for the archive itself)."""
        folder, _, last = path.rpartition("/")
        if _IMAGE_ID.match(last):
            return self._resolved(folder), last
        return self._resolved(path), None

    def _no_picture(self, path: str, archive: str) -> OSError:
        """A name that is no image_id: an archive, or nothing at all."""
        try:
            self._opened(archive)
        except PipelineError:
            return FileNotFoundError(
                f"{path}: found no image_id (32 hex digits); expected shardpress://ARCHIVE/IMAGE_ID, see `ls`"
            )
        return IsADirectoryError(f"{path}: found an archive, expected one of its pictures, see `ls`")

    def _resolved(self, folder: str) -> str:
        if not folder and self._archive is None:
            raise FileNotFoundError(
                "shardpress://: found no archive in the path; write shardpress://ARCHIVE/IMAGE_ID, "
                "or give the file system archive=URI"
            )
        return storage.absolute(folder or str(self._archive))

    def _pictures(self, archive: str) -> Pictures:
        try:
            return self._opened(archive)
        except PipelineError as error:
            raise FileNotFoundError(str(error)) from error

    def _row(self, archive: str, name: str) -> dict[str, Any]:
        suffix = name[32:].lower()
        try:
            row = self._pictures(archive).row(name[:32])
        except PipelineError as error:
            raise FileNotFoundError(str(error)) from error
        if suffix and suffix != suffix_of(row) and suffix not in FORMATS:
            known = ", ".join(sorted({*FORMATS, suffix_of(row)}))
            raise FileNotFoundError(f"{name}: found the suffix {suffix}; expected none or one of {known}")
        return row

    def _render(self, archive: str, name: str) -> bytes:
        row, suffix = self._row(archive, name), name[32:].lower()
        native = not suffix or FORMATS.get(suffix, suffix) == FORMATS.get(suffix_of(row), suffix_of(row))
        try:
            return self._pictures(archive).file(row, None if native else FORMATS[suffix]).data
        except StorageError:
            raise
        except PipelineError as error:
            raise OSError(str(error)) from error


def names_of(fs: ArchiveFileSystem, source_uris: Iterable[str], archive: str = "") -> dict[str, str]:
    """source URI -> path in `fs`, for those among `source_uris` that the archive holds."""
    wanted = set(source_uris)
    return {entry["source_uri"]: entry["name"] for entry in fs.ls(archive) if entry["source_uri"] in wanted}


def register() -> None:
    """For a checkout that is not installed; an installed package has an entry point."""
    import fsspec

    fsspec.register_implementation("shardpress", ArchiveFileSystem, clobber=True)


register()
