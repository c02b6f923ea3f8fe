"""The nightly job: what is new in a source goes into an archive, verified, smaller, and never worse than asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from jobs import cli
from pipeline.config import RecompressConfig, load
from pipeline.errors import PipelineError

if TYPE_CHECKING:
    from pipeline.execution.recompression import Report


def recompress(
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[key=value ...]", show_default=False)] = None,
    config: Annotated[str | None, typer.Option(help="YAML file; see configs/recompress/.")] = None,
    source: Annotated[str | None, typer.Option(help="Folder, prefix, glob, or shards; local or s3://.")] = None,
    archive: Annotated[str | None, typer.Option(help="Folder or prefix of the archive; made when new.")] = None,
    retry: Annotated[list[str] | None, typer.Option(help="Take up rejected images again: --retry rejected.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON and nothing else.")] = False,
) -> int:
    """Recompress images of a source into an archive.

    Keys are those of the config, e.g. codec.name=webp codec.quality=70 floor.psnr_db=32 error_budget=0.05.
    Run it again at any time: what is done is not done twice.
    """
    flags = {"source.uri": source, "archive.uri": archive, "retry": retry}
    settings = load(RecompressConfig, config, overrides or [], {name: flag for name, flag in flags.items() if flag})
    with cli.json_only(json):
        report, within_budget = _run(settings, json)
        page, written = _page(settings, report.archive.uri)
    if json:
        counted = {"run_id": report.run_id, "archive": report.archive.uri, "listed": report.listed, "report": page}
        cli.print_json(counted | report.total.summary() | {"elapsed_s": round(report.elapsed_s, 2)})
    elif page is not None:
        print(f"report: {page}")
    return cli.OK if within_budget and written else cli.FAILED


def _run(settings: RecompressConfig, quiet: bool) -> tuple[Report, bool]:
    from jobs import tables
    from jobs.orders import order_of
    from pipeline.execution import progress
    from pipeline.execution.recompression import recompress as run

    with progress.shown(quiet) as show:
        report = run(order_of(settings, cli.command_line("recompress")), show)
    if not quiet:
        tables.show(report)
    within_budget = report.rejected_share <= settings.error_budget
    if not within_budget:
        cli.warn(
            f"{report.total.rejected} of {report.total.images} images were rejected, more than error_budget="
            f"{settings.error_budget:g} allows; what was committed stays, see the reasons in the metrics table"
        )
    return report, within_budget


def _page(settings: RecompressConfig, archive: str) -> tuple[str | None, bool]:
    """(where the page of the archive is, whether all is well); a page that fails does not undo the night's work."""
    from jobs.report import write_archive_page

    if settings.report is None:
        return None, True
    try:
        return write_archive_page(archive, settings.report), True
    except PipelineError as error:
        again = f"what was committed stays; `python -m jobs.report --archive {archive}` writes the page again"
        cli.warn(f"the page could not be written: {error}; {again}")
        return None, False


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run_command(recompress, argv, "python -m jobs.recompress")


if __name__ == "__main__":
    raise SystemExit(main())
