"""One small run of the pipeline benchmark: a loop, two shards through Ray, and the report on both."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.benchmarks import pipeline
from tests.benchmarks.watch import watch

WATCHABLE = Path("/proc/self/smaps_rollup").exists()
pytestmark = pytest.mark.skipif(not WATCHABLE, reason="memory and CPU time are read from Linux's /proc")
BUSY_CHILD = """
import time
held, stop = b"x" * (64 << 20), time.process_time() + 0.3
while time.process_time() < stop:
    pass
time.sleep(1.5)
"""


@pytest.fixture
def crops(tmp_path: Path, photos: list[Path]) -> list[Path]:
    for path in photos[:2]:
        Image.open(path).crop((0, 0, 320, 240)).save(tmp_path / path.name, quality=95)
    return sorted(tmp_path.glob("*.jpg"))


@pytest.mark.ray
def test_loop_and_pipeline_code_the_same_pixels(crops: list[Path], tmp_path: Path) -> None:
    job = pipeline.Job("webp", 60.0, 1)
    loop = pipeline.bare(crops, tmp_path, job)
    source = pipeline.shards(crops, tmp_path / "shards", 2)
    run = pipeline.recompressed("recompress, 2x", source, tmp_path / "archive", job)
    assert (run.images, run.encoded) == (2 * loop.images, 4)
    assert run.mpx == pytest.approx(2 * loop.mpx)
    assert run.steady_mpx_per_s > 0
    assert 0 < run.first_part_s < run.watched.elapsed_s
    assert run.watched.processes > 1
    small = pipeline.Run("small", 2, run.mpx / 2, 0.0, run.cpu_s / 2, run.watched)
    checked = pipeline.bare(crops, tmp_path, job, checked=True)
    text = pipeline.report(pipeline.Runs((loop,), (checked,), run, small, run))
    assert "| recompress, 2x " in text
    assert "4 of 4" in text


def test_memory_and_cpu_of_a_whole_tree_are_counted() -> None:
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BUSY_CHILD!r}])"
    found = watch([sys.executable, "-c", parent])
    assert found.processes == 2
    assert found.peak_mib > 64
    assert found.cpu_s >= 0.3


def test_a_command_that_fails_says_why() -> None:
    with pytest.raises(SystemExit, match="no such luck"):
        watch([sys.executable, "-c", "raise SystemExit('no such luck')"])
