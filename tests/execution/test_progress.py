"""Progress as a person sees it, and as a log keeps it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.terminal import in_terminal

ROOT = Path(__file__).parents[2]
SCRIPT = """
import time
from pipeline.execution import progress
from pipeline.stages.commit import Tally

progress._LINE_EVERY_S = 0
with progress.shown(quiet={quiet}) as show:
    for done in (0, 2, 4):
        show(Tally(images=done, pixels=1_000_000, source_bytes=200, payload_bytes=50), 4)
        time.sleep(0.3)
print("the end")
"""


def _command(quiet: bool = False) -> list[str]:
    return [sys.executable, "-c", SCRIPT.format(quiet=quiet)]


def test_a_log_gets_whole_lines_without_colours_or_cursor_jumps() -> None:
    told = subprocess.run(_command(), cwd=ROOT, check=True, capture_output=True, text=True)
    lines = told.stdout.splitlines()
    assert len(lines) == 4
    assert lines[1].startswith("2 of 4 images, ")
    assert lines[1].endswith(" MPix/s, 75.0 % saved")
    assert "\x1b" not in told.stdout + told.stderr
    assert "\r" not in told.stdout


def test_a_terminal_gets_one_bar_that_is_gone_in_the_end() -> None:
    told = in_terminal(_command(), ROOT, terminal="xterm-256color")
    assert "4/4" in told
    assert "75.0 % saved" in told
    assert "\x1b[2K" in told, "the bar is drawn over itself"
    assert "2 of 4 images" not in told
    assert told.endswith("the end\n")


def test_quiet_says_nothing() -> None:
    told = subprocess.run(_command(quiet=True), cwd=ROOT, check=True, capture_output=True, text=True)
    assert (told.stdout, told.stderr) == ("the end\n", "")
