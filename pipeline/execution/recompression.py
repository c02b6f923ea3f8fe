"""One recompression run, from listing to summary: plan, hold the archive, run the graph, count.

Ray is started only when there is something to do. The source is listed before it, so that a wrong URI is told at
once, and importing torch for the driver's copy of a learned codec overlaps with starting Ray.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pipeline.archive import Archive, RunLock, Unit, create_or_open, plan
from pipeline.codecs.base import Codec, SplitCodec
from pipeline.execution import cluster, flow, machine
from pipeline.execution.cluster import Resources
from pipeline.execution.limits import Limits
from pipeline.execution.telemetry import OFF, Telemetry
from pipeline.execution.ticket import Ticket
from pipeline.sources import Source
from pipeline.stages.commit import Tally
from pipeline.stages.decode import Decode
from pipeline.stages.encode import ORIGINAL, Floor


@dataclass(frozen=True)
class Order:
    """What a run is asked to do. `chain` begins with the codec of the run and ends with `original`."""

    archive_uri: str
    source: Source
    chain: Sequence[Codec]
    floor: Floor = field(default_factory=Floor)
    decode: Decode = field(default_factory=Decode)
    resources: Resources = field(default_factory=Resources)
    limits: Limits = field(default_factory=Limits)
    retry: Sequence[str] = ()
    batch_mpx: float = 2.0
    decode_apart: bool = False
    log: str = OFF
    command: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def spec(self) -> dict[str, Any]:
        """Everything that decides what becomes of an image; part ids are made of it."""
        floor = {"psnr_db": self.floor.psnr_db, "ms_ssim": self.floor.ms_ssim}
        limits = {"pixels": self.decode.pixel_limit, "cmyk": self.decode.allow_cmyk}
        first, *rest = (codec.spec() for codec in self.chain)
        return {"codec": first, "fallback": rest, "floor": floor, "limits": limits}


@dataclass(frozen=True)
class Report:
    """What a run did. `parts` are those it committed; `planned` counts images, or None for shards."""

    archive: Archive
    run_id: str
    total: Tally
    parts: tuple[str, ...]
    listed: int
    planned: int | None
    elapsed_s: float

    def rows(self) -> list[dict[str, Any]]:
        """Metrics rows of this run, sorted by source; reads every part, so ask for few images only."""
        tables = (self.archive.part_metrics(part) for part in self.parts)
        rows = (row for table in tables for row in table.to_pylist() if row["run_id"] == self.run_id)
        return sorted(rows, key=lambda row: str(row["source_uri"]))

    @property
    def rejected_share(self) -> float:
        return self.total.rejected / self.total.images if self.total.images else 0.0


Progress = Callable[[Tally, int | None], None]


def recompress(order: Order, progress: Progress) -> Report:
    """Runs `order`. What was committed before an error or a signal stays committed.

    Raises:
        PipelineError: the source cannot be listed, the archive is held by another run, or the workers failed.
    """
    started = time.monotonic()
    items = order.source.list_items()
    archive = create_or_open(order.archive_uri)
    run_id = new_run_id()
    with archive.run_lock(run_id, order.config) as lock:
        _register(archive, order)
        shards = order.source.items_are_shards
        units = plan(archive, items, order.spec, retry=order.retry, shards=shards)
        planned = None if shards and units else sum(len(unit.items) for unit in units)
        ticket = _ticket(order, archive, run_id)
        lock.counters.update(machine.conditions(order.command) | {"threads": ticket.threads})
        lock.counters.update({"listed": len(items), "planned": planned, "planning_s": _since(started)})
        telemetry = Telemetry(archive, run_id, len(units), order.resources.actors, order.log)
        telemetry.event("run started", listed=len(items), planned=planned, units=len(units))
        progress(Tally(), planned)
        total, parts = Tally(), list[str]()
        with telemetry.fresh():
            for tally in flow.run(units, ticket, order.resources):
                total = total + tally
                parts += [tally.part] if tally.part else []
                telemetry.part(tally, total)
                _tell(lock, total, units, started)
                progress(total, planned)
        _tell(lock, total, units, started)
        telemetry.event("run finished", **lock.counters)
    return Report(archive, run_id, total, tuple(parts), len(items), planned, time.monotonic() - started)


def new_run_id() -> str:
    """Sorts by time; unique beyond it."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:6]}"


def _tell(lock: RunLock, total: Tally, units: Sequence[Unit], started: float) -> None:
    """What runs/<run_id>.json says of the work so far."""
    summary = total.summary()
    lock.counters.update(summary | {"units_done": summary.pop("units"), "units": len(units)})
    lock.counters["elapsed_s"] = _since(started)
    lock.check()


def _since(started: float) -> float:
    return round(time.monotonic() - started, 2)


def _register(archive: Archive, order: Order) -> None:
    """Whatever a reader will need years later: specs, and the weights of every network of the chain."""
    for codec in order.chain:
        if isinstance(codec, SplitCodec):
            _add_weights(archive, codec)
        if codec.name != ORIGINAL:
            archive.add_spec(codec.spec())
    archive.add_spec(order.spec)


def _add_weights(archive: Archive, codec: Any) -> None:
    import hashlib

    reducing = getattr(codec, "reducing", None)
    for data in (codec.weights_bytes()[1], *(reducing.weights_bytes() if reducing else ())):
        archive.add_weights(hashlib.sha256(data).hexdigest(), data)


def _ticket(order: Order, archive: Archive, run_id: str) -> Ticket:
    return Ticket(
        archive_uri=archive.uri,
        run_id=run_id,
        source=order.source,
        spec=json.dumps(order.spec, sort_keys=True),
        chain=tuple(json.dumps(_built_from(codec), sort_keys=True) for codec in order.chain),
        split=isinstance(order.chain[0], SplitCodec),
        decode=order.decode,
        floor=order.floor,
        batch_mpx=order.batch_mpx,
        threads=cluster.threads_per_actor(order.resources),
        apart=order.decode_apart,
        limits=order.limits,
    )


def _built_from(codec: Codec) -> dict[str, Any]:
    """The spec, and the device, which decides nothing about what becomes of an image and so is not part of it."""
    device = getattr(codec, "device", None)
    return codec.spec() | ({"device": device} if device else {})
