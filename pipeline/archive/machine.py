"""Which process on which machine: enough to tell, from the same machine only, whether a run still lives.

A process id alone lies: containers count their own, a reboot starts over, ids are used again. So boot id, process
namespace and start time of the process go with it.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def identity() -> dict[str, Any]:
    """Of this process, as JSON."""
    return _place() | {"pid": os.getpid(), "process_start": _start_of(os.getpid())}


def process_alive(record: Mapping[str, Any]) -> bool | None:
    """Whether the process of `record` lives; None when it ran where this machine cannot look."""
    place = _place()
    if not place["boot_id"] or any(record.get(name) != value for name, value in place.items()):
        return None
    return _start_of(int(record["pid"])) == record["process_start"]


def _place() -> dict[str, Any]:
    return {"host": socket.gethostname(), "boot_id": _boot_id(), "pid_namespace": _namespace()}


def _boot_id() -> str | None:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None


def _namespace() -> str | None:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return None


def _start_of(pid: int) -> str | None:
    """Start time in clock ticks since boot; None when there is no such process, or only its zombie (proc(5))."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]
