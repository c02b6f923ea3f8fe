"""One tiny run through the benchmark of growth, and its plot."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from tests.benchmarks import scaling
from tests.benchmarks.plot import LogPanel, loglog_svg
from tests.benchmarks.watch import Watched

WATCHABLE = Path("/proc/self/smaps_rollup").exists()


@pytest.mark.ray
@pytest.mark.skipif(not WATCHABLE, reason="memory and CPU time are read from Linux's /proc")
def test_every_image_is_coded_once_and_the_second_run_finds_nothing_to_do(tmp_path: Path, photos: list[Path]) -> None:
    found = scaling.counted(photos, tmp_path, 5, "webp")
    assert (found.size, found.rows, found.encoded) == (5, 5, 5)
    assert found.resumed.cpu_s < found.run.cpu_s


def grown(size: float, cpu_s: float) -> scaling.Grown:
    run = Watched(0.0, 10 + cpu_s / 2, 20 + cpu_s, 100.0, 2, "")
    return scaling.Grown(size, int(size), int(size), run, run)


def test_costs_are_told_beyond_start_up() -> None:
    runs = [grown(1, 0), grown(1000, 4), grown(100_000, 400)]
    rows = [line.split("|")[1:-1] for line in scaling.report(runs, runs, "webp").splitlines() if "100,000" in line]
    assert [float(rows[0][column]) for column in (3, 4)] == [2.0, 4.0]  # ms of wall and CPU a further image
    assert [float(rows[1][column]) for column in (3, 4)] == [0.0, 0.0]  # 0.002 and 0.004 s a further MPix


def test_straight_growth_lies_on_the_dashed_line() -> None:
    svg = loglog_svg([LogPanel("straight", "images", "s", [(10, 2), (100, 20), (1000, 200)])])
    dashed, curve = (
        element.get("points", "") for element in ElementTree.fromstring(svg).iter() if element.get("points")
    )
    (left, bottom), (right, top) = ([float(value) for value in re.split("[ ,]", dashed)][k : k + 2] for k in (0, 2))
    for point in curve.split():
        x, y = (float(value) for value in point.split(","))
        assert (y - bottom) / (top - bottom) == pytest.approx((x - left) / (right - left), abs=0.01)
