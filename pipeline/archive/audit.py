"""What is damaged, missing, foreign or litter in an archive: a check of its structure, without any decoder.

Decoding is checked by the `verify` job, over `Archive.iter_payloads`. Litter is a data part without its metrics
part, or a temporary file: what a crash leaves behind. Nobody reads it, and `sweep` removes it.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.archive import reader
from pipeline.archive.archive import Archive
from pipeline.archive.parts import PartRecord, data_uri, metrics_uri, part_of
from pipeline.archive.schema import METRICS_SCHEMA
from pipeline.errors import ArchiveError, PipelineError, StorageError
from pipeline.records import REJECTED, SourceItem

# A worker that lost its driver may still be between its two writes; an hour is far more than that takes.
GRACE_S = 3600.0
Committed = dict[str, tuple[PartRecord, pa.Table]]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found. `harmful` means that a stored picture is lost or in doubt, or that tables are wrong.

    kind  "damaged metrics", "missing data", "damaged data", "duplicate rows", "missing weights",
          "damaged weights", "litter" or "foreign".
    """

    kind: str
    uri: str
    detail: str
    harmful: bool = True


def audit(archive: Archive, sample: int | None = None, seed: int = 0) -> list[Finding]:
    """Checks all metrics parts, all names and all weights, and the payloads of `sample` parts (all when None)."""
    files = storage.list_files(archive.uri, hidden=True, missing_ok=True)
    committed, findings = _metrics_parts(archive, files)
    findings += _duplicates(committed)
    chosen = sorted(committed)
    if sample is not None and sample < len(chosen):
        chosen = sorted(random.Random(seed).sample(chosen, sample))
    there = {part_of(item.uri) for item in files if _room(archive, item.uri) == "data"}
    for part, (_, table) in sorted(committed.items()):
        findings += _check_data(archive, part, table, part in there, payloads=part in set(chosen))
    unreadable = {part_of(finding.uri) for finding in findings if finding.kind == "damaged metrics"}
    findings += [_litter(item.uri) for item in litter(archive, files, set(committed) | unreadable)]
    return [*findings, *_check_weights(archive, committed), *_foreign(archive, files)]


def litter(archive: Archive, files: list[SourceItem] | None = None, known: set[str] | None = None) -> list[SourceItem]:
    """Data parts without a metrics part, and temporary files."""
    files = storage.list_files(archive.uri, hidden=True, missing_ok=True) if files is None else files
    if known is None:
        known = {part_of(item.uri) for item in files if _room(archive, item.uri) == "metrics"}
    orphans = [item for item in files if _room(archive, item.uri) == "data" and part_of(item.uri) not in {"", *known}]
    return orphans + [item for item in files if _is_temporary(item.uri)]


def sweep(archive: Archive, run_id: str, grace_s: float = GRACE_S) -> list[str]:
    """Removes litter older than `grace_s` while holding the run lock; returns the URIs. ArchiveError during a run."""
    removed = []
    with archive.run_lock(run_id, {"job": "verify --sweep", "grace_s": grace_s}) as run:
        for item in litter(archive):
            # Once more, one by one: the listing may be older than a commit.
            if _old(item.uri, grace_s) and not storage.exists(metrics_uri(archive.uri, part_of(item.uri) or "-")):
                storage.remove(item.uri)
                removed.append(item.uri)
        run.counters["removed"] = len(removed)
    return removed


def _old(uri: str, grace_s: float) -> bool:
    try:
        return time.time() - storage.modified_s(uri) >= grace_s
    except StorageError:
        return False  # gone already


def _metrics_parts(archive: Archive, files: list[SourceItem]) -> tuple[Committed, list[Finding]]:
    committed: Committed = {}
    findings = []
    for uri in (item.uri for item in files if _room(archive, item.uri) == "metrics" and part_of(item.uri)):
        try:
            record, table = reader.read_part(uri, METRICS_SCHEMA.names)
            if record.part != part_of(uri) or record.meta.part_id != record.part:
                raise ArchiveError(f"its metadata names part {record.part}")
            committed[record.part] = record, table
        except PipelineError as error:
            findings.append(Finding("damaged metrics", uri, str(error)))
    return committed, findings


def _duplicates(committed: Committed) -> Iterator[Finding]:
    """A second row for one version of an image: the fruit of a retry on purpose, or what must never happen."""
    seen: dict[tuple[str, str], tuple[str, int]] = {}
    for part, (record, table) in sorted(committed.items()):
        names = ("image_id", "source_version", "source_uri")
        for image_id, version, uri in zip(*(table[name].to_pylist() for name in names), strict=True):
            other, attempt = seen.setdefault((image_id, version), (part, record.meta.attempt))
            if other != part:
                detail = f"version {version} has a row in part {other} and one in part {part}"
                yield Finding("duplicate rows", uri, detail, harmful=attempt == record.meta.attempt)


def _check_data(archive: Archive, part: str, table: pa.Table, there: bool, payloads: bool) -> Iterator[Finding]:
    rows = table.filter(pc.not_equal(table["status"], REJECTED))
    uri = data_uri(archive.uri, part)
    if len(rows) and not there:
        yield Finding("missing data", uri, f"{len(rows)} committed images have lost their payloads")
    elif len(rows) and payloads:
        try:
            yield from _check_rows(uri, rows)
        except (pa.ArrowException, OSError, KeyError, PipelineError) as error:
            yield Finding("damaged data", uri, f"{len(rows)} committed images cannot be read: {error}")


def _check_rows(uri: str, rows: pa.Table) -> Iterator[Finding]:
    found: list[str] = []
    with storage.open_read(uri) as stream:
        file = pq.ParquetFile(stream, pre_buffer=False)
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=["image_id", "payload", "payload_sha256"], use_threads=False)
            for image_id, payload, sha256 in zip(*(column.to_pylist() for column in table.columns), strict=True):
                found.append(image_id)
                if hashlib.sha256(payload).hexdigest() != sha256:
                    yield Finding("damaged data", uri, f"the payload of {image_id} does not have its SHA-256")
    if found != rows["image_id"].to_pylist():
        yield Finding("damaged data", uri, f"holds {len(found)} rows, its metrics part has {len(rows)} others")


def _check_weights(archive: Archive, committed: Committed) -> Iterator[Finding]:
    files = archive.weight_files()
    used = {model for _, table in committed.values() for model in table["model_id"].to_pylist() if model}
    for model in sorted(used):
        if not any(sha256.startswith(model) for sha256 in files):
            where = storage.join(archive.uri, "weights")
            yield Finding("missing weights", where, f"no file for model {model}; its pictures cannot be decoded")
    for sha256, uri in sorted(files.items()):
        if hashlib.sha256(storage.read_bytes(uri)).hexdigest() != sha256:
            yield Finding("damaged weights", uri, "its content does not have the SHA-256 of its name")


def _foreign(archive: Archive, files: list[SourceItem]) -> Iterator[Finding]:
    for item in files:
        room, name = _room(archive, item.uri), item.uri.rsplit("/", 1)[-1]
        fits = {
            "": name == "archive.json",
            "metrics": bool(part_of(name)),
            "data": bool(part_of(name)),
            "weights": name.endswith(".safetensors"),
            "runs": name.endswith(".json"),
            "runs/lock": name.endswith(".json"),
        }
        if not fits.get(room, False) and not _is_temporary(item.uri):
            yield Finding("foreign", item.uri, "not written by this program; left alone", harmful=False)


def _litter(uri: str) -> Finding:
    return Finding("litter", uri, "left by a crash, never read; remove it with --sweep", harmful=False)


def _room(archive: Archive, uri: str) -> str:
    return uri[len(archive.uri) + 1 :].rpartition("/")[0]


def _is_temporary(uri: str) -> bool:
    return uri.rsplit("/", 1)[-1].startswith((".tmp-", ".probe-"))
