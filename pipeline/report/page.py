"""The page: sections of text, tables, charts and galleries in one HTML file that needs no network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata, resources
from typing import Any

from pipeline.errors import ConfigError
from pipeline.report.charts import Chart
from pipeline.report.gallery import Exhibit


@dataclass(frozen=True, slots=True)
class Table:
    """A table; `wide` columns (by index) hold words and are aligned left, the others are numbers.

    `marks` are drawings (SVG) that stand before the first cell of each row, as in the legend of the charts.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    wide: frozenset[int] = frozenset({0})
    marked: int | None = None  # a row to stand out
    marks: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Section:
    """A heading with whatever belongs under it, in the order of these fields; notes are folded under `more`."""

    title: str
    text: Sequence[str] = ()
    table: Table | None = None
    charts: Sequence[Chart] = ()
    exhibits: Sequence[Exhibit] = ()
    facts: Sequence[tuple[str, str]] = ()
    more: str = "How to read this"
    notes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Page:
    title: str
    subtitle: str
    sections: Sequence[Section] = field(default_factory=list)
    figures: Sequence[tuple[str, str]] = ()  # the few numbers on top: (number, what it is)


def render(page: Page) -> str:
    """One HTML document. Raises ConfigError when jinja2, an extra of the package, is missing."""
    try:
        import jinja2
    except ImportError as error:
        raise ConfigError(
            "reports need jinja2, which is not installed; pip install 'shardpress[report]', or run with --no-report"
        ) from error
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = environment.from_string(_text("page.html.j2"))
    raw: Any = environment.filters["safe"]
    return template.render(page=page, footer=_footer(), style=raw(_text("style.css")), script=raw(_text("page.js")))


def _footer() -> str:
    try:
        version = f" {metadata.version('shardpress')}"
    except metadata.PackageNotFoundError:  # a checkout that was never installed
        version = ""
    today = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return f"Made by shardpress{version} on {today}. One file; it asks no network and keeps nothing."


def _text(name: str) -> str:
    return (resources.files("pipeline.report") / "template" / name).read_text(encoding="utf-8")
