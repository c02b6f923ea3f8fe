"""Code blocks of Markdown documents: found, and run in the order in which a reader meets them.

Blocks marked bash, python and sql are run; others (text, yaml, json) are shown only. `<!-- not run: reason -->` on the
line before a block leaves it out, and `<!-- s3 -->` runs it with an S3 server in the environment.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_FENCE = re.compile(r"^(?:<!-- (?P<note>[^\n]*?) -->\n+)?```(?P<kind>\w*)\n(?P<code>.*?)^```$", re.M | re.S)
RUN = ("bash", "python", "sql")


@dataclass(frozen=True)
class Block:
    """One fenced block; `line` is where its code begins."""

    kind: str
    code: str
    note: str
    line: int


def blocks_of(text: str) -> list[Block]:
    """The blocks that are to be run."""
    found = (
        Block(m["kind"], m["code"], m["note"] or "", text.count("\n", 0, m.start("code")) + 1)
        for m in _FENCE.finditer(text)
    )
    return [each for each in found if each.kind in RUN and not each.note.startswith("not run: ")]


def run_document(path: Path, folder: Path, start_s3: Callable[[], Any], environment: Mapping[str, str]) -> int:
    """Runs the blocks of a document in `folder`, the current one; Python blocks share their names. Returns how many."""
    names: dict[str, Any] = {"__name__": "__main__"}
    blocks = blocks_of(path.read_text())
    for block in blocks:
        where = f"{path.name}:{block.line}"
        if block.note == "s3":
            start_s3()
        if block.kind == "bash":
            _run_bash(block.code, where, folder, environment)
        elif block.kind == "sql":
            import duckdb

            duckdb.sql(block.code).fetchall()
        else:
            exec(compile("\n" * (block.line - 1) + block.code, str(path), "exec"), names)
    return len(blocks)


def _run_bash(code: str, where: str, folder: Path, environment: Mapping[str, str]) -> None:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", code],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    if done.returncode:
        raise AssertionError(f"{where}: exit code {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}")
