"""Planning: what there is, minus what the archive holds, as units of work.

Whether an image file is done is asked of its row, not of the unit it once was in, so tomorrow's grouping cannot
redo today's work. A shard is done when all its chunks are. Another codec or quality does not make a source new:
what is archived stays as it is unless `retry` asks for it.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.archive import reader
from pipeline.archive.archive import Archive
from pipeline.archive.parts import CHUNK_BYTES, CHUNK_IMAGES, PartMeta, PartRecord, spec_id
from pipeline.archive.schema import STATUSES
from pipeline.records import SourceItem, image_id_of

_COLUMNS = ("image_id", "source_version", "status", "reason", "part", "committed_at")
Rows = dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Unit:
    """Work for one task: image files (one chunk), or one shard (chunk by chunk).

    Images in `skip` have their row already and get no other. `attempt` and `partial` go into the part's metadata.
    """

    items: tuple[SourceItem, ...]
    attempt: int = 0
    partial: bool = False
    skip: frozenset[str] = frozenset()

    def wants(self, image_id: str) -> bool:
        return image_id not in self.skip

    def meta(self, chunk: int, last: bool, spec: Mapping[str, Any]) -> PartMeta:
        return PartMeta.of(self.items, chunk, last, spec, self.attempt, self.partial)

    def to_json(self) -> str:
        items = [(item.uri, item.version, item.size_bytes) for item in self.items]
        return json.dumps([items, self.attempt, self.partial, sorted(self.skip)])

    @classmethod
    def from_json(cls, text: str) -> Unit:
        items, attempt, partial, skip = json.loads(text)
        return cls(tuple(SourceItem(*item) for item in items), attempt, partial, frozenset(skip))


def plan(
    archive: Archive,
    items: Iterable[SourceItem],
    spec: Mapping[str, Any],
    retry: Collection[str] = (),
    shards: bool = False,
) -> list[Unit]:
    """Units for every item that is new, changed, unfinished, or asked for by `retry`; sorted by URI.

    `retry` holds statuses ("rejected"), words that a reason starts with ("unreadable" for "unreadable: ..."), or
    parts ("part-<id>").
    `shards` says that an item holds many images.
    """
    parts = reader.read_parts(archive.uri, _COLUMNS)
    ordered = sorted(items, key=lambda item: item.uri)
    if shards:
        history = _by_item(parts)
        units = (_shard_unit(item, history, spec_id(spec), retry) for item in ordered)
        return [unit for unit in units if unit is not None]
    return list(_file_units(ordered, parts, retry))


def _file_units(
    items: Sequence[SourceItem], parts: Sequence[tuple[PartRecord, Any]], retry: Collection[str]
) -> Iterator[Unit]:
    newest, attempts = _newest_rows(table for _, table in parts), _attempts(record for record, _ in parts)
    by_attempt: dict[int, list[SourceItem]] = defaultdict(list)
    for item in items:
        row = newest.get(image_id_of(item.uri))
        if row is None or row["source_version"] != item.version or _asked(row, retry):
            by_attempt[attempts.get((item.uri, item.version), 0)].append(item)
    for attempt, todo in sorted(by_attempt.items()):
        yield from (Unit(group, attempt) for group in _grouped(todo))


def _grouped(items: Iterable[SourceItem]) -> Iterator[tuple[SourceItem, ...]]:
    group: list[SourceItem] = []
    size_bytes = 0
    for item in items:
        if group and (len(group) == CHUNK_IMAGES or size_bytes + item.size_bytes > CHUNK_BYTES):
            yield tuple(group)
            group, size_bytes = [], 0
        group.append(item)
        size_bytes += item.size_bytes
    if group:
        yield tuple(group)


def _shard_unit(
    item: SourceItem, history: Mapping[str, list[tuple[PartRecord, Any]]], spec: str, retry: Collection[str]
) -> Unit | None:
    """What is left of a shard. Finished, it is taken up again for `retry`, or when an older version came back."""
    seen = history.get(item.uri, [])
    mine = [(record, table) for record, table in seen if record.meta.items[0][1] == item.version]
    full = [record for record, _ in mine if not record.meta.partial]
    if not full:
        return Unit((item,))
    attempt = max(record.meta.attempt for record in full)
    current = [(record, table) for record, table in mine if record.meta.attempt == attempt]
    if not _complete(record for record, _ in current):
        return Unit((item,), attempt, skip=_ids_of_other_chunks(current, spec))
    following = max(record.meta.attempt for record, _ in mine) + 1
    if max(seen, key=lambda pair: pair[0].committed_at)[0].meta.items[0][1] != item.version:
        return Unit((item,), following)
    rows = _newest_rows(table for _, table in mine)
    keep = frozenset(image_id for image_id, row in rows.items() if not _asked(row, retry))
    return Unit((item,), following, partial=True, skip=keep) if len(keep) < len(rows) else None


def _complete(records: Iterable[PartRecord]) -> bool:
    """Whether the chunks of one codec spec and one way of cutting are all there, 0 to last."""
    chunks: dict[tuple[Any, ...], dict[int, bool]] = defaultdict(dict)
    for record in records:
        chunks[record.meta.spec_id, record.meta.limits][record.meta.chunk] = record.meta.last
    return any(set(range(max(found) + 1)) == set(found) and found[max(found)] for found in chunks.values())


def _ids_of_other_chunks(parts: Iterable[tuple[PartRecord, Any]], spec: str) -> frozenset[str]:
    """Images of a half-done shard whose chunks were cut or coded in another way, and so have other part ids."""
    limits = (CHUNK_IMAGES, CHUNK_BYTES)
    others = (table for record, table in parts if (record.meta.spec_id, record.meta.limits) != (spec, limits))
    return frozenset(image_id for table in others for image_id in table["image_id"].to_pylist())


def _by_item(parts: Iterable[tuple[PartRecord, Any]]) -> dict[str, list[tuple[PartRecord, Any]]]:
    found: dict[str, list[tuple[PartRecord, Any]]] = defaultdict(list)
    for record, table in parts:
        if len(record.meta.items) == 1:
            found[record.meta.items[0][0]].append((record, table))
    return found


def _attempts(records: Iterable[PartRecord]) -> dict[tuple[str, str], int]:
    """(uri, version) -> the first attempt number that no part of it has used."""
    used: dict[tuple[str, str], int] = {}
    for record in records:
        for item in record.meta.items:
            used[item] = max(used.get(item, 0), record.meta.attempt + 1)
    return used


def _newest_rows(tables: Iterable[Any]) -> Rows:
    """The row that counts for each image; see `reader`."""
    newest: Rows = {}
    for table in tables:
        for row in table.to_pylist():
            known = newest.get(row["image_id"])
            if known is None or _age(row) > _age(known):
                newest[row["image_id"]] = row
    return newest


def _age(row: Mapping[str, Any]) -> tuple[Any, int]:
    return row["committed_at"], -STATUSES.index(row["status"])


def _asked(row: Mapping[str, Any], retry: Collection[str]) -> bool:
    return not {row["status"], str(row["reason"] or "").partition(":")[0], f"part-{row['part']}"}.isdisjoint(retry)
