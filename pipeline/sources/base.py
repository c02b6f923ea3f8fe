"""What every source of images is to the rest of the house: listed once on the driver, read anywhere.

A source never raises for one image. What cannot be read comes out as a `SourceImage` without data and with an
`error`, so that it gets its row like every other image:

    "unreadable: ..."  the store refused this one (gone, changed, not permitted); `--retry unreadable` asks again
    "too large: ..."   over `member_limit_bytes`, which may be raised
    "damaged: ..."     the bytes were read and are not what they should be; they will not get better by themselves

StoreUnavailable alone passes: an outage is no property of an image, so it may leave no row behind. It ends the run,
and the next one finds these images still to do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, Protocol, runtime_checkable

from pipeline import storage
from pipeline.errors import SourceError, StorageError, StoreUnavailable
from pipeline.records import SourceImage, SourceItem, image_id_of

MEMBER_LIMIT_BYTES = 512 << 20


@runtime_checkable
class Source(Protocol):
    """Where images come from. Implementations are plain data: they pickle, and hold no open file.

    kind  "files", "webdataset" or "parquet".
    items_are_shards  an item holds many images; otherwise an item is one image.
    """

    kind: ClassVar[str]
    items_are_shards: ClassVar[bool]

    def list_items(self) -> list[SourceItem]:
        """Everything there is to read, sorted by URI. Raises SourceError when there is nothing."""
        ...

    def images(self, items: Sequence[SourceItem]) -> Iterator[SourceImage]:
        """Each image of `items` once, in order, in bounded memory; the same images in the same order every time."""
        ...


class UniqueNames:
    """Makes repeated names of one shard unique by order of appearance: a, a@2, a@3."""

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}

    def take(self, name: str) -> str:
        count = self._seen.get(name, 0) + 1
        unique = name if count == 1 else f"{name}@{count}"
        while count > 1 and unique in self._seen:
            count += 1
            unique = f"{name}@{count}"
        self._seen[name] = count
        self._seen.setdefault(unique, 1)
        return unique


def printable(name: str) -> str:
    """`name` as valid UTF-8: bytes of a file name that are none become `\\xNN`, since Arrow text cannot hold them."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def failed(item: SourceItem, error: str) -> SourceImage:
    """The row of an item that could not be read, or of the damage that ended the reading of a shard."""
    uri = printable(item.uri)
    return SourceImage(image_id_of(item.uri), uri, item.version, None, error=printable(storage.redact(error)))


def not_as_listed(item: SourceItem) -> SourceImage | None:
    """The row of a shard that is gone or has another content by now; its images belong to another version."""
    try:
        found = storage.list_files(item.uri)[0].version
    except StoreUnavailable:
        raise
    except StorageError as error:
        return failed(item, f"unreadable: {error}")
    if found == item.version:
        return None
    return failed(
        item,
        f"unreadable: {item.uri} was listed as version {item.version} and is {found} now; it changed in between, "
        "and the next run reads it in its new version",
    )


def human_bytes(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:.1f} MiB" if size_bytes >= 2**20 else f"{size_bytes} bytes"


class Listing:
    """Lists a URI. What was seen while finding out the kind is used once, so that no bucket is listed twice."""

    def __init__(self, seen: list[SourceItem] | None = None) -> None:
        self._seen = seen

    def __reduce__(self) -> tuple[type[Listing], tuple[()]]:
        return Listing, ()

    def all(self, uri: str) -> list[SourceItem]:
        seen, self._seen = self._seen, None
        return storage.list_files(uri, missing_ok=True) if seen is None else seen

    def ending_in(self, suffixes: Sequence[str], uri: str, looked_for: str) -> list[SourceItem]:
        """Files at `uri` with one of `suffixes`, in any case. Raises SourceError when there are none."""
        found = self.all(uri)
        items = [item for item in found if item.uri.lower().endswith(tuple(suffixes))]
        if not items:
            raise nothing_found(uri, looked_for, len(found))
        return items


def nothing_found(uri: str, looked_for: str, others: int) -> SourceError:
    seen = f"{others} other file{'s' * (others != 1)}" if others else "nothing at all"
    braces = "{a..b} is not expanded, write *; " if "{" in uri else ""
    return SourceError(
        f"source {storage.redact(uri)}: found {seen}; expected {looked_for}; {braces}"
        "check the path, prefix or glob (hidden names, with a leading dot, do not count), or set source.kind"
    )
