"""Codecs x qualities over a dataset of any size: a table of results, and a page that shows it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from jobs import cli
from pipeline.config import EvaluateConfig, load

if TYPE_CHECKING:
    from pipeline.execution.evaluation import EvaluationReport


def evaluate(
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[key=value ...]", show_default=False)] = None,
    config: Annotated[str | None, typer.Option(help="YAML file; see configs/evaluate/.")] = None,
    source: Annotated[str | None, typer.Option(help="Folder, prefix, glob, or shards; local or s3://.")] = None,
    results: Annotated[str | None, typer.Option(help="Folder or prefix for result parts; made when new.")] = None,
    report: Annotated[bool, typer.Option("--report/--no-report", help="End with report.html.")] = True,
    json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON and nothing else.")] = False,
) -> int:
    """Measure codecs at several qualities on the images of a source, and end with a report.

    Keys are those of the config, e.g. sample=1000 seed=1 report.anchor=webp report.price_per_gb_month=0.023.
    Run it again at any time: what was measured is not measured twice, new settings and images are added.
    """
    flags = {"source.uri": source, "results.uri": results}
    settings = load(EvaluateConfig, config, overrides or [], {name: flag for name, flag in flags.items() if flag})
    with cli.json_only(json):
        found = _run(settings, json)
        page = _page(settings) if report else None
    _tell(found, settings, page, json)
    return cli.OK if found.total.rejected <= settings.error_budget * max(1, found.total.images) else cli.FAILED


def _run(settings: EvaluateConfig, quiet: bool) -> EvaluationReport:
    from jobs.evaluation_orders import order_of
    from pipeline.execution import progress
    from pipeline.execution.evaluation import evaluate as run

    with progress.counted("evaluate", quiet) as show:
        return run(
            order_of(settings, cli.command_line("evaluate")),
            lambda total, images: show(total.images, images, f"{total.rows:,} measurements"),
        )


def _page(settings: EvaluateConfig) -> str:
    from jobs.report import write_results_page

    return write_results_page(settings.results.uri, settings.report)


def _tell(found: EvaluationReport, settings: EvaluateConfig, page: str | None, json: bool) -> None:
    total = found.total
    counted = {"images": total.images, "rows": total.rows, "rejected": total.rejected, "listed": found.listed}
    if json:
        elapsed = round(found.elapsed_s, 2)
        cli.print_json({"run_id": found.run_id, "results": settings.results.uri} | counted | {"elapsed_s": elapsed})
        return
    line = f"{total.images:,} images, {total.rows:,} measurements, {total.rejected} rejected; {found.elapsed_s:.1f} s"
    print(line if found.units else f"nothing new to measure; {found.elapsed_s:.1f} s")
    if page is not None:
        print(f"report: {page}")


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run_command(evaluate, argv, "python -m jobs.evaluate")


if __name__ == "__main__":
    raise SystemExit(main())
