"""Progress of a run: a live line on a terminal, plain lines every few seconds elsewhere, silence with --json."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from pipeline.stages.commit import Tally

_LINE_EVERY_S = 5.0


class Progress(Protocol):
    def __call__(self, total: Tally) -> None:
        """Called with everything committed so far."""
        ...


@contextmanager
def shown(images: int | None, quiet: bool) -> Iterator[Progress]:
    """A progress display. `images` is how many there will be, None when shards have not been counted."""
    if quiet:
        yield lambda total: None
    elif sys.stdout.isatty():
        with _live(images) as show:
            yield show
    else:
        yield _PlainLines(images)


def described(total: Tally, elapsed_s: float) -> str:
    speed = total.pixels / 1e6 / max(elapsed_s, 1e-3)
    return f"{speed:.1f} MPix/s, {total.saved_pct:.1f} % saved"


@contextmanager
def _live(images: int | None) -> Iterator[Progress]:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("recompress"), BarColumn(), MofNCompleteColumn(), TextColumn("images, {task.fields[text]}"))
    started = time.monotonic()
    with Bar(*columns, TimeElapsedColumn(), transient=True) as bar:
        task = bar.add_task("recompress", total=images, text="starting")

        def show(total: Tally) -> None:
            bar.update(task, completed=total.images, text=described(total, time.monotonic() - started))

        yield show


class _PlainLines:
    def __init__(self, images: int | None) -> None:
        self._of = "" if images is None else f" of {images}"
        self._started = self._last = time.monotonic()

    def __call__(self, total: Tally) -> None:
        now = time.monotonic()
        if now - self._last >= _LINE_EVERY_S:
            self._last = now
            print(f"{total.images}{self._of} images, {described(total, now - self._started)}", flush=True)
