"""Validation loss of several training runs at equal steps and at equal training time: does transfer help, and when?

    python -m tests.benchmarks.curves .train/A-vgg16 .train/A-vgg16-scratch ...

Reads each run's log.jsonl; a run that was resumed counts as one. Loss as in pipeline/training/LOG.md, lower is better.
"""

from __future__ import annotations

import json
import sys
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tests.benchmarks.conditions import table

POINTS = 8


class Point(NamedTuple):
    """One validation of a run."""

    step: int
    minutes: float
    loss: float


def curve(run: Path) -> list[Point]:
    """The validations of a run, in order of step; what was done again after a kill counts once, as done last."""
    found: dict[int, Point] = {}
    for line in (run / "log.jsonl").read_text().splitlines():
        record = json.loads(line)
        if "validation" in record:
            minutes = record["elapsed_s"] / 60
            found[record["step"]] = Point(record["step"], minutes, record["validation"]["loss"])
    return [found[step] for step in sorted(found)]


def at(points: Sequence[Point], column: str, value: float) -> str:
    """Loss of the last validation not after `value`; a dash before the first one and after the run's end."""
    places = [getattr(point, column) for point in points]
    k = bisect_right(places, value)
    return f"{points[k - 1].loss:.4f}" if k and value <= places[-1] else "-"


def compared(runs: dict[str, list[Point]], column: str) -> str:
    """Markdown: a row for each of a few equal steps or minutes, a column for each run."""
    end = max(getattr(points[-1], column) for points in runs.values())
    marks = [end * k / POINTS for k in range(1, POINTS + 1)]
    rows = (
        {column: f"{mark:.0f}" if column == "step" else f"{mark:.1f}"}
        | {name: at(points, column, mark) for name, points in runs.items()}
        for mark in marks
    )
    return table(rows)


def main(argv: Sequence[str] | None = None) -> int:
    folders = [Path(word) for word in (sys.argv[1:] if argv is None else argv)]
    if not folders:
        print(__doc__)
        return 2
    runs = {folder.name: curve(folder) for folder in folders}
    for column in ("step", "minutes"):
        print(f"At equal {column if column == 'minutes' else 'steps'}\n\n{compared(runs, column)}\n")
    print(table({"run": name, "end": f"{points[-1].loss:.4f}"} for name, points in runs.items()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
