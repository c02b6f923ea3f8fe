"""`shardpress NAME ...`: every job behind one door. `python -m jobs.NAME` is the same."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence

JOBS = {
    "recompress": "what is new in a source goes into an archive",
    "restore": "pictures back from an archive",
    "verify": "decode and check what an archive holds",
    "prune": "delete originals that an archive provably holds",
    "encode": "picture files to payloads, one by one",
    "decode": "payloads to picture files",
    "evaluate": "codecs x qualities over a data set, as a table and a page",
    "report": "one page: of an evaluation, or of what an archive holds",
    "train": "fit a codec",
    "models": "what models there are, and what their cards say",
    "serve": "a gallery and pictures of an archive over HTTP",
    "completion": "a completion script for bash, zsh or fish",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code of the job named first. Jobs are imported when called: each brings its own weight."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["help"] and len(arguments) == 2:
        arguments = [arguments[1], "--help"]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        return _said(_usage(), 0 if arguments else 2)
    if arguments[0] == "--version":
        from pipeline import __version__

        return _said(f"shardpress {__version__}", 0)
    name, *rest = arguments
    if name not in JOBS:
        close = difflib.get_close_matches(name, JOBS, n=1)
        hint = f", did you mean {close[0]}?" if close else ""
        print(f"error: unknown job {name!r}{hint}; expected one of {', '.join(JOBS)}", file=sys.stderr)
        return 2
    code: int = importlib.import_module(f"jobs.{name}").main(rest)
    return code


def _said(text: str, code: int) -> int:
    """Prints; whoever reads through `head` may stop early."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        from jobs import cli

        return cli.reader_gone()
    return code


def _usage() -> str:
    jobs = "\n".join(f"  {name:<12}{text}" for name, text in JOBS.items())
    return f"""usage: shardpress JOB [options]

{jobs}

every job: --help with examples, --quiet; most: --json; places are paths or s3://bucket/prefix
exit code: 0 the work is done, 1 it could not be done, 2 wrong arguments or config
  shardpress recompress --source photos --archive archive
  shardpress encode photo.jpg"""


if __name__ == "__main__":
    raise SystemExit(main())
