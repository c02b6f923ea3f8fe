"""Curves of training runs are read from their logs and compared where both have been."""

from __future__ import annotations

import json

from tests.benchmarks import curves


def run(folder, points):
    folder.mkdir()
    lines = [{"step": s, "elapsed_s": 60 * m, "validation": {"loss": loss}} for s, m, loss in points]
    (folder / "log.jsonl").write_text("\n".join(json.dumps(line) for line in [{"started": {}}, *lines]))
    return folder


def test_runs_are_compared_at_equal_steps_and_minutes(tmp_path, capsys):
    slow = run(tmp_path / "slow", [(100, 4, 3.0), (200, 8, 2.0), (200, 8, 1.9)])
    fast = run(tmp_path / "fast", [(100, 1, 3.5), (200, 2, 2.5), (400, 4, 2.2)])
    assert curves.curve(slow) == [(100, 4, 3.0), (200, 8, 1.9)]
    assert curves.at(curves.curve(fast), "step", 250) == "2.5000"
    assert curves.at(curves.curve(slow), "step", 250) == "-"
    assert curves.at(curves.curve(slow), "minutes", 3) == "-"
    assert curves.main([str(slow), str(fast)]) == 0
    out = capsys.readouterr().out
    assert out.index("At equal steps") < out.index("At equal minutes")
    assert "1.9000" in out
    assert curves.main([]) == 2
