"""A command and everything it starts, watched from outside through /proc: memory, CPU time, wall time.

Memory is the sum of proportional set sizes (PSS), in which a page that several processes share counts once; Ray
maps its object store into every worker, and a sum of RSS would count it as often. Linux only.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.conditions import ROOT

CPU_EVERY_S, MEMORY_EVERY_S = 0.2, 1.0
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Watched:
    """One finished command. `started_at` is Unix time; `peak_mib` and `processes` are of its whole tree."""

    started_at: float
    elapsed_s: float
    cpu_s: float
    peak_mib: float
    processes: int
    stdout: str


def watch(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Watched:
    """Run `command` in the repository to its end. Raises SystemExit, with what it said, when it fails."""
    started_at, started = time.time(), time.monotonic()
    cpu: dict[tuple[int, int], float] = {}
    peak_mib, processes, memory_due = 0.0, 0, 0.0
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while process.poll() is None:
            tree = _tree(process.pid)
            cpu |= {(one.pid, one.started): one.cpu_s for one in tree}
            processes = max(processes, len(tree))
            if time.monotonic() >= memory_due:
                peak_mib = max(peak_mib, sum(_pss_mib(one.pid) for one in tree))
                memory_due = time.monotonic() + MEMORY_EVERY_S
            _wait(process, CPU_EVERY_S)
        elapsed_s = time.monotonic() - started
        stdout, stderr = process.communicate()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}\n{stderr.strip()}")
    return Watched(started_at, elapsed_s, sum(cpu.values()), peak_mib, processes, stdout)


@dataclass(frozen=True)
class _Process:
    pid: int
    parent: int
    started: int
    cpu_s: float


def tree_of(root: int) -> list[int]:
    """Process ids of `root` and all its descendants."""
    return [one.pid for one in _tree(root)]


def _tree(root: int) -> list[_Process]:
    """`root` and all its descendants."""
    children: dict[int, list[_Process]] = {}
    found: list[_Process] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (one := _process(int(entry.name))) is not None:
            children.setdefault(one.parent, []).append(one)
            found += [one] if one.pid == root else []
    for one in found:  # grows while it is walked
        found += children.get(one.pid, [])
    return found


def _process(pid: int) -> _Process | None:
    """None when it has just ended. Fields are those of proc_pid_stat(5) after the command's closing bracket."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return _Process(pid, int(fields[1]), int(fields[19]), (int(fields[11]) + int(fields[12])) / _TICKS_PER_S)


def _pss_mib(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # ended, or a kernel thread
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:")), 0.0)


def _wait(process: subprocess.Popen[str], seconds: float) -> None:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return
