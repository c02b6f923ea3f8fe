"""Which file becomes which, for `encode` and `decode`: names as people type them.

IN              beside itself, with the suffix of what it becomes      IN OUT     as told
IN IN IN ...    each beside itself                                     IN ... FOLDER/   into that folder
'*.jpg'         a quoted glob stands for what it matches               -          stdin, stdout
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from jobs import cli
from pipeline import storage
from pipeline.errors import ConfigError, PipelineError

STREAM = "-"


def pairs(names: Sequence[str], suffix: str) -> list[tuple[str, str]]:
    """(source, target) of each file. Raises ConfigError for names that leave open what is meant."""
    *sources, last = names
    if not sources:
        sources, last = [last], ""
    elif len(sources) > 1 and not _is_folder(last):
        sources, last = [*sources, last], ""
    found = [name for source in sources for name in _expanded(source)]
    if last and not _is_folder(last):
        if len(found) != 1:
            raise ConfigError(f"{sources[0]}: {len(found)} files for one OUT, {last}; expected a folder: {last}/")
        return [(found[0], last)]
    made = [(source, _target(source, last, suffix)) for source in found]
    targets = [target for _, target in made]
    for source, target in made:
        if targets.count(target) > 1 and target != STREAM:
            raise ConfigError(f"{source}: another file would also become {target}; name OUT for each of them")
    return made


def each(
    jobs: Sequence[tuple[str, str]],
    run: Callable[[str, str], dict[str, Any]],
    line: Callable[[dict[str, Any]], str],
    json: bool,
) -> int:
    """Runs every (source, target), tells of each, and gives the exit code; of several files one may fail.

    Words go to stderr where the data goes to stdout. Raises ConfigError for --json there.
    """
    to_stdout = any(out == STREAM for _, out in jobs)
    if to_stdout and json:
        raise ConfigError("--json: stdout is where the data goes; name an OUT")
    done = []
    for source, out in jobs:
        try:
            done.append(run(source, out))
        except PipelineError as error:
            if len(jobs) == 1:
                raise
            cli.warn(str(error))
        else:
            if not json:
                print(line(done[-1]), file=sys.stderr if to_stdout else sys.stdout)
    if json:
        cli.print_json(done[0] if len(jobs) == 1 else done)
    return cli.OK if len(done) == len(jobs) else cli.FAILED


def read(name: str) -> bytes:
    """All bytes of a file, or of stdin. Raises ConfigError for a folder."""
    if name == STREAM:
        return sys.stdin.buffer.read()
    if os.path.isdir(name):
        raise ConfigError(f"{name}: found a folder, expected files: '{storage.join(name, '*.jpg')}', or use recompress")
    return storage.read_bytes(name)


@contextlib.contextmanager
def named(source: str) -> Iterator[None]:
    """What is wrong with the content of a file is told with its name in front."""
    try:
        yield
    except PipelineError as error:
        raise type(error)(f"{source}: {error}") from error


def write(name: str, data: bytes, source: str, overwrite: bool) -> None:
    """Raises ConfigError rather than replacing a file that is there, unless it is this very content."""
    if name == STREAM:
        sys.__stdout__.buffer.write(data)  # type: ignore[union-attr]  # --quiet silences words, not data
        sys.__stdout__.buffer.flush()  # type: ignore[union-attr]
        return
    if name == source:
        raise ConfigError(f"{name}: it would be replaced by what is made of it; name another OUT")
    if not overwrite and storage.read_if_exists(name) not in (None, data):
        raise ConfigError(f"{name} exists and is another file; choose another OUT, or allow it with --overwrite")
    storage.write_atomic(name, data)


def _is_folder(name: str) -> bool:
    return name.endswith("/") or os.path.isdir(name)


def _expanded(name: str) -> list[str]:
    if name == STREAM or not any(mark in name for mark in "*?[") or storage.exists(name):
        return [name]
    found = [item.uri for item in storage.list_files(name)]
    if not found:
        raise ConfigError(f"{name}: matches no file; check the spelling")
    return found


def _target(source: str, folder: str, suffix: str) -> str:
    if source == STREAM:
        return storage.join(folder, f"stdin{suffix}") if folder else STREAM
    stem = posixpath.splitext(source)[0]
    return storage.join(folder, posixpath.basename(stem) + suffix) if folder else stem + suffix
