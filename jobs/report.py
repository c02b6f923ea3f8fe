"""One self-contained HTML page: of the results of an evaluation, or of what an archive holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from jobs import cli
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.config import PageSection, ReportSection
    from pipeline.report.options import PageOptions


def report(
    results: Annotated[str | None, typer.Option(help="Folder or prefix with the results of jobs.evaluate.")] = None,
    archive: Annotated[str | None, typer.Option(help="Folder or prefix of an archive, instead of results.")] = None,
    out: Annotated[str | None, typer.Option(help="The page; report.html beside the results when unset.")] = None,
    anchor: Annotated[str | None, typer.Option(help="Curve that BD-rates are against; jpeg when unset.")] = None,
    focus: Annotated[str | None, typer.Option(help="Curve that the galleries are about.")] = None,
    psnr_db: Annotated[float | None, typer.Option("--psnr-db", help="Compare sizes at this quality.")] = None,
    price: Annotated[float | None, typer.Option(help="Price of a GB-month of storage, for saved money.")] = None,
    currency: Annotated[str, typer.Option(help="What the price is in.")] = "USD",
    published: Annotated[list[str] | None, typer.Option(help="Published curves to draw: names, or all.")] = None,
    worst: Annotated[int, typer.Option(help="Images in each gallery.", min=0, max=48)] = 12,
    superres: Annotated[int, typer.Option(help="Images shown reduced and restored at twice the size.", min=0)] = 3,
    json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON and nothing else.")] = False,
) -> int:
    """Write report.html: tables, rate-distortion curves, distributions, the worst images, and how it was made.

    The page needs no network and no other file.
    """
    from pipeline.report.options import PageOptions

    if (results is None) == (archive is None):
        raise ConfigError("report: give --results URI or --archive URI, one of them")
    options = PageOptions(anchor, focus, psnr_db, price, currency, tuple(published or ()), worst, superres)
    with cli.json_only(json):
        page = _written(results, archive, out, options)
    if json:
        cli.print_json({"report": page})
    else:
        print(f"report: {page}")
    return cli.OK


def write_results_page(results: str, section: ReportSection) -> str:
    """The page that `jobs.evaluate` ends with; returns where it is."""
    return _written(results, None, section.out, _options(section))


def write_archive_page(archive: str, section: PageSection) -> str:
    """The page that `jobs.recompress` ends with when its config has a `report`; returns where it is."""
    return _written(None, archive, section.out, _options(section))


def _options(section: PageSection) -> PageOptions:
    from pipeline.report.options import PageOptions

    return PageOptions(**section.model_dump(exclude={"out"}))


def _written(results: str | None, archive: str | None, out: str | None, options: PageOptions) -> str:
    from pipeline import storage
    from pipeline.report.archive_page import archive_page
    from pipeline.report.page import render
    from pipeline.report.results_page import results_page

    place = storage.absolute(out if out is not None else storage.join(results or archive or "", "report.html"))
    page = results_page(results, options) if results is not None else archive_page(archive or "", options)
    storage.write_atomic(place, render(page).encode("utf-8"))
    return place


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run_command(report, argv, "python -m jobs.report")


if __name__ == "__main__":
    raise SystemExit(main())
