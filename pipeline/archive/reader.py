"""Reading: metrics as one table, and single pictures out of data parts without reading the rest.

Readers follow metrics. An image may have several rows: its source changed, or it was tried again. The newest row
counts: highest `committed_at`, then the better status, then the part name, so that all readers agree.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.archive.parts import PartRecord, data_uri, part_of
from pipeline.archive.schema import DATA_SCHEMA, METRICS_SCHEMA, STATUSES, conform
from pipeline.errors import ArchiveError, StorageError, StoreUnavailable
from pipeline.records import REJECTED
from pipeline.storage.parquet import DAMAGE, open_parquet

_THREADS = 16
_NEWEST_BY = ("image_id", "committed_at", "status", "part")
_BUFFER_BYTES = 128 << 10
_CHECK = "look at it with `python -m jobs.verify`"


class LostRows(ArchiveError):
    """Stored pictures that cannot be had any more; `rows` are their metrics rows."""

    def __init__(self, message: str, rows: Sequence[dict[str, Any]] = ()) -> None:
        super().__init__(message)
        self.rows = tuple(rows)


OnError = Callable[[LostRows], None]


@dataclass(frozen=True, slots=True, eq=False)
class StoredImage:
    """A data row and the metrics row it belongs to. `alpha` is a grayscale PNG; `passthrough` the other columns."""

    image_id: str
    source_uri: str
    source_version: str
    source_format: str | None
    status: str
    codec: str
    model_id: str | None
    payload: bytes
    width: int | None
    height: int | None
    gray: bool | None
    alpha: bytes | None
    exif: bytes | None
    icc: bytes | None
    xmp: bytes | None
    part: str
    metrics: dict[str, Any] = field(repr=False)
    passthrough: dict[str, Any] = field(repr=False)


def read_parts(archive: str, columns: Collection[str]) -> list[tuple[PartRecord, pa.Table]]:
    """Every metrics part: its record, and the named columns. Raises ArchiveError naming a part it cannot read."""
    items = storage.list_files(storage.join(archive, "metrics"), {".parquet"}, missing_ok=True)
    uris = [item.uri for item in items if part_of(item.uri)]
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(functools.partial(read_part, columns=columns), uris))


def read_part(uri: str, columns: Collection[str]) -> tuple[PartRecord, pa.Table]:
    """One metrics part; these are small, so one request fetches it whole."""
    data = storage.read_bytes(uri)
    try:
        file = open_parquet(pa.BufferReader(data))
        present = [name for name in file.schema_arrow.names if name in columns]
        table = file.read(columns=present, use_threads=False)
        table = conform(table, pa.schema([each for each in METRICS_SCHEMA if each.name in columns]))
        metadata = file.schema_arrow.metadata
    except DAMAGE as error:
        raise ArchiveError(f"{uri}: not a readable metrics part ({error}); {_CHECK}") from None
    return PartRecord.from_metadata(metadata, uri), table


def metrics(archive: str, columns: Collection[str] | None = None, newest: bool = True) -> pa.Table:
    """The metrics table; with `newest`, one row per image, the one that counts, sorted by image_id."""
    wanted = list(columns) if columns is not None else METRICS_SCHEMA.names
    if unknown := [name for name in wanted if name not in METRICS_SCHEMA.names]:
        raise ArchiveError(f"metrics columns {unknown}: not known; expected some of {', '.join(METRICS_SCHEMA.names)}")
    needed = {*wanted, *_NEWEST_BY} if newest else set(wanted)
    schema = pa.schema([each for each in METRICS_SCHEMA if each.name in needed])
    tables = [table for _, table in read_parts(archive, needed)]
    table = pa.concat_tables(tables) if tables else schema.empty_table()
    return (newest_rows(table) if newest else table).select(wanted)


def row(archive: str, image_id: str) -> dict[str, Any]:
    """The newest metrics row of one image. Raises ArchiveError when the archive does not know it."""
    table = metrics(archive)
    found = table.filter(pc.field("image_id") == image_id)
    if not len(found):
        raise ArchiveError(f"{archive}: no image {image_id!r} among {len(table)}; expected an image_id of its metrics")
    return dict(found.to_pylist()[0])


def payload(archive: str, image_id: str) -> StoredImage:
    """One stored picture. Raises ArchiveError when it is unknown, rejected or damaged."""
    newest = row(archive, image_id)
    if newest["status"] == REJECTED:
        raise ArchiveError(f"{archive}: image {image_id} was rejected ({newest['reason']}); nothing is stored for it")
    return next(iter(_of_part(archive, newest["part"], [newest])))


def iter_payloads(
    archive: str,
    ids: Collection[str] | None = None,
    where: pc.Expression | None = None,
    on_error: OnError | None = None,
) -> Iterator[StoredImage]:
    """Stored pictures, newest rows only, part by part; memory is that of one row group.

    `ids` and `where` (an Arrow expression over metrics columns) narrow it.

    Raises:
        LostRows: damage; unless `on_error` is told instead, which costs no picture but those it names.
    """
    table = metrics(archive).filter(pc.field("status") != REJECTED)
    if ids is not None:
        known = pa.array(list(ids), pa.string())  # an empty list has no type of its own
        table = table.filter(pc.field("image_id").isin(known))
    if where is not None:
        table = table.filter(where)
    yield from stored(archive, table.sort_by("part").to_pylist(), on_error)


def stored(archive: str, rows: Iterable[dict[str, Any]], on_error: OnError | None = None) -> Iterator[StoredImage]:
    """The pictures of these rows of the metrics table, part by part, without another look at that table."""
    by_part: dict[str, list[dict[str, Any]]] = {}
    for each in rows:
        by_part.setdefault(each["part"], []).append(each)
    for part, wanted in by_part.items():
        yield from _of_part(archive, part, wanted, on_error)


def _of_part(
    archive: str, part: str, rows: list[dict[str, Any]], on_error: OnError | None = None
) -> Iterator[StoredImage]:
    wanted = {each["image_id"]: each for each in rows}
    uri = data_uri(archive, part)
    problem: Exception = ArchiveError(f"{uri}: has no row for images that its metrics part has; {_CHECK}")
    try:
        with storage.open_read(uri, _BUFFER_BYTES) as stream:
            file = open_parquet(stream, pre_buffer=False)
            for group in range(file.num_row_groups):
                try:
                    found = _wanted_rows(file, group, wanted)
                except DAMAGE as error:
                    problem = error
                    continue
                for row in found:
                    try:
                        yield _stored(row, wanted.pop(row["image_id"]), uri)
                    except LostRows as error:
                        _tell(error, on_error)
    except StoreUnavailable:
        raise  # an outage is no damage
    except (*DAMAGE, StorageError) as error:
        problem = error
    if wanted:
        text = str(problem) if isinstance(problem, ArchiveError) else f"{uri}: cannot be read ({problem}); {_CHECK}"
        _tell(LostRows(text, tuple(wanted.values())), on_error)


def _wanted_rows(file: Any, group: int, wanted: Collection[str]) -> list[dict[str, Any]]:
    """Rows of one row group; its payloads are not read unless one of `wanted` is among them."""
    names = file.read_row_group(group, columns=["image_id"])["image_id"].to_pylist()
    if wanted and not set(names).isdisjoint(wanted):
        rows = file.read_row_group(group, use_threads=False).to_pylist()
        return [row for row in {row["image_id"]: row for row in rows}.values() if row["image_id"] in wanted]
    return []


def _tell(problem: LostRows, on_error: OnError | None) -> None:
    if on_error is None:
        raise problem from None
    on_error(problem)


def _stored(found: dict[str, Any], metrics_row: dict[str, Any], uri: str) -> StoredImage:
    if missing := [name for name in DATA_SCHEMA.names if name not in found]:
        raise LostRows(f"{uri}: has no column {missing[0]!r}; {_CHECK}", (metrics_row,))
    if hashlib.sha256(found["payload"] or b"").hexdigest() != found["payload_sha256"]:
        text = f"{uri}: the payload of {found['image_id']} does not have its SHA-256; {_CHECK}"
        raise LostRows(text, (metrics_row,))
    own = {name: found[name] for name in DATA_SCHEMA.names if name != "payload_sha256"}
    return StoredImage(
        **own,
        source_uri=metrics_row["source_uri"],
        status=metrics_row["status"],
        metrics=metrics_row,
        passthrough={name: value for name, value in found.items() if name not in DATA_SCHEMA.names},
    )


def newest_rows(table: pa.Table) -> pa.Table:
    """Of a metrics table, the row that counts for each image, sorted by image_id."""
    rank = pc.index_in(table["status"], pa.array(STATUSES))
    table = table.append_column("_rank", rank)
    order = [("image_id", "ascending"), ("committed_at", "descending"), ("_rank", "ascending"), ("part", "ascending")]
    table = table.sort_by(order).drop_columns("_rank").combine_chunks()
    if len(table) < 2:
        return table
    ids = table["image_id"]
    changes = pc.not_equal(ids.slice(1).combine_chunks(), ids.slice(0, len(ids) - 1).combine_chunks())
    return table.filter(pa.concat_arrays([pa.array([True]), changes]))
