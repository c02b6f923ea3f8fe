"""What is damaged, missing, foreign or litter in an archive: a check of its structure, without any decoder.

Decoding is checked by the `verify` job, part by part. Litter is a data part without its metrics part, or a temporary
file: what a crash leaves behind. Nobody reads it, and `sweep` removes it. Damage to a row that a newer one has
replaced is told and harms nobody.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.archive import reader
from pipeline.archive.archive import Archive
from pipeline.archive.parts import PartRecord, data_uri, metrics_uri, part_of
from pipeline.archive.schema import METRICS_SCHEMA
from pipeline.errors import ArchiveError, PipelineError, StorageError, StoreUnavailable
from pipeline.records import REJECTED, SourceItem
from pipeline.storage.parquet import DAMAGE, open_parquet

# A worker that lost its driver may still be between its two writes; an hour is far more than that takes.
GRACE_S = 3600.0
Committed = dict[str, tuple[PartRecord, pa.Table]]
_ENCODE_AGAIN = "restore it from a backup, or encode its images again: recompress the source with --retry {part}"
REMEDIES = {
    "damaged metrics": "restore it from a backup; or move it out of metrics/ and recompress the source: its images "
    "count as new then, and are read again",
    "missing data": _ENCODE_AGAIN,
    "damaged data": _ENCODE_AGAIN,
    "damaged payload": _ENCODE_AGAIN,
    "duplicate rows": "nothing is lost, readers take the newest; plain SQL must do so, too (LAYOUT.md), and please "
    "report how it came about",
    "missing weights": "restore the file from a backup; or recompress anything into this archive with "
    "codec.model=<id> where that model is installed, which writes it again",
    "damaged weights": "remove it, then do as for missing weights",
    "not archived": "recompress the source again",
    "litter": "run `verify --sweep`",
    "foreign": "leave it, or move it away",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found. `harmful` means that a stored picture is lost or in doubt, or that tables are wrong.

    kind  a key of `REMEDIES`.
    image_ids  of the pictures that cannot be decoded because of it; newest rows only.
    """

    kind: str
    uri: str
    detail: str
    harmful: bool = True
    image_ids: tuple[str, ...] = ()

    @property
    def remedy(self) -> str:
        """What to do about it."""
        return REMEDIES[self.kind].format(part=f"part-{part_of(self.uri)}")


def audit(archive: Archive, sample: int | None = None, seed: int = 0) -> list[Finding]:
    """Checks all metrics parts, all names and all weights, and the payloads of `sample` parts (all when None)."""
    files = storage.list_files(archive.uri, hidden=True, missing_ok=True)
    committed, findings = read_committed(archive, files)
    findings += _duplicates(committed)
    chosen = sorted(committed)
    if sample is not None and sample < len(chosen):
        chosen = sorted(random.Random(seed).sample(chosen, sample))
    there = {part_of(item.uri) for item in files if _room(archive, item.uri) == "data"}
    newest = newest_ids(committed)
    for part in sorted(committed):
        findings += _check_data(archive, part, committed, newest, part in there, payloads=part in set(chosen))
    unreadable = {part_of(finding.uri) for finding in findings if finding.kind == "damaged metrics"}
    findings += [_litter(item.uri) for item in litter(archive, files, set(committed) | unreadable)]
    return [*findings, *_check_weights(archive, committed, newest), *_foreign(archive, files)]


def newest_ids(committed: Committed) -> dict[str, set[str]]:
    """Part -> images whose row that counts lies there."""
    if not committed:
        return {}
    table = reader.newest_rows(pa.concat_tables([table for _, table in committed.values()]))
    found: dict[str, set[str]] = defaultdict(set)
    for part, image_id in zip(table["part"].to_pylist(), table["image_id"].to_pylist(), strict=True):
        found[part].add(image_id)
    return found


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


def read_committed(archive: Archive, files: list[SourceItem] | None = None) -> tuple[Committed, list[Finding]]:
    """Every metrics part by its id, and what is wrong with those that cannot be read."""
    files = storage.list_files(archive.uri, hidden=True, missing_ok=True) if files is None else files
    committed: Committed = {}
    findings = []
    for uri in (item.uri for item in files if _room(archive, item.uri) == "metrics" and part_of(item.uri)):
        try:
            record, table = reader.read_part(uri, METRICS_SCHEMA.names)
            if record.part != part_of(uri) or record.meta.part_id != record.part:
                raise ArchiveError(f"its metadata names part {record.part}")
            committed[record.part] = record, table
        except StoreUnavailable:
            raise
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


def _check_data(
    archive: Archive, part: str, committed: Committed, newest: Mapping[str, set[str]], there: bool, payloads: bool
) -> Iterator[Finding]:
    table = committed[part][1]
    rows = table.filter(pc.not_equal(table["status"], REJECTED))
    uri = data_uri(archive.uri, part)
    lost = tuple(each for each in rows["image_id"].to_pylist() if each in newest.get(part, ()))
    replaced = "" if lost or not len(rows) else "; all have newer rows, so nothing is lost"
    if len(rows) and not there:
        detail = f"{len(rows)} committed images have lost their payloads{replaced}"
        yield Finding("missing data", uri, detail, bool(lost), lost)
    elif len(rows) and payloads:
        try:
            yield from check_rows(uri, rows["image_id"].to_pylist(), set(lost))
        except StoreUnavailable:
            raise  # an outage is no damage
        except (*DAMAGE, PipelineError) as error:
            detail = f"{len(rows)} committed images cannot be read: {error}{replaced}"
            yield Finding("damaged data", uri, detail, bool(lost), lost)


def check_rows(uri: str, expected: list[str], newest: Collection[str]) -> Iterator[Finding]:
    """Compares a data part with the image ids of its metrics part, and every payload with its SHA-256.

    Raises:
        PipelineError or one of DAMAGE: it cannot be read.
    """
    found: list[str] = []
    with storage.open_read(uri) as stream:
        file = open_parquet(stream, pre_buffer=False)
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=["image_id", "payload", "payload_sha256"], use_threads=False)
            for image_id, payload, sha256 in zip(*(column.to_pylist() for column in table.columns), strict=True):
                found.append(image_id)
                if hashlib.sha256(payload).hexdigest() != sha256:
                    lost = tuple(each for each in [image_id] if each in newest)
                    detail = f"the payload of {image_id} does not have its SHA-256"
                    yield Finding("damaged data", uri, detail, bool(lost), lost)
    if found != expected:
        lost = tuple(each for each in expected if each in newest and each not in found)
        yield Finding(
            "damaged data", uri, f"holds {len(found)} rows, its metrics part has {len(expected)} others", True, lost
        )


def _check_weights(archive: Archive, committed: Committed, newest: Mapping[str, set[str]]) -> Iterator[Finding]:
    files = archive.weight_files()
    users: dict[str, list[str]] = defaultdict(list)
    for part, (_, table) in sorted(committed.items()):
        for image_id, model in zip(table["image_id"].to_pylist(), table["model_id"].to_pylist(), strict=True):
            if model:
                users[model] += [image_id] if image_id in newest.get(part, ()) else []
    for model, image_ids in sorted(users.items()):
        if not any(sha256.startswith(model) for sha256 in files):
            where = storage.join(archive.uri, "weights")
            detail = f"no file for model {model}; {len(image_ids)} pictures cannot be decoded without it"
            yield Finding("missing weights", where, detail, bool(image_ids), tuple(image_ids))
    for sha256, uri in sorted(files.items()):
        if hashlib.sha256(storage.read_bytes(uri)).hexdigest() != sha256:
            lost = tuple(each for model, ids in users.items() if sha256.startswith(model) for each in ids)
            yield Finding("damaged weights", uri, "its content does not have the SHA-256 of its name", True, lost)


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
            "pruned": name.endswith(".jsonl"),
        }
        if not fits.get(room, False) and not _is_temporary(item.uri):
            yield Finding("foreign", item.uri, "not written by this program; left alone", harmful=False)


def _litter(uri: str) -> Finding:
    return Finding("litter", uri, "left by a crash, never read; remove it with --sweep", harmful=False)


def _room(archive: Archive, uri: str) -> str:
    return uri[len(archive.uri) + 1 :].rpartition("/")[0]


def _is_temporary(uri: str) -> bool:
    return uri.rsplit("/", 1)[-1].startswith((".tmp-", ".probe-"))
