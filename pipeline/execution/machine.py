"""What a measurement was made on: processor, memory, accelerator, system; for the records of runs."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any


def described() -> dict[str, Any]:
    """Of this machine, as JSON; what cannot be found is left out."""
    found = {
        "cpu": _cpu_name(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": _memory_gib(),
        "gpu": _gpu_name(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }
    return {name: value for name, value in found.items() if value is not None}


def conditions(command: str) -> dict[str, Any]:
    """What the record of a run says about how its numbers were made."""
    return {"command": command, "commit": commit(), "machine": described()}


def commit() -> str | None:
    """The commit of the checkout this package runs from, with a + when files differ; None for an installed package."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return None
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12"], cwd=folder, capture_output=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.decode().strip() or None


def _cpu_name() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or None
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or None


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError):
        return None


def _gpu_name() -> str | None:
    """By nvidia-smi, so that the driver process need not import torch."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    try:
        answer = subprocess.run([tool, "--query-gpu=name", "--format=csv,noheader"], capture_output=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    names = answer.stdout.decode(errors="replace").strip().splitlines()
    return f"{len(names)} x {names[0].strip()}" if answer.returncode == 0 and names else None
