"""Back to the source: one image again by the URI its row names, whatever kind of source it came from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline import storage
from pipeline.errors import PipelineError, SourceError
from pipeline.imaging.decode import decode
from pipeline.records import Picture, SourceItem
from pipeline.sources import open_source


def source_bytes(source_uri: str, source_version: str, options: Mapping[str, Any] | None = None) -> bytes:
    """The bytes of one image, a file or a member of a shard; `options` are those of the source's section.

    Raises:
        PipelineError: it is gone, or has changed since it was measured.
    """
    shard = _shard_of(source_uri)
    if shard is None:
        found = storage.list_files(source_uri)[0]
        if found.version != source_version:
            raise SourceError(
                f"{source_uri}: it has changed since (version {source_version} then, {found.version} now)"
            )
        return storage.read_bytes(source_uri)
    columns = {name: (options or {}).get(name) for name in ("image_column", "id_column")}
    source = open_source(shard, **{name: value for name, value in columns.items() if value})
    for image in source.images([SourceItem(shard, source_version, storage.size_of(shard))]):
        if image.source_uri == source_uri and image.data is not None:
            return image.data
    raise SourceError(f"{source_uri}: not in its shard any more")


def picture(source_uri: str, source_version: str, options: Mapping[str, Any] | None = None) -> tuple[Picture, bytes]:
    """(decoded picture, source bytes); raises PipelineError with the reason why it cannot be shown."""
    data = source_bytes(source_uri, source_version, options)
    try:
        return decode(data), data
    except PipelineError:
        raise
    except Exception as error:
        raise SourceError(f"{source_uri}: cannot be decoded ({type(error).__name__})") from error


def _shard_of(source_uri: str) -> str | None:
    """The shard of `shard#member`; None for an image file, whose name may hold a # as well."""
    at = source_uri.find("#")
    while at >= 0:
        if storage.exists(source_uri[:at]) and not storage.exists(source_uri):
            return source_uri[:at]
        at = source_uri.find("#", at + 1)
    return None
