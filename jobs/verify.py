"""Decode and check what an archive holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from jobs import cli
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from jobs.verifying import Verification

SHOWN = 10


def verify(
    archive: Annotated[str, typer.Option(help="Folder or prefix of the archive.")],
    sample: Annotated[int | None, typer.Option(min=1, help="Decode this many pictures; 100 unless told.")] = None,
    all: Annotated[bool, typer.Option("--all", help="Decode every picture.")] = False,
    sweep: Annotated[bool, typer.Option("--sweep", help="First remove what crashes have left behind.")] = False,
    sources: Annotated[bool, typer.Option("--sources", help="Read shards again and compare their members.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON and nothing else.")] = False,
) -> int:
    """Check an archive: its parts, hashes and weights, and that pictures decode to what their rows say.

    Pictures whose source file is still there are measured against it again. What is wrong is told with what it costs
    and what to do about it; then the exit code is 1.
    """
    from jobs.verifying import verify_all

    if all and sample is not None:
        raise ConfigError("--all and --sample exclude each other; give one of them")
    done = verify_all(archive, None if all else sample or 100, sweep, sources)
    if json:
        cli.print_json(done.summary())
    else:
        _tell(done, sweep, sources)
    return cli.FAILED if done.harmful else cli.OK


def _tell(done: Verification, sweep: bool, sources: bool) -> None:
    for finding in done.findings:
        tell = cli.warn if finding.harmful else print
        tell(f"{finding.kind}: {finding.uri}: {finding.detail}; {finding.remedy}")
    swept = f"; {len(done.swept)} leftovers removed" if sweep else ""
    gone = f", {done.sources_gone} have no source to compare with" if done.sources_gone else ""
    members = f", {done.members} lie in shards (--sources compares them)" if done.members and not sources else ""
    print(f"{done.decoded} pictures decoded, {done.compared} compared with their sources{gone}{members}{swept}")
    if done.lost:
        _tell_losses(done)
    print(f"{len(done.harmful)} problems" if done.harmful else "no problems")


def _tell_losses(done: Verification) -> None:
    whole = done.images - len(done.lost)
    print(f"{len(done.lost)} of {done.images} pictures cannot be restored; the other {whole} show no damage")
    there, gone = done.source_there, sorted(set(done.lost) - set(done.source_there))
    if there:
        again = " ".join(f"--retry part-{part}" for part in sorted({done.lost[uri] for uri in there}))
        print(f"{len(there)} of them have their source still, recompress it with {again}: {_some(there)}")
    if gone:
        print(f"{len(gone)} of them have no source any more and are lost unless a backup has them: {_some(gone)}")


def _some(uris: Sequence[str]) -> str:
    return ", ".join(uris[:SHOWN]) + (f" and {len(uris) - SHOWN} more (--json lists all)" if len(uris) > SHOWN else "")


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run_command(verify, argv, "python -m jobs.verify")


if __name__ == "__main__":
    raise SystemExit(main())
