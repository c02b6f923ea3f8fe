"""One image may take so long and so much memory; more costs its row and not the job.

Memory: the kernel refuses to give more (RLIMIT_DATA), which Python sees as MemoryError and the stages make a row of.
Time: nothing stops a decoder that is busy in C but the end of its process, so the kernel's alarm ends it. The chunk is
then tried again with care (see `guard`), each image in a child process, and the one that ends the child gets its row.
"""

from __future__ import annotations

import contextlib
import resource
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_STATM = Path("/proc/self/statm")
_active = False


@dataclass(frozen=True, slots=True)
class Limits:
    """For one image in one step: wall time, and memory beyond what the process held before. None: no limit."""

    seconds: float | None = None
    memory_mb: int | None = None


@contextlib.contextmanager
def bounded(limits: Limits) -> Iterator[None]:
    """The block ends in time or the process does, by SIGALRM; an allocation beyond the limit fails. Nests: once counts.

    For worker processes only, whose alarm nobody else uses.
    """
    global _active
    if _active:
        yield
        return
    _active = True
    before = resource.getrlimit(resource.RLIMIT_DATA)
    try:
        if limits.memory_mb is not None and _STATM.exists():
            ceiling = _held_bytes() + (limits.memory_mb << 20)
            hard = before[1]
            soft = ceiling if hard == resource.RLIM_INFINITY else min(ceiling, hard)
            resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
        if limits.seconds is not None:
            signal.setitimer(signal.ITIMER_REAL, limits.seconds)
        yield
    finally:
        if limits.seconds is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_DATA, before)
        _active = False


def _held_bytes() -> int:
    """What RLIMIT_DATA counts, and the stack, which is little: proc_pid_statm(5)."""
    return int(_STATM.read_text().split()[5]) * resource.getpagesize()
