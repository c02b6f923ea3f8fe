"""A second look at work whose first attempt killed its process: each image is tried in a child before it is trusted.

A decoder that segfaults or is killed for its memory takes the whole worker with it, and Ray would only try the same
chunk again. So a chunk that is retried (`marks` remember) is first probed image by image in a child process. The
image that kills the child becomes one row; all others are processed as usual, and the job goes on.

The child is `python -m pipeline.execution.guard`: the step arrives pickled (it is code and settings, not data),
images arrive as Arrow streams, and one byte per image says that it survived.
"""

from __future__ import annotations

import os
import pickle
import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from typing import BinaryIO

from pipeline.stages.work import Work, pack, unpack

Step = Callable[[Work], object]
_ALIVE = b"\x01"


class Probe:
    """Tries `step` on works in a child process that may die; `pickled_step` is what the child unpickles."""

    def __init__(self, pickled_step: bytes) -> None:
        self._pickled = pickled_step
        self._child: subprocess.Popen[bytes] | None = None

    def cause_of_death(self, work: Work) -> str | None:
        """How the child died of `work` ("signal 11 (SIGSEGV)"), or None when it survived."""
        child = self._child or self._start()
        stdin, stdout = _pipes(child)
        try:
            _send(stdin, pack([work]).to_pybytes())
            if stdout.read(1) == _ALIVE:
                return None
        except BrokenPipeError:
            pass
        self._child = None
        return _named(child.wait())

    def _start(self) -> subprocess.Popen[bytes]:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
        command = [sys.executable, "-m", "pipeline.execution.guard"]
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        _send(_pipes(self._child)[0], self._pickled)
        return self._child

    def close(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child = None


def _pipes(child: subprocess.Popen[bytes]) -> tuple[BinaryIO, BinaryIO]:
    if child.stdin is None or child.stdout is None:
        raise OSError("the probe has no pipes")
    return child.stdin, child.stdout  # type: ignore[return-value]


def _named(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    return f"signal {-code} ({signal.Signals(-code).name})"


def _send(stream: BinaryIO, data: bytes) -> None:
    stream.write(struct.pack("<Q", len(data)))
    stream.write(data)
    stream.flush()


def _receive(stream: BinaryIO) -> bytes | None:
    size = stream.read(8)
    return stream.read(struct.unpack("<Q", size)[0]) if len(size) == 8 else None


def _serve(stdin: BinaryIO, stdout: BinaryIO) -> None:
    step: Step = pickle.loads(_receive(stdin) or b"")
    while (data := _receive(stdin)) is not None:
        step(unpack(data)[0])
        stdout.write(_ALIVE)
        stdout.flush()


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a decoder prints must not look like an answer
    _serve(sys.stdin.buffer, answers)
