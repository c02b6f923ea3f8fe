"""How long, how many nodes, what it costs, and what breaks first: for a million images, and for far more.

    python -m infra.capacity [--costs infra/costs.json] [--cores 400] [--accelerators 8] [--speedup 20] [--write]

Fed by `infra/costs.json`, which `python -m tests.benchmarks.costs` measures on this machine: seconds of CPU by stage,
requests by kind, seconds and memory of planning. Stages run beside each other, so the slowest pool sets the pace. What
was not measured here is an assumption with a flag: the size of the cluster, how much faster an accelerator is than
one core, and prices. `--write` puts the tables into CAPACITY.md.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SIZES = (10**6, 10**9, 10**12)
CHUNK_IMAGES, CHUNK_BYTES = 64, 16 << 20  # as in pipeline.archive.parts; a test compares them
# Amazon's documented request rate of one prefix: 3,500 writes a second. All parts of an archive share one.
PUTS_PER_S = 3_500
_BLOCK = re.compile(r"(<!-- printed by infra\.capacity -->\n).*(<!-- end -->)", re.S)


@dataclass(frozen=True)
class Assumptions:
    """What no measurement here can know; each is a flag. Prices are list prices in USD, to be replaced by your own."""

    cores: int = 400  # of all CPU nodes, 8 each
    accelerators: int = 8
    speedup: float = 20.0  # analysis on an accelerator over analysis on one core
    driver_gib: float = 16.0
    core_hour_usd: float = 0.02
    accelerator_hour_usd: float = 0.80
    put_usd_per_1000: float = 0.005  # PUT and LIST
    get_usd_per_1000: float = 0.0004  # GET and HEAD
    gb_month_usd: float = 0.023


@dataclass(frozen=True)
class Forecast:
    """One archive of `images` images, from the first night to the last, and the night after."""

    images: int
    parts: int
    hours: float
    bottleneck: str
    core_hours: float
    accelerator_hours: float
    requests: Mapping[str, float]
    requests_usd: float
    compute_usd: float
    saved_usd_per_month: float
    listing_h: float
    planning_h: float
    planning_requests_usd: float
    driver_gib: float
    parts_per_s: float
    metrics_gb: float


def forecast(costs: Mapping[str, Any], images: int, given: Assumptions) -> Forecast:
    """Linear in images: stages and requests were measured per megapixel, part and image."""
    stages, planning = costs["stages"], costs["planning"]
    per_part = images_per_part(stages)
    parts = -(-images // per_part)
    scale = images / stages["images"]
    cpu_s = {name: seconds * scale for name, seconds in stages["cpu_s"].items()}
    cpu_s["commit"] = stages["cpu_s"]["commit"] * parts  # one commit was measured
    analyse_s = cpu_s.pop("analyse", 0.0) / given.speedup
    times = {f"analyse on {given.accelerators} accelerators": analyse_s / given.accelerators / 3600}
    slowest = max(cpu_s, key=lambda name: cpu_s[name])
    times[f"{slowest} on {given.cores} cores"] = sum(cpu_s.values()) / given.cores / 3600
    bottleneck = max(times, key=lambda name: times[name])
    asked = _requests(costs["requests"], images, parts)
    rows, listed = images / planning["rows"], images / planning["objects"]
    night = planning["plan, nothing new"]
    memory_gib = (night["before_mib"] + (night["peak_mib"] - night["before_mib"]) * rows) / 1024
    return Forecast(
        images=images,
        parts=parts,
        hours=times[bottleneck],
        bottleneck=bottleneck,
        core_hours=sum(cpu_s.values()) / 3600,
        accelerator_hours=analyse_s / 3600,
        requests=asked,
        requests_usd=_price(asked, given),
        compute_usd=sum(cpu_s.values()) / 3600 * given.core_hour_usd + analyse_s / 3600 * given.accelerator_hour_usd,
        saved_usd_per_month=(stages["source_bytes"] - stages["payload_bytes"]) * scale / 1e9 * given.gb_month_usd,
        listing_h=planning["list a bucket"]["elapsed_s"] * listed / 3600,
        planning_h=night["elapsed_s"] * rows / 3600,
        planning_requests_usd=_price({"LIST": (images + parts) / 1000, "GET": parts}, given),
        driver_gib=memory_gib,
        parts_per_s=parts / (times[bottleneck] * 3600),
        metrics_gb=stages["metrics_bytes"] / stages["images"] * images / 1e9,
    )


def images_per_part(stages: Mapping[str, Any]) -> int:
    return max(1, min(CHUNK_IMAGES, int(CHUNK_BYTES // (stages["source_bytes"] / stages["images"]))))


def breaks(found: Forecast, given: Assumptions) -> list[str]:
    """What no longer fits, the first to give way first."""
    writes = 2 * found.parts_per_s
    limits = [
        (found.driver_gib / given.driver_gib, f"the driver's memory: the plan needs {found.driver_gib:,.0f} GiB"),
        (found.planning_h + found.listing_h, f"the plan of a night: {found.planning_h + found.listing_h:,.1f} h"),
        (writes / PUTS_PER_S, f"one prefix: {writes:,.0f} writes/s, S3 takes {PUTS_PER_S:,}"),
    ]
    return [text for share, text in sorted(limits, reverse=True) if share > 1] or ["nothing"]


def _requests(measured: Mapping[str, Mapping[str, float]], images: int, parts: int) -> dict[str, float]:
    """Of a whole archive; listing grows with what is listed, a thousand names an answer."""
    kinds = sorted({kind for counts in measured.values() for kind in counts})
    counts = {"run": 1, "part": parts, "image": images}
    total = {kind: sum(measured[each].get(kind, 0) * n for each, n in counts.items()) for kind in kinds}
    total["LIST"] = total.get("LIST", 0) + images / 1000
    return total


def _price(asked: Mapping[str, float], given: Assumptions) -> float:
    dear = sum(n for kind, n in asked.items() if kind in ("PUT", "POST", "LIST"))
    cheap = sum(n for kind, n in asked.items() if kind in ("GET", "HEAD"))
    return (dear * given.put_usd_per_1000 + cheap * given.get_usd_per_1000) / 1000


def table(costs: Mapping[str, Any], given: Assumptions) -> str:
    """Markdown: a row per question, a column per size, then the conditions of the measurement."""
    found = [forecast(costs, size, given) for size in SIZES]
    rows: list[tuple[str, list[str]]] = [
        ("hours on this cluster", [_number(each.hours) for each in found]),
        ("the slowest pool", [each.bottleneck for each in found]),
        ("core-hours, accelerator-hours", [_pair(each.core_hours, each.accelerator_hours) for each in found]),
        ("nodes of 8 cores, accelerators, to be done in 30 days", [_nodes(each) for each in found]),
        ("compute, USD", [_number(each.compute_usd) for each in found]),
        ("requests: PUT, GET, HEAD, LIST", [_kinds(each) for each in found]),
        ("requests, USD", [_number(each.requests_usd) for each in found]),
        ("saved storage, USD a month", [_number(each.saved_usd_per_month) for each in found]),
        ("parts", [_number(each.parts) for each in found]),
        ("metrics, GB", [_number(each.metrics_gb) for each in found]),
        ("a night without news: hours to list, to plan", [_pair(each.listing_h, each.planning_h) for each in found]),
        ("a night without news: requests, USD", [_number(each.planning_requests_usd) for each in found]),
        ("driver's memory, GiB", [_number(each.driver_gib) for each in found]),
        ("breaks first, then", ["; ".join(breaks(each, given)) for each in found]),
    ]
    heads = ["one archive of", *(f"{size:.0e} images".replace("e+0", "e").replace("e+", "e") for size in SIZES)]
    lines = [heads, ["---", *["---:"] * len(SIZES)], *([name, *cells] for name, cells in rows)]
    stated = [f"- {name.replace('_', ' ')}: {value}" for name, value in costs["conditions"].items()]
    assumed = [f"- {field.name}: {getattr(given, field.name):g}" for field in fields(given)]
    printed = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{printed}\n\nMeasured:\n\n" + "\n".join(stated) + "\n\nAssumed:\n\n" + "\n".join(assumed) + "\n"


def _nodes(found: Forecast) -> str:
    month_h = 30 * 24
    return f"{_number(-(-found.core_hours // (8 * month_h)))}, {_number(-(-found.accelerator_hours // month_h))}"


def _kinds(found: Forecast) -> str:
    return ", ".join(_number(found.requests.get(kind, 0)) for kind in ("PUT", "GET", "HEAD", "LIST"))


def _pair(one: float, other: float) -> str:
    return f"{_number(one)}, {_number(other)}"


def _number(value: float) -> str:
    """Two digits that count: 0.012, 7.5, 340, 1.2e+07."""
    if value >= 1e5:
        return f"{value:.1e}".replace("e+0", "e").replace("e+", "e")
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--costs", type=Path, default=HERE / "costs.json")
    parser.add_argument("--write", action="store_true", help="put the tables into CAPACITY.md")
    for field in fields(Assumptions):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=type(field.default), default=field.default)
    arguments = vars(parser.parse_args(argv))
    costs = json.loads(arguments.pop("costs").read_text())
    write = arguments.pop("write")
    printed = table(costs, Assumptions(**arguments))
    print(printed)
    if write:
        page = HERE / "CAPACITY.md"
        page.write_text(_BLOCK.sub(lambda found: found[1] + "\n" + printed + "\n" + found[2], page.read_text()))


if __name__ == "__main__":
    main()
