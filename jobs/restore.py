"""Pictures back from an archive, as files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from jobs import cli

if TYPE_CHECKING:
    from jobs.restoring import Restoration


def restore(
    archive: Annotated[str, typer.Option(help="Folder or prefix of the archive.")],
    out: Annotated[str, typer.Option(help="Folder or prefix for the files.")],
    id: Annotated[list[str] | None, typer.Option(help="image_id; may be given several times.")] = None,
    where: Annotated[str | None, typer.Option(help="Rows by metrics columns: psnr_db < 33 and width > 99")] = None,
    format: Annotated[str, typer.Option(help="original, png, jpeg, webp, avif, tiff.")] = "original",
    scale: Annotated[int, typer.Option(help="2: twice as wide and high as the source, by super-resolution.")] = 1,
    superres: Annotated[str | None, typer.Option(help="The file of another super-resolver, for that scale.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that differ.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON and nothing else.")] = False,
) -> int:
    """Restore pictures: all of them, or those named by --id and --where.

    `original` is the source file byte for byte where the codec can give it back, else a PNG of the decoded picture.
    With --scale no picture is its source file any more, and all are written as they look larger.
    --where takes comparisons (=, !=, <, <=, >, >=, in, like, is null) joined by and, or, not.
    """
    from jobs.restoring import restore_all
    from pipeline.stages.restore import Enlargement

    done = restore_all(archive, out, id, where, format, overwrite, Enlargement(scale, superres))
    _tell(done, json)
    return cli.FAILED if done.problems else cli.OK


def _tell(done: Restoration, json: bool) -> None:
    if json:
        return cli.print_json(done.summary())
    for problem in done.problems:
        cli.warn(problem)
    line = f"{done.restored} pictures restored to {done.out}"
    line += f" ({done.sources} as their source files, byte for byte)" if done.sources else ""
    line += f", {done.unchanged} of them were there already" if done.unchanged else ""
    line += f"; {done.rejected} rejected images have no payload" if done.rejected else ""
    print(line + (f"; {len(done.problems)} failed" if done.problems else ""))


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run_command(restore, argv, "python -m jobs.restore")


if __name__ == "__main__":
    raise SystemExit(main())
