"""Delete originals that are provably safe to delete."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from jobs import cli

if TYPE_CHECKING:
    from jobs.pruning import Pruning

SHOWN = 10


def prune(
    archive: Annotated[str, typer.Option(help="Folder or prefix of the archive.")],
    yes: Annotated[bool, typer.Option("--yes", help="Delete them; without it nothing is changed.")] = False,
    where: Annotated[str | None, typer.Option(help="Originals of such rows only: status = 'encoded'")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON and nothing else.")] = False,
) -> int:
    """Say which originals the archive can stand for, and with --yes delete those.

    Each is read back first: its payload is decoded with the weights in the archive and compared with the original as it
    is now. Whatever is in doubt stays. A shard goes whole or not at all. The archive keeps a log in pruned/.
    """
    from jobs.pruning import prune_all

    done = prune_all(archive, where, yes)
    if json:
        cli.print_json(done.summary())
    else:
        _tell(done, yes)
    return cli.FAILED if done.failed else cli.OK


def _tell(done: Pruning, yes: bool) -> None:
    for uri in [] if yes else done.safe[:SHOWN]:
        print(f"safe: {uri}")
    if not yes and len(done.safe) > SHOWN:
        print(f"... and {len(done.safe) - SHOWN} more, --json lists all")
    for uri, reason in list(done.kept.items())[:SHOWN]:
        print(f"kept: {uri}: {reason}")
    if len(done.kept) > SHOWN:
        print(f"... and {len(done.kept) - SHOWN} more are kept, --json lists all")
    for uri, error in done.failed.items():
        cli.warn(f"{uri}: not deleted: {error}")
    of = len(done.safe) + len(done.kept)
    gone = f", {done.gone} were gone before" if done.gone else ""
    megabytes = f"{done.safe_bytes / 1e6:.1f} MB"
    if not yes:
        print(f"dry run: {len(done.safe)} of {of} originals ({megabytes}) are safe to delete{gone}; --yes deletes them")
        return
    print(f"{done.deleted} of {of} originals ({megabytes}) deleted{gone}, {len(done.kept)} kept")
    if done.keeps_versions and done.deleted:
        print("the bucket keeps old versions: they cost, and can be brought back, until a lifecycle rule removes them")


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run_command(prune, argv, "python -m jobs.prune")


if __name__ == "__main__":
    raise SystemExit(main())
