from __future__ import annotations

from pipeline.archive import create_or_open, plan
from tests.benchmarks import planning


def test_what_is_made_up_is_an_archive_that_the_planner_believes(tmp_path):
    items = planning.items_of(200)
    planning.make_archive(tmp_path, items[:150])
    todo = plan(create_or_open(str(tmp_path)), items, planning.SPEC)
    assert [item for unit in todo for item in unit.items] == items[150:]


def test_memory_of_planning_is_bounded_per_row(tmp_path):
    rows = 100_000
    planning.make_archive(tmp_path, planning.items_of(rows))
    found = planning._apart("measured_plan", str(tmp_path), rows, 0)
    assert found["found"] == 0
    # A million rows must fit into 2 GiB beside Python and its libraries.
    assert (found["peak_mib"] - found["before_mib"]) * 1e6 / rows + found["before_mib"] < 2048
