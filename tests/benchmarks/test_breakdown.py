"""Time counts for the innermost part that runs, and for nothing when no stage does."""

from __future__ import annotations

import time

import pytest

from tests.benchmarks.breakdown import OTHER, Clock


def test_time_counts_for_the_innermost_part(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "process_time", lambda: now[0])
    clock = Clock()

    def spend(seconds: float) -> None:
        now[0] += seconds

    inner = clock.timing("h_s", spend)

    def outer() -> None:
        spend(2)
        inner(3)
        spend(4)

    spend(100)
    with clock.stage("analysis"):
        spend(1)
        clock.timing("g_a", outer)()
    spend(100)
    assert clock.cpu_s == {("analysis", OTHER): 1, ("analysis", "g_a"): 6, ("analysis", "h_s"): 3}
