from __future__ import annotations

import json
import time
from dataclasses import replace

import pytest

from pipeline.archive import create_or_open, plan
from pipeline.execution import telemetry
from pipeline.execution.telemetry import Telemetry
from pipeline.stages.commit import Tally
from tests.archive.made import SPEC, commit_files, items


class Recorded:
    """A metric that remembers; Ray's own export over HTTP is tested in tests/infra/test_ray_job.py."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, dict | None]] = []

    def inc(self, value: float, tags: dict | None = None) -> None:
        self.calls.append((value, tags))

    observe = set = inc


@pytest.fixture
def metrics(monkeypatch) -> dict[str, Recorded]:
    names = ("images", "megapixels", "source_bytes", "payload_bytes", "parts", "queue_units", "actors", "stage_seconds")
    made = {name: Recorded() for name in names}
    monkeypatch.setattr(telemetry, "made", lambda: made)
    return made


PART = Tally(
    parts=1,
    units=1,
    images=3,
    source_bytes=300,
    payload_bytes=100,
    pixels=2_000_000,
    reasons={"encoded/as_asked": 2, "rejected/unreadable": 1},
    stage_s={"decode": 0.5},
    part="abc",
    nodes={"decode": "n1"},
)


def test_a_part_is_counted_once_by_status_and_reason(metrics, tmp_path):
    told = Telemetry(create_or_open(str(tmp_path)), "run", units=5, actors=2)
    told.part(PART, PART)
    assert metrics["images"].calls == [
        (2, {"status": "encoded", "reason": "as_asked"}),
        (1, {"status": "rejected", "reason": "unreadable"}),
    ]
    assert metrics["megapixels"].calls == [(2.0, None)]
    assert metrics["stage_seconds"].calls == [(0.5, {"stage": "decode"})]
    assert metrics["queue_units"].calls == [(4, None)]


def test_gauges_are_set_again_while_nothing_is_committed(metrics, tmp_path, monkeypatch):
    monkeypatch.setattr(telemetry, "REFRESH_S", 0.01)
    monkeypatch.setattr(telemetry, "_ray_is_there", lambda: True)
    deadline = time.monotonic() + 60
    with Telemetry(create_or_open(str(tmp_path)), "run", units=5, actors=2).fresh():
        while len(metrics["queue_units"].calls) < 3:  # a stall before the first part
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert set(metrics["queue_units"].calls) == {(5, None)}
    assert metrics["parts"].calls == []


def test_lines_are_json_with_the_run_and_only_on_demand(metrics, tmp_path, capsys):
    archive = create_or_open(str(tmp_path))
    Telemetry(archive, "run-1", 5, 1).part(PART, PART)
    assert capsys.readouterr().err == ""
    Telemetry(archive, "run-1", 5, 1, log="parts").part(PART, PART)
    line = json.loads(capsys.readouterr().err)
    assert (line["event"], line["run_id"], line["part"]) == ("part committed", "run-1", "abc")
    assert (line["stage_s"], line["nodes"]) == ({"decode": 0.5}, {"decode": "n1"})


def test_lines_of_images_carry_their_ids_and_the_run(metrics, tmp_path, capsys):
    archive = create_or_open(str(tmp_path))
    [unit] = plan(archive, items(3), SPEC)
    part = commit_files(archive, unit).part
    Telemetry(archive, "run-1", 1, 1, log="images").part(replace(PART, part=part), PART)
    first, *images = map(json.loads, capsys.readouterr().err.splitlines())
    assert (first["event"], {line["event"] for line in images}) == ("part committed", {"image committed"})
    assert [line["image_id"] for line in images] == archive.part_metrics(part)["image_id"].to_pylist()
    assert {(line["run_id"], line["part"]) for line in images} == {("run-1", part)}
