"""Two runs on one archive: the second stops, a dead one does not block, nobody steals from the living."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipeline import storage
from pipeline.archive import Archive, audit, create_or_open, lock, plan, sweep
from pipeline.errors import ArchiveError, StorageError
from tests.archive.made import SPEC, commit_files, items
from tests.conftest import ACCESS_KEY, SECRET_KEY, S3Server

HOLD = """
import sys, time
from pipeline.archive import Archive
with Archive(sys.argv[1]).run_lock("other", {}):
    print("held", flush=True)
    time.sleep(60)
"""


SERVERS = {"conditional": "moto_server", "weak": "s3_server"}


@pytest.fixture(params=["local", *(pytest.param(kind, marks=pytest.mark.s3) for kind in SERVERS)])
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Archive:
    """A folder, a bucket that honours `If-None-Match` (moto) and one that ignores it (rclone)."""
    if request.param == "local":
        return create_or_open(str(tmp_path / "archive"))
    server: S3Server = request.getfixturevalue(SERVERS[request.param])
    return create_or_open(f"{server.bucket('locks')}/{tmp_path.name}")


@pytest.fixture
def local(tmp_path: Path) -> Archive:
    return create_or_open(str(tmp_path / "archive"))


def record_of(archive: Archive, run_id: str) -> dict[str, Any]:
    return json.loads(storage.read_bytes(f"{archive.uri}/runs/{run_id}.json"))


def age(archive: Archive, run_id: str, seconds: float, **changes: Any) -> None:
    """Makes the record of a run look as if its last heartbeat was `seconds` ago."""
    seen = (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat()
    record = record_of(archive, run_id) | {"heartbeat_at": seen} | changes
    storage.write_atomic(f"{archive.uri}/runs/{run_id}.json", json.dumps(record).encode())


def test_a_second_run_stops_and_is_told_who_holds_the_archive(archive: Archive) -> None:
    with (
        archive.run_lock("first", {}),
        pytest.raises(ArchiveError, match=r"run first holds this archive \(host .*started .*last heartbeat"),
        archive.run_lock("second", {}),
    ):
        pass
    assert not storage.exists(f"{archive.uri}/runs/second.json")
    with archive.run_lock("third", {}):
        assert (lock.holder(archive.uri) or {})["run_id"] == "third"
    assert lock.holder(archive.uri) is None


def contend(archive: Archive, run_id: str, together: threading.Barrier) -> bool:
    together.wait()
    try:
        with archive.run_lock(run_id, {}):
            time.sleep(1.5)
    except ArchiveError:
        return False
    return True


def test_of_many_that_start_at_once_one_gets_the_lock(moto_server: S3Server, tmp_path: Path) -> None:
    for archive in (create_or_open(f"{moto_server.bucket('races')}/{tmp_path.name}"), create_or_open(str(tmp_path))):
        together = threading.Barrier(6)
        with ThreadPoolExecutor(6) as pool:
            held = list(pool.map(lambda i, a=archive, t=together: contend(a, f"run{i}", t), range(6)))
        assert sorted(held) == [False] * 5 + [True]


def test_a_killed_run_on_this_machine_is_taken_over_at_once(local: Archive) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, local.uri], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ArchiveError, match="run other holds"):
            local.run_lock("mine", {}).__enter__()
        os.kill(other.pid, signal.SIGKILL)
        other.wait()
    with local.run_lock("mine", {}):
        assert record_of(local, "other")["status"] == "died"
    assert record_of(local, "mine")["status"] == "finished"


def test_a_run_on_another_machine_is_taken_over_when_its_heartbeat_is_old(local: Archive) -> None:
    local.run_lock("far", {}).__enter__()
    age(local, "far", 60, host="elsewhere", boot_id="other", pid=1)
    with pytest.raises(ArchiveError, match=r"run far holds this archive \(host elsewhere"):
        local.run_lock("mine", {}).__enter__()
    age(local, "far", 130)
    with local.run_lock("mine", {}):
        assert (lock.holder(local.uri) or {})["run_id"] == "mine"


def test_a_run_that_was_taken_over_notices_and_may_not_commit(local: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "HEARTBEAT_S", 0.05)
    [unit] = plan(local, items(1), SPEC)
    with local.run_lock("slow", {}) as slow:
        slow.check()
        monkeypatch.setattr(lock, "_alive", lambda record: False)
        with local.run_lock("mine", {}):
            deadline = time.monotonic() + 5
            while not slow._lost and time.monotonic() < deadline:
                time.sleep(0.02)
            with pytest.raises(ArchiveError, match="run slow lost its lock"):
                slow.check()
            with pytest.raises(ArchiveError, match="run mine is in charge, run slow may not commit"):
                commit_files(local, unit, run_id="slow")
            commit_files(local, unit, run_id="mine")


def test_the_record_of_a_run_tells_how_it_went(local: Archive) -> None:
    with local.run_lock("good", {"codec": {"name": "cnn"}}) as run:
        run.counters["images"] = 3
    record = record_of(local, "good")
    assert (record["status"], record["counters"], record["error"]) == ("finished", {"images": 3}, None)
    assert record["versions"]["pyarrow"]
    assert record["started_at"] <= record["ended_at"]
    with pytest.raises(ZeroDivisionError), local.run_lock("bad", {}):
        1 / 0  # noqa: B018
    assert record_of(local, "bad")["error"] == "ZeroDivisionError: division by zero"
    assert record_of(local, "bad")["status"] == "failed"


def test_heartbeats_are_written_while_the_run_works(local: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "HEARTBEAT_S", 0.05)
    with local.run_lock("run", {}) as run:
        first = record_of(local, "run")["heartbeat_at"]
        run.counters["images"] = 7
        deadline = time.monotonic() + 5
        while record_of(local, "run")["counters"] != {"images": 7} and time.monotonic() < deadline:
            time.sleep(0.02)
        assert record_of(local, "run")["heartbeat_at"] > first


def test_secrets_never_reach_a_run_record(s3_server: S3Server, tmp_path: Path) -> None:
    archive = create_or_open(f"{s3_server.bucket('photos')}/{tmp_path.name}")
    config = {"source": {"uri": f"http://{ACCESS_KEY}:{SECRET_KEY}@host/x"}, "aws_secret_access_key": SECRET_KEY}
    with pytest.raises(RuntimeError), archive.run_lock("run", config):
        raise RuntimeError(f"refused for {ACCESS_KEY}, token={SECRET_KEY}")
    text = storage.read_bytes(f"{archive.uri}/runs/run.json").decode()
    assert SECRET_KEY not in text
    assert ACCESS_KEY not in text
    assert "refused for ***" in text


def test_a_run_id_is_used_once_and_fits_into_a_name(local: Archive) -> None:
    with local.run_lock("run", {}):
        pass
    with pytest.raises(ArchiveError, match="recorded already"):
        local.run_lock("run", {}).__enter__()
    with pytest.raises(ArchiveError, match="expected up to 100 letters"):
        local.run_lock("../run", {})


def test_sweep_removes_old_litter_only_and_never_during_a_run(local: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    units = plan(local, items(2, size_bytes=10 << 20), SPEC)
    parts = [commit_files(local, unit).part for unit in units]
    storage.remove(f"{local.uri}/metrics/part-{parts[0]}.parquet")
    storage.write_atomic(f"{local.uri}/data/.tmp-dead", b"half a part")
    assert {finding.kind for finding in audit(local)} == {"litter"}
    assert sweep(local, "sweep-1") == []
    with local.run_lock("busy", {}), pytest.raises(ArchiveError, match="run busy holds"):
        sweep(local, "sweep-2", grace_s=0)
    removed = sweep(local, "sweep-3", grace_s=0)
    assert [uri.rsplit("/", 1)[-1] for uri in removed] == [f"part-{parts[0]}.parquet", ".tmp-dead"]
    assert audit(local) == []


def test_a_run_of_this_process_that_could_not_say_that_it_ended_holds_nothing(
    local: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise StorageError("the store is away")

    held = local.run_lock("night-1", {})
    held.__enter__()
    monkeypatch.setattr(lock.RunLock, "_write", away)
    held.__exit__(RuntimeError, RuntimeError("the first error"), None)
    monkeypatch.undo()
    assert lock.holder(local.uri) is None
    with local.run_lock("night-2", {}):
        pass


def test_what_was_refused_once_holds_the_archive_when_it_gets_it(local: Archive) -> None:
    again = local.run_lock("again", {})
    with local.run_lock("first", {}), pytest.raises(ArchiveError, match="run first holds"):
        again.__enter__()
    with again, pytest.raises(ArchiveError, match="run again holds"):
        local.run_lock("third", {}).__enter__()


@pytest.mark.parametrize(
    ("owner", "step"), [(lock, "_tidy"), (lock.RunLock, "_write"), (lock.threading.Thread, "start")]
)
def test_a_run_whose_store_went_away_between_its_claim_and_its_record_holds_nothing(
    local: Archive, monkeypatch: pytest.MonkeyPatch, owner: object, step: str
) -> None:
    def away(*_: object) -> None:
        raise StorageError("the store is away")

    monkeypatch.setattr(owner, step, away)
    with pytest.raises(StorageError, match="the store is away"):
        local.run_lock("night-1", {}).__enter__()
    monkeypatch.undo()
    assert len(list(Path(local.uri).glob("runs/lock/*.json"))) == 1
    assert lock.holder(local.uri) is None
    with local.run_lock("night-2", {}):
        assert (lock.holder(local.uri) or {})["run_id"] == "night-2"
