"""One run at a time: the run record is the heartbeat, and numbered lock files say whose turn it is.

    runs/<run_id>.json          what the run is and does; rewritten by its owner alone, every few seconds
    runs/lock/<number>.json     created once and never changed; the highest number names the run in charge

Whoever finds the run in charge ended or dead creates the next number, which the store lets only one do
(`storage.put_if_absent`). Nothing is taken away from a living owner, so there is nothing to race for; the highest
number is never deleted, so a slow contender cannot revive an old one.
"""

from __future__ import annotations

import json
import re
import threading
import time
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from types import TracebackType
from typing import Any

from pipeline import storage
from pipeline.archive import machine
from pipeline.errors import ArchiveError, StorageError

HEARTBEAT_S = 10.0
# Twelve missed heartbeats. Hosts must agree on the time to well within this (NTP does).
STALE_S = 120.0
RUNNING, FINISHED, FAILED, DIED = "running", "finished", "failed", "died"
_PACKAGES = ("shardpress", "ray", "torch", "pyarrow", "s3fs", "pillow", "numpy", "imagecodecs", "constriction")
Record = dict[str, Any]
_TRIES, _PAUSE_S = 20, 0.2
_ended = set[str]()  # tokens of runs of this process that are over, whatever a store that was away says of them
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class RunLock:
    """Holds an archive for one run; a context manager. `counters` go into the record with every heartbeat."""

    def __init__(self, archive: str, run_id: str, config: Mapping[str, Any]) -> None:
        if not _RUN_ID.fullmatch(run_id):
            raise ArchiveError(f"run id {run_id!r}: expected up to 100 letters, digits, dots, dashes or underscores")
        self.archive, self.run_id, self.counters = archive, run_id, dict[str, Any]()
        self._claim: Record = {"run_id": run_id, "token": uuid.uuid4().hex, "started_at": _now()} | machine.identity()
        self._record: Record = {"status": RUNNING, "error": None, "ended_at": None}
        self._record |= {"config": storage.redact_tree(config), "versions": _versions()}
        self._number, self._lost, self._stop = 0, False, threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"heartbeat-{run_id}", daemon=True)

    def __enter__(self) -> RunLock:
        _ended.discard(self._claim["token"])
        try:
            self._number = _acquire(self.archive, self._claim)
            self._write()
            self._thread.start()
        except BaseException:
            _ended.add(self._claim["token"])  # the store may hold a claim whose run never began
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._record["status"] = FINISHED if error is None else FAILED
        self._record["error"] = None if error is None else storage.redact(f"{type(error).__name__}: {error}")
        self._record["ended_at"] = _now()
        _ended.add(self._claim["token"])
        try:
            self._write()
        except StorageError:
            if error is None:
                raise  # else the first error is the one to hear about; the next run takes over

    def check(self) -> None:
        """Raises ArchiveError when another run has taken over, as it may after `STALE_S` without a heartbeat."""
        if self._lost:
            raise ArchiveError(
                f"{self.archive}: run {self.run_id} lost its lock after {STALE_S:.0f} s without a heartbeat and "
                "another run took over; what was committed stays, start again when the other run has ended"
            )

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            try:
                newest = _newest(self.archive)
                self._lost = newest is None or newest[0] != self._number
                if self._lost:
                    return
                self._write()
            except StorageError:
                continue  # the store may be back at the next beat; if it is not, the record goes stale by itself

    def _write(self) -> None:
        record = self._claim | self._record
        record |= {"heartbeat_at": _now(), "counters": storage.redact_tree(dict(self.counters))}
        storage.write_atomic(_record_uri(self.archive, self.run_id), json.dumps(record, indent=1, default=str).encode())


def holder(archive: str) -> Record | None:
    """The record of the run in charge if it still lives, else None."""
    newest = _newest(archive)
    record = _record_of(archive, newest[1]) if newest else None
    return record if record is not None and _alive(record) else None


def require_holder(archive: str, run_id: str) -> None:
    """Raises ArchiveError when another run is in charge: workers of a dead run must not write into its successor's."""
    newest = _newest(archive)
    if newest is not None and newest[1]["run_id"] != run_id:
        raise ArchiveError(
            f"{archive}: run {newest[1]['run_id']} is in charge, run {run_id} may not commit; "
            "nothing was written, start the run again when the other one has ended"
        )


def _acquire(archive: str, claim: Record) -> int:
    if storage.exists(_record_uri(archive, claim["run_id"])):
        raise ArchiveError(f"{archive}: a run {claim['run_id']} is recorded already; choose another run id")
    for _ in range(_TRIES):
        newest = _newest(archive)
        number, previous = (newest[0], _record_of(archive, newest[1])) if newest else (0, None)
        if previous is not None and _alive(previous):
            raise ArchiveError(_refusal(archive, previous))
        mine = _lock_uri(archive, number + 1)
        if not storage.put_if_absent(mine, json.dumps(claim).encode()):
            time.sleep(_PAUSE_S)  # somebody was faster: theirs is the newest now
        elif max(_numbers(archive), default=0) > number + 1:
            storage.remove(mine)  # we were slow, and revived a number from the past
        else:
            _tidy(archive, number, previous)
            return number + 1
    raise ArchiveError(f"{archive}: no lock after {_TRIES} tries, other runs come and go too fast; try again later")


def _tidy(archive: str, number: int, previous: Record | None) -> None:
    """Tells of the dead predecessor in its own record, and drops the lock files nobody needs any more."""
    if previous is not None and previous["status"] == RUNNING:
        previous |= {"status": DIED, "ended_at": previous.get("heartbeat_at")}
        data = json.dumps(previous, indent=1).encode()
        storage.write_atomic(_record_uri(archive, previous["run_id"]), data)
    for old in _numbers(archive):
        if old <= number:
            storage.remove(_lock_uri(archive, old))


def _alive(record: Mapping[str, Any]) -> bool:
    if record["status"] != RUNNING or record.get("token") in _ended:
        return False
    here = machine.process_alive(record)
    return _age_s(record) < STALE_S if here is None else here


def _record_of(archive: str, claim: Record) -> Record:
    """The run record, or what the lock file itself says while its owner has not written one yet."""
    data = storage.read_if_exists(_record_uri(archive, claim["run_id"]))
    return _parsed(data, _record_uri(archive, claim["run_id"])) if data is not None else claim | {"status": RUNNING}


def _newest(archive: str) -> tuple[int, Record] | None:
    while numbers := _numbers(archive):
        uri = _lock_uri(archive, numbers[-1])
        if (data := storage.read_if_exists(uri)) is not None:
            return numbers[-1], _parsed(data, uri)
    return None


def _numbers(archive: str) -> list[int]:
    items = storage.list_files(storage.join(archive, "runs", "lock"), {".json"}, missing_ok=True)
    stems = (item.uri.rsplit("/", 1)[-1][:-5] for item in items)
    return sorted(int(stem) for stem in stems if stem.isdigit())


def _parsed(data: bytes, uri: str) -> Record:
    try:
        found = json.loads(data)
        if isinstance(found, dict) and "run_id" in found:
            return found
    except ValueError:
        pass
    raise ArchiveError(f"{uri}: found {data[:40]!r}, expected a run record; make sure no run is active, then remove it")


def _refusal(archive: str, record: Mapping[str, Any]) -> str:
    seen = record.get("heartbeat_at", record["started_at"])
    return (
        f"{archive}: run {record['run_id']} holds this archive (host {record['host']}, process {record['pid']}, "
        f"started {record['started_at']}, last heartbeat {seen}); wait until it ends or stop it; a run that died is "
        f"taken over at once on the same machine and {STALE_S:.0f} s after its last heartbeat from another"
    )


def _age_s(record: Mapping[str, Any]) -> float:
    seen = datetime.fromisoformat(record.get("heartbeat_at", record["started_at"]))
    return (datetime.now(UTC) - seen).total_seconds()


def _record_uri(archive: str, run_id: str) -> str:
    return storage.join(archive, "runs", f"{run_id}.json")


def _lock_uri(archive: str, number: int) -> str:
    return storage.join(archive, "runs", "lock", f"{number:08d}.json")


def _now() -> str:
    return datetime.now(UTC).isoformat()


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
