"""`infra/local/nightly.sh`, as cron would run it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "infra" / "local" / "nightly.sh"


def nightly(logs: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"SHARDPRESS_PYTHON": sys.executable, "SHARDPRESS_LOGS": str(logs)}
    return subprocess.run([str(SCRIPT), *arguments], capture_output=True, text=True, env=environment, check=False)


@pytest.mark.ray
def test_a_night_recompresses_checks_and_logs(photos, tmp_path):
    (tmp_path / "photos").mkdir()
    shutil.copy(photos[2], tmp_path / "photos")
    done = nightly(tmp_path / "logs", str(tmp_path / "photos"), str(tmp_path / "archive"), "codec.name=webp")
    assert done.returncode == 0, done.stderr
    (log,) = (tmp_path / "logs").glob("*.log")
    summary, _ = json.JSONDecoder().raw_decode(log.read_text())
    assert summary["encoded"] == 1
    assert "no problems" in log.read_text()
    assert summary["report"] == str(tmp_path / "archive" / "report.html")
    assert "What the archive holds" in Path(summary["report"]).read_text()


def test_a_night_that_fails_says_where_to_look(tmp_path):
    done = nightly(tmp_path / "logs", str(tmp_path / "nowhere"), str(tmp_path / "archive"))
    assert done.returncode == 1
    assert "see " in done.stderr
    assert "nowhere" in done.stderr
    assert nightly(tmp_path / "logs").returncode == 2
