"""A terminal for a program to be tried in, as if a person sat before it."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path


def in_terminal(
    command: Sequence[str], folder: Path, typed: str = "", terminal: str = "dumb", limit_s: float = 240
) -> str:
    """What `command` shows on a terminal of its own while `typed` is typed, until it ends or `limit_s` are over."""
    ours, theirs = pty.openpty()
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), theirs)
    environment = {**os.environ, "TERM": terminal, "COLUMNS": "100"}
    process = subprocess.Popen(command, cwd=folder, env=environment, start_new_session=True, **streams)
    os.close(theirs)
    os.write(ours, typed.encode())
    told, deadline = b"", time.monotonic() + limit_s
    with contextlib.suppress(OSError):  # EIO: the program has ended
        while time.monotonic() < deadline:
            if select.select([ours], [], [], 1)[0]:
                told += os.read(ours, 65536)
    process.kill()
    process.wait()
    os.close(ours)
    return told.decode(errors="replace").replace("\r\n", "\n")
