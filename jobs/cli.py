"""What every job's door does the same way: exit codes, one clear sentence for an error, no traceback.

0: the work is done. 1: the job could not do its work. 2: bad arguments or config.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Annotated, Any

import typer

from jobs.examples import epilog_of
from pipeline.errors import ConfigError, PipelineError

# typer carries its own copy of click from 0.26 on, so the class is found through typer: BadParameter < UsageError.
_USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[2]
OK, FAILED, BAD_ARGUMENTS = 0, 1, 2


class _Interrupted(Exception):
    """Ctrl-C or SIGTERM, as something that typer lets pass (it makes exit code 130 of KeyboardInterrupt)."""


def run_command(command: Callable[..., int | None], argv: Sequence[str] | None, name: str) -> int:
    """Runs one typer command on `argv` and gives its exit code. Every job takes --quiet."""
    job = name.rpartition(".")[2]
    if os.path.basename(sys.argv[0]) == "shardpress":
        name = f"shardpress {job}"
    return run_app(app_of(command, job), argv, name)


def app_of(command: Callable[..., int | None], job: str) -> typer.Typer:
    """The typer application of one job: its options, --quiet, and its examples below the help."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command(epilog=epilog_of(job))(_with_quiet(_interruptible(command)))
    return app


def run_app(app: typer.Typer, argv: Sequence[str] | None, name: str) -> int:
    try:
        with _terminated_like_interrupted():
            code = app(args=list(sys.argv[1:] if argv is None else argv), prog_name=name, standalone_mode=False)
            sys.stdout.flush()
        return int(code or OK)
    except typer.Exit as stop:
        return int(stop.exit_code)
    except _USAGE_ERROR as error:
        return _fail(BAD_ARGUMENTS, f"{_sentence(error)}; see `{name} --help`")
    except ConfigError as error:
        return _fail(BAD_ARGUMENTS, str(error))
    except PipelineError as error:
        return _fail(FAILED, str(error))
    except (_Interrupted, KeyboardInterrupt, typer.Abort):
        return _fail(FAILED, "interrupted; what was committed stays, run the same command again to go on")
    except BrokenPipeError:
        return reader_gone()


def reader_gone() -> int:
    """Whoever read our output has stopped, such as `head`: nothing is left to say, at the end of Python neither."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno())  # type: ignore[union-attr]
    return FAILED


@contextlib.contextmanager
def json_only(wanted: bool) -> Iterator[None]:
    """With --json, whatever prints on stdout in between (Ray does) goes to stderr."""
    with contextlib.redirect_stdout(sys.stderr) if wanted else contextlib.nullcontext():
        yield


def command_line(job: str) -> str:
    """What was typed to start this job, for the record of its run."""
    return shlex.join(["python", "-m", f"jobs.{job}", *sys.argv[1:]])


def print_json(summary: Any) -> None:
    print(json.dumps(summary, indent=2, default=str, allow_nan=False))


def _interruptible(command: Callable[..., int | None]) -> Callable[..., int | None]:
    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> int | None:
        try:
            return command(*arguments, **options)
        except KeyboardInterrupt:
            raise _Interrupted from None

    return run


def _with_quiet(command: Callable[..., int | None]) -> Callable[..., int | None]:
    """`command` with an option that sends what it prints nowhere; --json and errors are still told."""

    @functools.wraps(command)
    def run(*arguments: Any, quiet: bool = False, **options: Any) -> int | None:
        if not quiet or options.get("json"):
            return command(*arguments, **options)
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            return command(*arguments, **options)

    wanted = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
    extra = inspect.Parameter("quiet", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=wanted)
    signature = inspect.signature(command, eval_str=True)
    run.__dict__["__signature__"] = signature.replace(parameters=[*signature.parameters.values(), extra])
    run.__annotations__ = {name: each.annotation for name, each in run.__dict__["__signature__"].parameters.items()}
    return run


def _sentence(error: Exception) -> str:
    text = str(getattr(error, "format_message", error.__str__)())
    return text.rstrip(".")


def warn(message: str) -> None:
    from pipeline.storage import redact

    print(f"error: {redact(message)}", file=sys.stderr, flush=True)


def _fail(code: int, message: str) -> int:
    warn(message)
    return code


@contextlib.contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM, what schedulers send, ends a job as Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread: the host program owns signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
