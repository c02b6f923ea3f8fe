"""Progress of a run: a live line on a terminal, plain lines every few seconds elsewhere, silence with --json."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipeline.stages.commit import Tally

_LINE_EVERY_S = 5.0


Progress = Callable[[Tally, int | None], None]


@contextmanager
def shown(quiet: bool) -> Iterator[Progress]:
    """A function to call with everything committed so far, and how many images there will be (None: not known)."""
    if quiet:
        yield lambda total, images: None
    elif sys.stdout.isatty():
        with _live() as show:
            yield show
    else:
        yield _PlainLines()


def described(total: Tally, elapsed_s: float) -> str:
    speed = total.pixels / 1e6 / max(elapsed_s, 1e-3)
    return f"{speed:.1f} MPix/s, {total.saved_pct:.1f} % saved"


@contextmanager
def _live() -> Iterator[Progress]:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("recompress"), BarColumn(), MofNCompleteColumn(), TextColumn("images, {task.fields[text]}"))
    started = time.monotonic()
    with Bar(*columns, TimeElapsedColumn(), transient=True) as bar:
        task = bar.add_task("recompress", total=None, text="starting")

        def show(total: Tally, images: int | None) -> None:
            bar.update(task, completed=total.images, total=images, text=described(total, time.monotonic() - started))

        yield show


class _PlainLines:
    def __init__(self) -> None:
        self._started = self._last = time.monotonic()

    def __call__(self, total: Tally, images: int | None) -> None:
        now = time.monotonic()
        if now - self._last >= _LINE_EVERY_S:
            self._last = now
            of = "" if images is None else f" of {images}"
            print(f"{total.images}{of} images, {described(total, now - self._started)}", flush=True)
