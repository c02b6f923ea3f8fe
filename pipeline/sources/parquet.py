"""Parquet tables with an image column: plain bytes, or Hugging Face structs {bytes, path}.

The other columns pass through under their own names as the Python values pyarrow gives for them (integers and floats
keep their value and lose their width, dictionaries are decoded); a value that has no exact Python form (nanoseconds
of a time of day) stays a `pyarrow.Scalar`.

A row is named by `id_column`, else by the path in its struct, else by its number in the file, which is fixed: the
file's version changes with its content. Repeated names get @2, @3.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.errors import PipelineError, SourceError, StorageError, StoreUnavailable
from pipeline.records import SourceImage, SourceItem, image_id_of
from pipeline.sources.base import (
    MEMBER_LIMIT_BYTES,
    Listing,
    UniqueNames,
    failed,
    human_bytes,
    not_as_listed,
    printable,
)
from pipeline.sources.formats import IMAGE_SUFFIXES, PARQUET_SUFFIXES
from pipeline.storage.parquet import DAMAGE, open_parquet

IMAGE_COLUMN_NAMES = frozenset({"image", "images", "img", "image_bytes", "bytes", "content", "data"}) | IMAGE_SUFFIXES
_READ_ERRORS = (PipelineError, EOFError, *DAMAGE)
_STREAM_BUFFER_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class ParquetSource:
    """Images in column `image_column` (found by type and name when None) of the Parquet files at `uri`."""

    uri: str
    image_column: str | None = None
    id_column: str | None = None
    batch_rows: int = 8
    member_limit_bytes: int = MEMBER_LIMIT_BYTES
    listing: Listing = field(default_factory=Listing, repr=False, compare=False)

    kind: ClassVar[str] = "parquet"
    items_are_shards: ClassVar[bool] = True

    def list_items(self) -> list[SourceItem]:
        """As `Source`; and SourceError when the first readable file has no clear image column."""
        items = self.listing.ending_in(PARQUET_SUFFIXES, self.uri, "Parquet files (" + " ".join(PARQUET_SUFFIXES) + ")")
        try:
            with storage.open_read(items[0].uri) as stream:
                schema = open_parquet(stream).schema_arrow
        except _READ_ERRORS:
            return items
        self._columns(items[0], schema)
        return items

    def images(self, items: Sequence[SourceItem]) -> Iterator[SourceImage]:
        for item in items:
            if missing := not_as_listed(item):
                yield missing
            else:
                yield from self._file_images(item)

    def _file_images(self, item: SourceItem) -> Iterator[SourceImage]:
        try:
            with storage.open_read(item.uri) as stream:
                # Without pre_buffer a column is read page by page: memory follows the largest page, not the row group.
                table = open_parquet(stream, pre_buffer=False, buffer_size=_STREAM_BUFFER_BYTES)
                image_at, id_at = self._columns(item, table.schema_arrow)
                rows = _Rows(item, table.schema_arrow, image_at, id_at, self.member_limit_bytes)
                for group in range(table.num_row_groups):
                    yield from self._group_images(table, group, rows)
        except StoreUnavailable:
            raise
        except _READ_ERRORS as error:
            yield failed(item, f"{_blame(error)}: Parquet file {item.uri}: {error}")

    def _group_images(self, table: pq.ParquetFile, group: int, rows: _Rows) -> Iterator[SourceImage]:
        """Images of one row group; its damage costs the rest of it, and not the row groups after it."""
        first, count = rows.number, table.metadata.row_group(group).num_rows
        batches = table.iter_batches(self.batch_rows, row_groups=[group], use_threads=False)
        while True:
            try:
                batch = next(batches, None)
            except StoreUnavailable:
                raise
            except _READ_ERRORS as error:
                lost = f"rows {rows.number} to {first + count - 1} (row group {group})"
                yield rows.named(f"row_group={group}", None, {}, f"{_blame(error)}: {lost} cannot be read: {error}")
                break
            if batch is None:
                break
            yield from rows.images(batch)
        rows.number = first + count

    def _columns(self, item: SourceItem, schema: pa.Schema) -> tuple[int, int | None]:
        """Positions of the image column and the id column."""
        where = f"Parquet file {storage.redact(item.uri)}"
        id_at = _position(schema, self.id_column, "id_column", where) if self.id_column else None
        if self.image_column:
            image_at = _position(schema, self.image_column, "image_column", where)
            kind = schema.field(image_at).type
            if not (_is_bytes(kind) or _is_image_struct(kind)):
                raise SourceError(
                    f"{where}: column {self.image_column!r} is {kind}; expected binary or a "
                    f"struct with bytes; set source.image_column to another of: {_described(schema)}"
                )
            return image_at, id_at
        return _detected(schema, where), id_at


class _Rows:
    """Rows of one file, counted as they go by."""

    def __init__(self, item: SourceItem, schema: pa.Schema, image_at: int, id_at: int | None, limit_bytes: int) -> None:
        unique = UniqueNames()
        self.number = 0
        self._item, self._limit_bytes = item, limit_bytes
        self._columns = [unique.take(name) for name in schema.names]
        self._image_at, self._id_at = image_at, id_at
        self._names = UniqueNames()

    def images(self, batch: pa.RecordBatch) -> Iterator[SourceImage]:
        for row in range(batch.num_rows):
            try:
                yield self._image(batch, row)
            except (ValueError, OverflowError, pa.ArrowException) as error:
                yield self.named(f"row={self.number}", None, {}, f"damaged: a value cannot be read: {error}")
            self.number += 1

    def _image(self, batch: pa.RecordBatch, row: int) -> SourceImage:
        values = [_exact(column[row]) for column in batch.columns]
        cell = values[self._image_at]
        passthrough = {name: values[at] for at, name in enumerate(self._columns) if at != self._image_at}
        path = None
        if pa.types.is_struct(batch.schema.field(self._image_at).type):
            parts = cell or {}
            passthrough |= {f"{self._columns[self._image_at]}.{part}": parts[part] for part in parts if part != "bytes"}
            cell, path = parts.get("bytes"), parts.get("path")
        name = values[self._id_at] if self._id_at is not None else path
        return self.named(self._fragment(name), cell, passthrough, self._problem(cell, path))

    def _fragment(self, name: Any) -> str:
        text = name.hex() if isinstance(name, bytes) else str(name or "") if name != 0 else "0"
        return self._names.take(text) if text else f"row={self.number}"

    def _problem(self, data: bytes | None, path: str | None) -> str | None:
        if data is None:
            found = f"only the path {path!r}" if path else "null"
            return f"damaged: row {self.number} holds {found}; expected the bytes of an image"
        if len(data) > self._limit_bytes:
            found = f"{human_bytes(len(data))}; expected at most {human_bytes(self._limit_bytes)}"
            return f"too large: row {self.number} holds {found}; raise source.member_limit_bytes"
        return None

    def named(self, fragment: str, data: bytes | None, passthrough: dict[str, Any], error: str | None) -> SourceImage:
        source_uri = f"{self._item.uri}#{fragment}"
        return SourceImage(
            image_id_of(source_uri),
            printable(source_uri),
            self._item.version,
            None if error else data,
            passthrough,
            printable(storage.redact(error)) if error else None,
        )


def _exact(scalar: pa.Scalar) -> Any:
    """The Python value; the scalar itself where Python's time has no nanoseconds."""
    lossy = scalar.type == pa.time64("ns") and scalar.is_valid and scalar.value % 1000
    return scalar if lossy else scalar.as_py()


def _blame(error: Exception) -> str:
    """Arrow reports damage as an OSError without errno; the store and the file system always give a class or errno."""
    from_store = isinstance(error, StorageError) or (isinstance(error, OSError) and error.errno is not None)
    return "unreadable" if from_store else "damaged"


def _position(schema: pa.Schema, name: str, option: str, where: str) -> int:
    at = [i for i, column in enumerate(schema.names) if column == name]
    if len(at) != 1:
        found = f"found {len(at)} columns named {name!r}"
        raise SourceError(f"{where}: {found}; set source.{option} to one of: {_described(schema)}")
    return at[0]


def _is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


def _is_image_struct(kind: pa.DataType) -> bool:
    return pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 and _is_bytes(kind.field("bytes").type)


def _detected(schema: pa.Schema, where: str) -> int:
    """The only Hugging Face struct, else the only binary column; of several, the only one named like an image."""
    structs = [at for at, column in enumerate(schema) if _is_image_struct(column.type)]
    candidates = structs or [at for at, column in enumerate(schema) if _is_bytes(column.type)]
    named = [at for at in candidates if schema.field(at).name.lower() in IMAGE_COLUMN_NAMES]
    for choice in (candidates, named):
        if len(choice) == 1:
            return choice[0]
    raise SourceError(
        f"{where}: found {len(candidates)} columns that could hold images; expected one; "
        f"set source.image_column to one of: {_described(schema)}"
    )


def _described(schema: pa.Schema) -> str:
    return ", ".join(f"{column.name} ({column.type})" for column in schema)
