"""One evaluation run, from listing to summary: what is not measured yet is planned, measured and counted."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.archive import RunLock, results
from pipeline.archive.results import Setting
from pipeline.execution import cluster, machine, measuring
from pipeline.execution.cluster import Resources
from pipeline.execution.measuring import Count, MeasuringTicket
from pipeline.execution.recompression import new_run_id
from pipeline.sources import Source
from pipeline.stages.decode import Decode
from pipeline.stages.fidelity import Fidelity
from pipeline.stages.sample import images_in, plan


@dataclass(frozen=True)
class EvaluationOrder:
    """What an evaluation is asked to do. `sample` None takes every image."""

    results_uri: str
    source: Source
    settings: tuple[Setting, ...]
    decode: Decode = field(default_factory=Decode)
    resources: Resources = field(default_factory=Resources)
    sample: int | None = None
    seed: int = 0
    device: str = "auto"
    fidelity: Fidelity | None = None
    command: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EvaluationReport:
    run_id: str
    total: Count
    listed: int
    units: int
    elapsed_s: float


def evaluate(order: EvaluationOrder, progress: Callable[[Count, int | None], None]) -> EvaluationReport:
    """Runs `order`; what was committed before an error or a signal stays, and is not measured again.

    Args:
        progress: called with what is counted so far and how many images there will be, None when shards hide it.

    Raises:
        PipelineError: the source cannot be listed, another run holds the results, or the workers failed.
    """
    started, run_id, total = time.monotonic(), new_run_id(), Count()
    items = order.source.list_items()
    with RunLock(order.results_uri, run_id, order.config) as lock:
        settings = {setting.setting_id: setting for setting in order.settings}
        done = results.done(order.results_uri)
        shards = order.source.items_are_shards
        units = plan(items, list(settings), done, shards=shards, sample=order.sample, seed=order.seed)
        ticket = _ticket(order, run_id)
        lock.counters.update(machine.conditions(order.command) | {"threads": ticket.threads})
        lock.counters.update({"listed": len(items), "units": len(units)})
        lock.counters["settings"] = {name: setting.to_dict() for name, setting in settings.items()}
        planned = images_in(units, shards)
        progress(total, planned)
        for count in measuring.run(units, ticket, order.resources):
            total = total + count
            progress(total, planned)
            lock.counters.update({"images": total.images, "rows": total.rows, "rejected": total.rejected})
            lock.check()
        lock.counters["elapsed_s"] = round(time.monotonic() - started, 2)
    return EvaluationReport(run_id, total, len(items), len(units), time.monotonic() - started)


def _ticket(order: EvaluationOrder, run_id: str) -> MeasuringTicket:
    return MeasuringTicket(
        results_uri=order.results_uri,
        run_id=run_id,
        source=order.source,
        settings=tuple(json.dumps(setting.to_dict(), sort_keys=True) for setting in order.settings),
        decode=order.decode,
        device=order.device,
        threads=cluster.threads_per_actor(order.resources),
        fidelity=order.fidelity,
    )
