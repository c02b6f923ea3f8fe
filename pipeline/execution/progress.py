"""Progress of a run: a live line on a terminal, plain lines every few seconds elsewhere, silence with --json."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipeline.stages.commit import Tally

_LINE_EVERY_S = 5.0


Progress = Callable[[Tally, int | None], None]
Show = Callable[[int, int | None, str], None]


@contextmanager
def shown(quiet: bool) -> Iterator[Progress]:
    """A function to call with everything committed so far, and how many images there will be (None: not known)."""
    started = time.monotonic()
    with counted("recompress", quiet) as show:
        yield lambda total, images: show(total.images, images, described(total, time.monotonic() - started))


@contextmanager
def counted(job: str, quiet: bool) -> Iterator[Show]:
    """A function to call with images done, images in all (None: not known), and a few words about what is done."""
    if quiet:
        yield lambda done, images, text: None
    elif sys.stdout.isatty():
        with _live(job) as show:
            yield show
    else:
        yield _PlainLines()


def described(total: Tally, elapsed_s: float) -> str:
    speed = total.pixels / 1e6 / max(elapsed_s, 1e-3)
    return f"{speed:.1f} MPix/s, {total.saved_pct:.1f} % saved"


@contextmanager
def _live(job: str) -> Iterator[Show]:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn(job), BarColumn(), MofNCompleteColumn(), TextColumn("images, {task.fields[text]}"))
    with Bar(*columns, TimeElapsedColumn(), transient=True) as bar:
        task = bar.add_task(job, total=None, text="starting")

        def show(done: int, images: int | None, text: str) -> None:
            bar.update(task, completed=done, total=images, text=text)

        yield show


class _PlainLines:
    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, done: int, images: int | None, text: str) -> None:
        now = time.monotonic()
        if now - self._last >= _LINE_EVERY_S:
            self._last = now
            of = "" if images is None else f" of {images}"
            print(f"{done}{of} images, {text}", flush=True)
