"""The commit: one data part, then one metrics part, each a single atomic write.

The metrics part is the commit. A crash before it leaves litter that nobody reads; a crash after it leaves nothing
to do. A second commit of the same part returns at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.archive import lock, schema
from pipeline.archive.parts import PartMeta, PartRecord, data_uri, metrics_uri
from pipeline.errors import ArchiveError
from pipeline.records import Outcome

# One picture is fetched by reading one row group, so groups are small; each costs about 2 kB of footer.
ROW_GROUP_BYTES = 1 << 20
_BLOBS = ("payload", "alpha")


@dataclass(frozen=True, slots=True)
class CommitSummary:
    """What was committed, in numbers small enough to travel; `already` when the part had been there before."""

    part: str
    already: bool = False
    images: int = 0
    source_bytes: int = 0
    payload_bytes: int = 0
    by_status: dict[str, int] = field(default_factory=dict)


def is_committed(archive: str, part: str) -> bool:
    return storage.exists(metrics_uri(archive, part))


def commit(archive: str, part: str, outcomes: Sequence[Outcome], meta: PartMeta, run_id: str) -> CommitSummary:
    """Writes the part unless it is there. Raises ArchiveError for rows or names that cannot be right."""
    if part != meta.part_id:
        raise ArchiveError(f"part {part}: its metadata says {meta.part_id}; expected the same id, use Unit.meta()")
    schema.check(outcomes, part)
    now = datetime.now(UTC)
    data, metrics = schema.tables(outcomes, part, run_id, now)
    already = is_committed(archive, part)
    if not already:
        lock.require_holder(archive, run_id)
        if len(data):
            storage.write_atomic(data_uri(archive, part), _data_bytes(data))
            lock.require_holder(archive, run_id)  # again: a successor may have planned while the data part travelled
        stamp = PartRecord(part, run_id, now.isoformat(), meta).to_metadata()
        storage.write_atomic(metrics_uri(archive, part), _metrics_bytes(metrics.replace_schema_metadata(stamp)))
    return _summary(part, already, outcomes, metrics)


def _summary(part: str, already: bool, outcomes: Sequence[Outcome], metrics: pa.Table) -> CommitSummary:
    by_status = dict(Counter(outcome.status for outcome in outcomes))
    totals = [sum(n or 0 for n in metrics[name].to_pylist()) for name in ("source_bytes", "payload_bytes")]
    return CommitSummary(part, already, len(outcomes), totals[0], totals[1], by_status)


def _metrics_bytes(table: pa.Table) -> bytes:
    out = pa.BufferOutputStream()
    pq.write_table(table, out, compression="zstd")
    return bytes(out.getvalue())


def _data_bytes(table: pa.Table) -> bytes:
    """Payloads are stored as they are: they do not compress further, and a dictionary would only copy them."""
    names = table.column_names
    compression = {name: "NONE" if name in _BLOBS else "ZSTD" for name in names}
    small = [name for name in names if name not in _BLOBS]
    out = pa.BufferOutputStream()
    with pq.ParquetWriter(
        out, table.schema, compression=compression, use_dictionary=small, write_statistics=["image_id"]
    ) as writer:
        for group in _row_groups(table):
            writer.write_table(group)
    return bytes(out.getvalue())


def _row_groups(table: pa.Table) -> list[pa.Table]:
    groups, start, size = [], 0, 0
    for row, payload in enumerate(table["payload"]):
        length = payload.as_buffer().size
        if row > start and size + length > ROW_GROUP_BYTES:
            groups.append(table.slice(start, row - start))
            start, size = row, 0
        size += length
    return [*groups, table.slice(start)]
