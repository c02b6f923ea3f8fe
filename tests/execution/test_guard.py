from __future__ import annotations

import functools
import os
import pickle
import signal
import tempfile
from pathlib import Path

import pytest

from pipeline.execution.guard import Probe, attempt, forget
from pipeline.stages.work import Work
from tests.stages.pictures import source_of


def fatal(how: str, work: Work) -> None:
    if work.source.data == b"bad":
        print("last words")
        os.kill(os.getpid(), signal.SIGSEGV) if how == "signal" else os._exit(7)


def test_the_probe_survives_what_its_child_does_not():
    for how, cause in (("signal", "signal 11 (SIGSEGV)"), ("exit", "exit code 7")):
        probe = Probe(pickle.dumps(functools.partial(fatal, how)))
        good, bad = Work(source_of(b"good")), Work(source_of(b"bad"))
        assert [probe.cause_of_death(work) for work in (good, bad, good)] == [None, cause, None]
        probe.close()


def die(run_id: str, key: str) -> None:
    """An attempt that never comes back: its marker stays."""
    with attempt(run_id, key):
        folder = Path(tempfile.gettempdir()) / f"shardpress-{run_id}"
        (folder / key).rename(folder / "kept")
    (folder / "kept").rename(folder / key)


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def test_an_attempt_is_remembered_only_by_those_that_never_came_back(tmp_path):
    with attempt("run", "part") as died_before:
        assert not died_before
    die("run", "part")
    for key, expected in (("part", True), ("other", False)):
        with attempt("run", key) as died_before:
            assert died_before == expected
    forget("run")
    assert not any(tmp_path.iterdir())


def test_after_enough_deaths_patience_is_over():
    for key in ("a", "b"):
        die("run", key)
        with attempt("run", key, patience=2) as died_before:
            assert died_before
    with attempt("run", "c", patience=2) as died_before:
        assert died_before
    with attempt("run", "c", patience=3) as died_before:
        assert not died_before
