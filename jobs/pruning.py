"""The loop behind `jobs.prune`: examine a batch of originals, write down which may go, delete them, go on.

Nothing is remembered between runs but the log, `pruned/<run>-<batch>.jsonl` in the archive: a line for each original
is there before it goes, and says `deleted_at` once it has. A run that died is simply started again: what it had deleted
is gone, what it had only written down is examined afresh.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from jobs.examining import GONE, KEPT, SAFE, Examine, Verdict, floors_of
from pipeline import storage
from pipeline.archive import Archive, audit, open_archive
from pipeline.archive.audit import read_committed
from pipeline.archive.schema import METRICS_SCHEMA
from pipeline.errors import ArchiveError, StorageError, StoreUnavailable
from pipeline.execution.recompression import new_run_id
from pipeline.execution.spread import spread
from pipeline.stages.originals import Original, originals, version_of
from pipeline.stages.select import where as where_expression

# One log file and one look at the lock for so many originals; also what a crash leaves written down and not done.
BATCH = 256


@dataclass
class Pruning:
    """What became of the originals. `safe` ones were found deletable; with --yes they are `deleted`, too."""

    safe: list[str] = field(default_factory=list)
    safe_bytes: int = 0
    gone: int = 0
    kept: dict[str, str] = field(default_factory=dict)
    deleted: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    keeps_versions: bool = False
    log: list[str] = field(default_factory=list)

    def add(self, verdict: Verdict) -> None:
        if verdict.verdict == SAFE:
            self.safe.append(verdict.uri)
            self.safe_bytes += verdict.size_bytes
        elif verdict.verdict == KEPT:
            self.kept[verdict.uri] = verdict.reason or ""
        self.gone += verdict.verdict == GONE

    def summary(self) -> dict[str, Any]:
        return asdict(self)


def prune_all(archive_uri: str, where: str | None, delete: bool) -> Pruning:
    """Examines every original that has rows (or that --where selects a row of), and with `delete` removes the safe.

    Raises:
        ArchiveError: the archive is damaged in any way, or a run holds it.
    """
    archive, done = open_archive(archive_uri), Pruning()
    if not delete:
        for verdicts in _examined(archive, where):
            for verdict in verdicts:
                done.add(verdict)
        return done
    run_id = new_run_id()
    with archive.run_lock(run_id, {"job": "prune", "where": where}) as lock:
        batch: list[Verdict] = []
        for verdicts in _examined(archive, where):
            batch += verdicts
            if len(batch) >= BATCH:
                lock.check()
                _delete(archive, run_id, batch, done)
                batch = []
        lock.check()
        _delete(archive, run_id, batch, done)
        lock.counters |= {"deleted": done.deleted, "kept": len(done.kept)}
    return done


def _examined(archive: Archive, where: str | None) -> Iterator[list[Verdict]]:
    _require_whole(archive)
    committed, _ = read_committed(archive)
    chosen = where_expression(where, METRICS_SCHEMA) if where else None
    specs = {part: record.meta.spec_id for part, (record, _) in committed.items()}
    groups = _grouped(originals(committed, chosen))
    yield from spread(Examine(archive, floors_of(archive), specs), groups)


def _require_whole(archive: Archive) -> None:
    harmful = [finding for finding in audit(archive, sample=0) if finding.harmful]
    if harmful:
        raise ArchiveError(
            f"{archive.uri}: its audit found {len(harmful)} problems, first {harmful[0].kind} "
            f"({harmful[0].uri}: {harmful[0].detail}); nothing goes while the archive is in doubt, run `jobs.verify`"
        )


def _grouped(found: Sequence[Original]) -> list[list[Original]]:
    """Files of one part together, so that its weights and versions are looked up once; shards alone."""
    groups: dict[str, list[Original]] = {}
    for original in found:
        groups.setdefault(original.uri if original.is_shard else original.rows[0]["part"], []).append(original)
    return list(groups.values())


def _delete(archive: Archive, run_id: str, batch: Sequence[Verdict], done: Pruning) -> None:
    """Writes down what goes, looks at everything once more, deletes, and writes down what has gone."""
    for verdict in batch:
        done.add(verdict)
    going = [verdict for verdict in batch if verdict.verdict == SAFE]
    if not going:
        return
    uri = storage.join(archive.uri, "pruned", f"{run_id}-{len(done.log):06d}.jsonl")
    lines = [_line(verdict) for verdict in going]
    storage.write_atomic(uri, _jsonl(lines))
    done.log.append(uri)
    done.keeps_versions = done.keeps_versions or storage.keeps_versions(going[0].uri)
    try:
        _require_unchanged(going)
        for verdict, line in zip(going, lines, strict=True):
            _delete_one(verdict, line, done)
    finally:
        storage.write_atomic(uri, _jsonl(lines))


def _require_unchanged(going: Sequence[Verdict]) -> None:
    """Raises ArchiveError when a part or weights file is not what it was when the verdicts were found."""
    for uri, version in {pair for verdict in going for pair in verdict.evidence.items()}:
        if version_of(uri) != version:
            raise ArchiveError(f"{uri}: changed while originals were examined; none of them was deleted, start again")


def _delete_one(verdict: Verdict, line: dict[str, Any], done: Pruning) -> None:
    try:
        now = version_of(verdict.uri)
        if now != verdict.version:
            done.kept[verdict.uri] = f"changed since it was examined: version {verdict.version} then, {now} now"
            return
        storage.remove(verdict.uri)
    except StoreUnavailable:
        raise
    except StorageError as error:
        done.failed[verdict.uri] = str(error)
        return
    done.deleted += 1
    line["deleted_at"] = _now()


def _line(verdict: Verdict) -> dict[str, Any]:
    return {"uri": verdict.uri, "version": verdict.version, "size_bytes": verdict.size_bytes} | {
        "payload_sha256": verdict.payload_sha256,
        "evidence": verdict.evidence,
        "examined_at": _now(),
        "deleted_at": None,
    }


def _jsonl(lines: Sequence[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def _now() -> str:
    return datetime.now(UTC).isoformat()
