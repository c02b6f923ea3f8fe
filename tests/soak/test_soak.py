"""What the soak says in the end; tests/end_to_end/test_crash_matrix.py plays some of its rounds."""

from __future__ import annotations

import random
import subprocess
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from tests.soak import __main__ as soak
from tests.soak import rounds
from tests.soak.rounds import STEPS, Fault, Found


def test_every_victim_meets_every_step_that_it_takes():
    met = {(fault.kind, fault.step) for fault in islice(soak.faults(random.Random(1), True), 90)}
    assert {step for kind, step in met if kind == "driver"} == {*STEPS, ""} - {"analyse"}
    assert {step for kind, step in met if kind == "node"} >= set(STEPS) - set(rounds.ON_DRIVER)
    assert {step for kind, step in met if kind == "actor"} >= {"read", "decode", "analyse"}
    assert {step for kind, step in met if kind == "write task"} == {"commit", "data part", "metrics part"}
    assert ("entropy worker", "encode") in met
    assert "store" not in {fault.kind for fault in islice(soak.faults(random.Random(1), False), 90)}


def test_the_end_is_a_table_with_the_sum_and_what_broke():
    kill = Found(Fault("task", "data part"), True, 3, 2, 1.0, Counter(drop=2))
    outage = Found(Fault("store", "", lives=5, outage="expired"), True, 3, 2, 1.0, Counter(expired=4), missing=1)
    table, total, broken = soak.report({"s3": [kill, outage]}).split("\n\n")
    assert [line.split("|")[2].strip() for line in table.splitlines()[2:]] == ["outage", "SIGKILL of write task"]
    requests = "6 spoilt requests (2 drop, 4 expired)"
    assert total == f"1 kills, 1 outages and {requests} in 2 rounds, 0 of them failed; 6 images, 1 losses"
    assert broken.startswith("BROKEN: store expired after 5 requests (webp): hit, 2 runs, 1 s; 1 missing")


@pytest.mark.parametrize("error", [PipelineError("exit code 1"), subprocess.TimeoutExpired("recompress", 600)])
def test_a_run_that_fails_is_a_row_and_not_the_end(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fails(*arguments: object) -> bool:
        raise error

    monkeypatch.setattr(rounds, "_run", fails)
    found = rounds.play(str(tmp_path), Fault("driver", "plan"), 0)
    assert found.broken
    assert str(error) in found.line
