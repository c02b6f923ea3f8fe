"""Limits of one image, tried where they act: in processes of their own."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.execution.limits import Limits
from pipeline.execution.ticket import CarefulSteps, Ticket
from pipeline.imaging.decode import decode
from pipeline.records import Picture, SourceImage
from pipeline.sources import open_source
from pipeline.stages.decode import Decode
from pipeline.stages.encode import Floor
from pipeline.stages.trace import Trace
from pipeline.stages.work import Work
from tests.end_to_end.conftest import small_photo

ROOT = Path(__file__).resolve().parents[2]
HEAD = "import time\nfrom pipeline.execution.limits import Limits, bounded\n"


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", HEAD + code], cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_a_block_that_takes_too_long_ends_its_process():
    done = python("with bounded(Limits(seconds=0.2)):\n    time.sleep(60)")
    assert done.returncode == -signal.SIGALRM


def test_even_when_nothing_but_c_runs_and_never_lets_go():
    done = python("with bounded(Limits(seconds=0.2)):\n    sum(range(10**12))")
    assert done.returncode == -signal.SIGALRM


def test_a_block_in_time_goes_on_and_so_does_what_follows():
    code = """
for _ in range(3):
    with bounded(Limits(seconds=0.5)), bounded(Limits(seconds=0.1)):
        time.sleep(0.2)
time.sleep(0.7)
print("here")
"""
    assert python(code).stdout == "here\n"


def test_more_memory_than_allowed_is_refused_and_freely_given_afterwards():
    code = """
try:
    with bounded(Limits(memory_mb=64)):
        bytearray(200 << 20)
except MemoryError:
    print("refused")
with bounded(Limits(memory_mb=400)):
    print(len(bytearray(200 << 20)))
print(len(bytearray(500 << 20)))
"""
    assert python(code).stdout.split() == ["refused", str(200 << 20), str(500 << 20)]


def sleepy(data: bytes) -> Picture:
    if data.startswith(b"SLEEPY"):
        time.sleep(3600)
    return decode(data)


@pytest.fixture
def ticket(tmp_path: Path) -> Ticket:
    (tmp_path / "x.jpg").write_bytes(b"x")
    return Ticket(
        archive_uri=str(tmp_path / "archive"),
        run_id="run",
        source=open_source(str(tmp_path)),
        spec="{}",
        chain=('{"name": "original"}',),
        split=False,
        decode=Decode(hook=sleepy),
        floor=Floor(),
        limits=Limits(seconds=10),
    )


def test_with_care_the_slow_image_gets_its_row_and_its_neighbour_is_coded(ticket: Ticket):
    steps = CarefulSteps(ticket)
    try:
        slow, good = (
            steps.outcome(Work(SourceImage("id", "/x.jpg", "v", data)), Trace())
            for data in (b"SLEEPY", small_photo(0, 64))
        )
    finally:
        steps.close()
    assert (slow.status, slow.reason) == ("rejected", "decoding this image took longer than limits.seconds=10")
    assert good.status == "kept_original"
