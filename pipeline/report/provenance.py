"""How the numbers were made: command, versions, machine and date of every run that added to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.report import words
from pipeline.report.page import Section, Table


def section(records: Sequence[Mapping[str, Any]]) -> Section:
    """The last run in full, and all of them in a table where there are several."""
    if not records:
        return Section("How these numbers were made", ["No run records were found beside the results."])
    last = next((r for r in reversed(records) if _counters(r).get("rows") or _counters(r).get("images")), records[-1])
    runs = _runs(records) if len(records) > 1 else None
    return Section("How these numbers were made", table=runs, facts=_facts(last))


def _runs(records: Sequence[Mapping[str, Any]]) -> Table:
    rows = []
    for record in records[-30:]:
        counted = _counters(record)
        cells = (record.get("run_id"), record.get("status"), _minute(record), counted.get("images"))
        rows.append([words.DASH if cell is None else str(cell) for cell in cells])
    return Table(["run", "status", "started, UTC", "images"], rows, frozenset({0, 1, 2}))


def _facts(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    counted, machine = _counters(record), _counters(record).get("machine") or {}
    versions = record.get("versions") or {}
    found = [
        ("Run", str(record.get("run_id"))),
        ("Date", _minute(record) + " UTC"),
        ("Command", str(counted.get("command") or "")),
        ("Commit", str(counted.get("commit") or "")),
        ("Versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
        ("Machine", ", ".join(f"{name}: {value}" for name, value in machine.items())),
        ("Threads", f"{counted['threads']} for learned codecs, 1 for the others" if "threads" in counted else ""),
        ("Host", str(record.get("host") or "")),
    ]
    elapsed = counted.get("elapsed_s")
    if elapsed is not None:
        found.append(("Duration", f"{elapsed:,.0f} s for {counted.get('images')} images"))
    return [(name, value) for name, value in found if value]


def _counters(record: Mapping[str, Any]) -> dict[str, Any]:
    found = record.get("counters")
    return found if isinstance(found, dict) else {}


def _minute(record: Mapping[str, Any]) -> str:
    return str(record.get("started_at", ""))[:16].replace("T", " ")
