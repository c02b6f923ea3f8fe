"""Decode and check what an archive holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from jobs import cli
from pipeline.errors import ConfigError


def verify(
    archive: Annotated[str, typer.Option(help="Folder or prefix of the archive.")],
    sample: Annotated[int | None, typer.Option(min=1, help="Decode this many pictures; 100 unless told.")] = None,
    all: Annotated[bool, typer.Option("--all", help="Decode every picture.")] = False,
    sweep: Annotated[bool, typer.Option("--sweep", help="First remove what crashes have left behind.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON and nothing else.")] = False,
) -> int:
    """Check an archive: its parts, hashes and weights, and that pictures decode to what their rows say.

    Pictures whose source file is still there are measured against it again. Exit code 1 when something is wrong.
    """
    from jobs.verifying import verify_all

    if all and sample is not None:
        raise ConfigError("--all and --sample exclude each other; give one of them")
    done = verify_all(archive, None if all else sample or 100, sweep)
    if json:
        cli.print_json(done.summary())
        return cli.FAILED if done.harmful else cli.OK
    for finding in done.findings:
        tell = cli.warn if finding.harmful else print
        tell(f"{finding.kind}: {finding.uri}: {finding.detail}")
    swept = f"; {len(done.swept)} leftovers removed" if sweep else ""
    gone = f", {done.sources_gone} have no source file to compare with" if done.sources_gone else ""
    print(f"{done.decoded} pictures decoded, {done.compared} compared with their sources{gone}{swept}")
    print(f"{len(done.harmful)} problems" if done.harmful else "no problems")
    return cli.FAILED if done.harmful else cli.OK


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run_command(verify, argv, "python -m jobs.verify")


if __name__ == "__main__":
    raise SystemExit(main())
