"""The house stands as drawn: floors, light imports, files that fit on a few screens."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINE_LIMIT = 400


def test_imports_go_down_only():
    lint = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "module",
    ["pipeline", "pipeline.archive", "pipeline.entropy", "pipeline.config", "pipeline.stages.encode", "jobs.cli"],
)
def test_light_modules_bring_neither_torch_nor_ray(module):
    code = f"import sys, {module}; print(sorted({{'torch', 'ray'}} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


@pytest.mark.parametrize("room", ["pipeline", "jobs", "tests"])
def test_no_file_is_longer_than_a_few_screens(room):
    lengths = {str(path): len(path.read_text().splitlines()) for path in (ROOT / room).rglob("*.py")}
    assert {path: length for path, length in lengths.items() if length > LINE_LIMIT} == {}


def test_jobs_are_thin_doors():
    from jobs.__main__ import JOBS

    doors = {name: ROOT / "jobs" / f"{name}.py" for name in JOBS}
    lengths = {name: len(path.read_text().splitlines()) for name, path in doors.items() if path.exists()}
    assert {name: length for name, length in lengths.items() if length > 100} == {}
