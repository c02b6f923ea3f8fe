"""The originals of stored pictures, looked up again: files, and shards with everything that is in them.

An object is what a source lists: one image file, or one shard. The part that holds a picture knows its object.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.archive import Archive, StoredImage, passthrough
from pipeline.archive.audit import Committed
from pipeline.archive.reader import LostRows, newest_rows
from pipeline.archive.schema import DATA_SCHEMA
from pipeline.errors import ArchiveError, PipelineError, VerifyError
from pipeline.records import REJECTED, SourceImage, SourceItem, image_id_of
from pipeline.sources import open_source
from pipeline.sources.base import printable
from pipeline.sources.formats import TAR_SUFFIXES
from pipeline.stages.read import chunked

Row = dict[str, Any]
Check = Callable[[StoredImage, bytes], None]


@dataclass(frozen=True)
class Original:
    """One object of a source, and the rows that count of the images in it."""

    uri: str
    rows: tuple[Row, ...]

    @property
    def is_shard(self) -> bool:
        return any(row["source_uri"] != printable(self.uri) for row in self.rows)


def originals(committed: Committed, where: pc.Expression | None = None) -> list[Original]:
    """Every object that has rows (with `where`, one that has a row it selects), sorted by URI."""
    if not committed:
        return []
    table = newest_rows(pa.concat_tables([table for _, table in committed.values()]))
    chosen = None if where is None else set(table.filter(where)["image_id"].to_pylist())
    found: dict[str, list[Row]] = {}
    for row in table.to_pylist():
        items = committed[row["part"]][0].meta.items
        found.setdefault(_object_of(row["source_uri"], [uri for uri, _ in items]), []).append(row)
    return [
        Original(uri, tuple(rows))
        for uri, rows in sorted(found.items())
        if chosen is None or any(row["image_id"] in chosen for row in rows)
    ]


def _object_of(source_uri: str, items: Iterable[str]) -> str:
    """The listed object that `source_uri` is, or is a member of."""
    for uri in items:
        name = printable(uri)
        if source_uri == name or source_uri.startswith(f"{name}#"):
            return uri
    raise ArchiveError(f"{source_uri}: its part names no object that it came from; look at it with `jobs.verify`")


def current(uri: str) -> SourceItem | None:
    """The object as it is now; None when it is gone."""
    items = storage.list_files(uri, hidden=True, missing_ok=True)
    return items[0] if len(items) == 1 and items[0].uri == uri else None


def check_file(stored: StoredImage, item: SourceItem, check: Check) -> None:
    """Raises what `check` raises, or VerifyError when the file could not be read whole."""
    data = storage.read_bytes(item.uri)
    if len(data) != item.size_bytes:
        raise VerifyError(f"{len(data)} bytes could be read of {item.size_bytes}")
    check(stored, data)


def check_shard(archive: Archive, item: SourceItem, rows: Iterable[Row], check: Check) -> Iterator[tuple[Row, str]]:
    """Compares every image of a shard with its row and payload; yields (row, complaint), {} for an image without.

    Columns that came along with an image must be in the archive, too, and nothing else may be in the shard.

    Raises:
        PipelineError: the shard cannot be read.
    """
    known = {row["image_id"]: row for row in rows}
    kept: set[str] = set()
    for chunk in chunked(_images(archive, item, known.values())):
        mine = [known[image.image_id] for image in chunk.images if image.image_id in known]
        lost: list[LostRows] = []
        stored = {each.image_id: each for each in archive.stored(_readable(mine), lost.append)}
        yield from ((row, str(error)) for error in lost for row in error.rows)
        for image in chunk.images:
            kept.update(name.lower() for name in _names_in(image, item))
            row = known.get(image.image_id, {})
            if complaint := _complaint(image, row, stored.get(image.image_id), item, check):
                yield row, complaint
    if item.uri.lower().endswith(TAR_SUFFIXES) and (others := sorted(set(_members(item.uri)) - kept)):
        yield {}, f"{item.uri}: holds {others[0]!r} ({len(others)} such), which is in no row of the archive"


def _complaint(
    image: SourceImage, row: Mapping[str, Any], stored: StoredImage | None, item: SourceItem, check: Check
) -> str | None:
    if not row:
        return f"{image.source_uri}: has no row in the archive"
    if row["source_version"] != item.version:
        return f"{image.source_uri}: its row is of version {row['source_version']}, the shard is {item.version} now"
    if row["status"] == REJECTED:
        return f"{image.source_uri}: was rejected ({row['reason']})"
    if image.data is None or stored is None:
        return f"{image.source_uri}: {image.error or 'its payload cannot be read'}"
    try:
        check(stored, image.data)
        _require_columns(image, stored)
    except PipelineError as error:
        return f"{image.source_uri}: {error}"
    return None


def _require_columns(image: SourceImage, stored: StoredImage) -> None:
    """Raises VerifyError unless every column that came along with `image` is stored, as it was or as text."""
    names = passthrough.stored_names(sorted(image.passthrough), DATA_SCHEMA.names)
    for name, value in image.passthrough.items():
        plain = value.as_py() if isinstance(value, pa.Scalar) else value
        if plain is None:
            continue
        there = stored.passthrough.get(names[name])
        [again] = passthrough.to_array([value]).to_pylist()
        if not any(_same(there, each) for each in (plain, again, passthrough.as_text(plain))):
            raise VerifyError(f"its column {name!r} is not in the archive as it is in the shard")


def _same(one: Any, other: Any) -> bool:
    return bool(one == other) or repr(one) == repr(other)  # NaN is equal to nothing


def _names_in(image: SourceImage, item: SourceItem) -> Iterator[str]:
    """Members of a tar that `image` and its columns came from."""
    key = image.passthrough.get("__key__")
    yield image.source_uri.removeprefix(f"{printable(item.uri)}#")
    yield from (f"{key}.{name}" for name in image.passthrough if name != "__key__")


def _members(uri: str) -> Iterator[str]:
    with storage.open_read(uri) as raw, tarfile.open(fileobj=raw, mode="r:*") as tar:
        yield from (printable(member.name).lower() for member in tar if not member.isdir())


def _readable(rows: Collection[Row]) -> list[Row]:
    return [row for row in rows if row["status"] != REJECTED]


def _images(archive: Archive, item: SourceItem, rows: Collection[Row]) -> Iterator[SourceImage]:
    """As the run that archived them read them."""
    run_id = next(iter(rows))["run_id"]
    record = storage.read_if_exists(storage.join(archive.uri, "runs", f"{run_id}.json"))
    section = json.loads(record).get("config", {}).get("source", {}) if record else {}
    options = {name: section[name] for name in ("image_column", "id_column") if section.get(name)}
    return open_source(item.uri, **options).images([item])


def names_its_file(row: Row) -> bool:
    """False for a name that is not UTF-8: the table holds it escaped, so it does not lead back to the file."""
    return bool(image_id_of(row["source_uri"]) == row["image_id"])


def version_of(uri: str) -> str | None:
    """Version of one file or object as it is now; None when it is gone."""
    item = current(uri)
    return item.version if item else None
