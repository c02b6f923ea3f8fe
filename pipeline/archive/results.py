"""Results of an evaluation: one row per image x codec x setting, in plain Parquet parts beside each other.

    <results>/part-<id>.parquet     rows of one chunk of images; its existence is the commit
    <results>/runs/<run_id>.json    config, versions, machine, start and end; also the lock of a running job

A row has the columns of an archive's metrics table and a few of its own. Bytes, bpp and distortion are those of the
codec's own payload whatever the status: `kept_original` says that `recompress` would keep the source instead, and
the reason says why. A part's Parquet metadata (`shardpress_results`, JSON) names its items and settings, so that a
resumed run needs no rows to know what is done.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.archive.parts import digest, part_of
from pipeline.archive.schema import METRICS_SCHEMA, conform, table_of
from pipeline.errors import ArchiveError

FORMAT_VERSION = 1
META_KEY = b"shardpress_results"
_THREADS = 16
_OWN_COLUMNS = pa.schema(
    {
        "series": pa.string(),  # the curve this row is a point of, e.g. "cnn effort 1"
        "effort": pa.int64(),
        "setting_id": pa.string(),
        "decode_ms": pa.float64(),
        "label": pa.int64(),  # class of the image, where the classifier's task is known
        "top1_source": pa.int64(),  # what the classifier sees in the source
        "top1_decoded": pa.int64(),  # and in the decoded payload
    }.items()
)
RESULTS_SCHEMA = pa.schema([*METRICS_SCHEMA, *_OWN_COLUMNS])


@dataclass(frozen=True, slots=True)
class Setting:
    """One codec at one rate: a point of a curve.

    `spec` builds the codec; `fidelity` is the classifier asked, or None.
    """

    series: str
    spec: Mapping[str, Any]
    fidelity: Mapping[str, Any] | None = None

    @property
    def setting_id(self) -> str:
        return digest([self.series, self.spec, self.fidelity])[:16]

    @property
    def quality(self) -> float | None:
        return self.spec.get("rate", {}).get("quality")

    @property
    def effort(self) -> int | None:
        return self.spec.get("effort")

    def to_dict(self) -> dict[str, Any]:
        return {"series": self.series, "spec": dict(self.spec), "fidelity": self.fidelity}


@dataclass(frozen=True, slots=True)
class ResultMeta:
    """What a part holds: chunk `chunk` of `items` ((uri, version)) under `settings`, `last` when none follows.

    `quota` is (images, seed) where only a sample of a shard was taken.
    """

    items: tuple[tuple[str, str], ...]
    settings: tuple[str, ...]
    chunk: int = 0
    last: bool = True
    quota: tuple[int, int] | None = None

    @property
    def part_id(self) -> str:
        return digest([sorted(self.items), sorted(self.settings), self.chunk, self.quota])

    def to_json(self) -> str:
        return json.dumps({name: getattr(self, name) for name in self.__slots__})

    @classmethod
    def from_json(cls, text: str | bytes) -> ResultMeta:
        """Raises KeyError, TypeError or ValueError for anything `to_json` did not write."""
        found = json.loads(text)
        items = tuple((str(uri), str(version)) for uri, version in found["items"])
        quota = found["quota"]
        return cls(
            items,
            tuple(found["settings"]),
            int(found["chunk"]),
            bool(found["last"]),
            None if quota is None else (int(quota[0]), int(quota[1])),
        )


Key = tuple[str, str, tuple[int, int] | None]
Done = Mapping[Key, frozenset[str]]


def is_committed(results: str, part: str) -> bool:
    return storage.exists(_part_uri(results, part))


def commit(results: str, meta: ResultMeta, rows: Sequence[Mapping[str, Any]], run_id: str) -> None:
    """Writes the part in one atomic step, unless it is there."""
    part = meta.part_id
    if is_committed(results, part):
        return
    stamp = {"part": part, "run_id": run_id, "committed_at": datetime.now(UTC)}
    table = table_of([{**row, **stamp} for row in rows], RESULTS_SCHEMA)
    raw = json.dumps({"format_version": FORMAT_VERSION, "meta": json.loads(meta.to_json())}).encode()
    out = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata({META_KEY: raw}), out, compression="zstd")
    storage.write_atomic(_part_uri(results, part), bytes(out.getvalue()))


def done(results: str) -> Done:
    """Ids of the settings that are complete for each (uri, version, quota): every chunk up to the last is there."""
    chunks: dict[tuple[Key, str], dict[int, bool]] = defaultdict(dict)
    with ThreadPoolExecutor(_THREADS) as pool:
        for meta in pool.map(_meta_of, _part_uris(results)):
            for uri, version in meta.items:
                for setting in meta.settings:
                    chunks[(uri, version, meta.quota), setting][meta.chunk] = meta.last
    found: dict[Key, set[str]] = defaultdict(set)
    for (key, setting), seen in chunks.items():
        if set(seen) == set(range(max(seen) + 1)) and seen[max(seen)]:
            found[key].add(setting)
    return {key: frozenset(settings) for key, settings in found.items()}


def read(results: str, columns: Sequence[str] | None = None) -> pa.Table:
    """All rows; of rows for the same image and setting only the newest.

    Raises:
        ArchiveError: no parts there, or one that cannot be read.
    """
    uris = _part_uris(results)
    if not uris:
        raise ArchiveError(
            f"{results}: found no part-*.parquet; expected results of `python -m jobs.evaluate`; check the path"
        )
    wanted = RESULTS_SCHEMA.names if columns is None else list(columns)
    needed = list(dict.fromkeys([*wanted, "image_id", "series", "quality", "committed_at"]))
    schema = pa.schema([RESULTS_SCHEMA.field(name) for name in needed])
    with ThreadPoolExecutor(_THREADS) as pool:
        tables = list(pool.map(lambda uri: _table_of(uri, schema), uris))
    return _newest(pa.concat_tables(tables)).select(wanted)


def run_records(results: str) -> list[dict[str, Any]]:
    """Records of the runs that made these results, oldest first; what cannot be parsed is left out."""
    items = storage.list_files(storage.join(results, "runs"), {".json"}, missing_ok=True)
    records = []
    for item in items:
        if "/lock/" in item.uri:
            continue
        try:
            records.append(json.loads(storage.read_bytes(item.uri)))
        except ValueError:
            continue
    return sorted(records, key=lambda record: str(record.get("started_at", "")))


def _newest(table: pa.Table) -> pa.Table:
    keys = ["image_id", "series", "quality"]
    table = table.append_column("_row", pa.array(range(len(table)), pa.int64()))
    ordered = table.sort_by([*((key, "ascending") for key in keys), ("committed_at", "ascending")])
    last = ordered.group_by(keys, use_threads=False).aggregate([("_row", "last")])
    return table.take(last["_row_last"]).drop_columns("_row")


def _table_of(uri: str, schema: pa.Schema) -> pa.Table:
    try:
        file = pq.ParquetFile(pa.BufferReader(storage.read_bytes(uri)))
        present = [name for name in file.schema_arrow.names if name in schema.names]
        return conform(file.read(columns=present, use_threads=False), schema)
    except (pa.ArrowException, OSError) as error:
        raise ArchiveError(f"{uri}: not a readable results part ({error}); remove it and evaluate again") from None


def _meta_of(uri: str) -> ResultMeta:
    try:
        raw = pq.read_schema(pa.BufferReader(storage.read_bytes(uri))).metadata or {}
        found = json.loads(raw[META_KEY])
        if found["format_version"] != FORMAT_VERSION:
            raise ValueError(f"format version {found['format_version']!r}, this program knows {FORMAT_VERSION}")
        return ResultMeta.from_json(json.dumps(found["meta"]))
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise ArchiveError(
            f"{uri}: has no readable `shardpress_results` metadata ({error}); expected a part of `jobs.evaluate`; "
            "move the file away or choose another folder for results"
        ) from None


def _part_uri(results: str, part: str) -> str:
    return storage.join(results, f"part-{part}.parquet")


def _part_uris(results: str) -> list[str]:
    items = storage.list_files(results, {".parquet"}, missing_ok=True)
    return [item.uri for item in items if part_of(item.uri)]
