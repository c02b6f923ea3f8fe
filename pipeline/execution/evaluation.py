"""The evaluation graph: units in, committed result parts out, one small tally per part on the way back.

    learned codecs    unit -> [actor pool: read, decode, encode, decode again, measure] -> chunk -> [tasks: ...]
    classical codecs  ... [tasks: read, decode, encode, decode again, measure, commit] -> tally

As in `flow`, a row of the dataset is a chunk, pixels never cross a process, and a generator yields exactly one row
for each chunk whether it was committed before or not. Learned rows of a chunk travel with its source bytes to the
task that adds the classical ones and commits them together.
"""

from __future__ import annotations

import functools
import json
import os
import struct
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipeline.archive import RunLock, results
from pipeline.archive.results import RESULTS_SCHEMA, ResultMeta, Setting
from pipeline.codecs.base import Codec
from pipeline.errors import PipelineError
from pipeline.execution import cluster, flow, guard, machine
from pipeline.execution.cluster import Resources
from pipeline.execution.recompression import new_run_id
from pipeline.records import REJECTED, SourceImage
from pipeline.sources import Source
from pipeline.stages import trial
from pipeline.stages.decode import Decode
from pipeline.stages.fidelity import Fidelity
from pipeline.stages.read import chunked
from pipeline.stages.sample import EvaluationUnit, drawn_images, plan
from pipeline.stages.trial import Row, Trial
from pipeline.stages.work import Work, pack, unpack

_ROW_SCHEMA = pa.schema([each for each in RESULTS_SCHEMA if each.name not in ("part", "run_id", "committed_at")])


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
class EvaluationTicket:
    """What travels to the workers; each process builds its codecs from it once."""

    results_uri: str
    run_id: str
    source: Source
    settings: tuple[str, ...]
    decode: Decode
    device: str
    threads: int
    fidelity: Fidelity | None


@dataclass(frozen=True, slots=True)
class Count:
    """Rows and images measured; `rejected` counts images that no codec ever saw."""

    images: int = 0
    rows: int = 0
    rejected: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(self.images + other.images, self.rows + other.rows, self.rejected + other.rejected)


@dataclass(frozen=True)
class EvaluationReport:
    run_id: str
    total: Count
    listed: int
    units: int
    elapsed_s: float


def evaluate(order: EvaluationOrder, progress: Any) -> EvaluationReport:
    """Runs `order`; what was committed before an error or a signal stays, and is not measured again.

    Raises:
        PipelineError: the source cannot be listed, another run holds the results, or the workers failed.
    """
    started, run_id, total = time.monotonic(), new_run_id(), Count()
    items = order.source.list_items()
    with RunLock(order.results_uri, run_id, order.config) as lock:
        lock.counters.update({"command": order.command, "commit": machine.commit(), "machine": machine.described()})
        ids = [setting.setting_id for setting in order.settings]
        done = results.done(order.results_uri)
        shards = order.source.items_are_shards
        units = plan(items, ids, done, shards=shards, sample=order.sample, seed=order.seed)
        settings = {setting.setting_id: setting.to_dict() for setting in order.settings}
        lock.counters.update({"listed": len(items), "units": len(units), "settings": settings})
        ticket = _ticket(order, run_id)
        lock.counters["threads"] = ticket.threads
        for count in _counts(units, ticket, order):
            total = total + count
            progress(total)
            lock.counters.update({"images": total.images, "rows": total.rows, "rejected": total.rejected})
            lock.check()
        lock.counters["elapsed_s"] = round(time.monotonic() - started, 2)
    return EvaluationReport(run_id, total, len(items), len(units), time.monotonic() - started)


def _counts(units: Sequence[EvaluationUnit], ticket: EvaluationTicket, order: EvaluationOrder) -> Iterator[Count]:
    from ray.exceptions import RayError

    if not units:
        return
    with cluster.connected(order.resources):
        try:
            graph = _graph(units, ticket, order)
            for batch in graph.iter_batches(batch_size=None, batch_format="pyarrow"):
                yield from (Count(**row) for row in batch.to_pylist())
        except RayError as error:
            raise flow._plain(error) from error
        finally:
            guard.forget(ticket.run_id)


def _ticket(order: EvaluationOrder, run_id: str) -> EvaluationTicket:
    resources = order.resources
    own = not cluster.inside_cluster()
    threads = cluster.machine_cpus() // resources.actors if own else int(resources.cpus_per_actor)
    texts = tuple(json.dumps(setting.to_dict(), sort_keys=True) for setting in order.settings)
    return EvaluationTicket(
        order.results_uri, run_id, order.source, texts, order.decode, order.device, max(1, threads), order.fidelity
    )


def _graph(units: Sequence[EvaluationUnit], ticket: EvaluationTicket, order: EvaluationOrder) -> Any:
    import ray.data

    operators: Any = ray.data
    flow._quieten(ray.data.DataContext.get_current())
    dataset = operators.from_items(
        [{"unit": unit.to_json()} for unit in units], override_num_blocks=min(len(units), flow._BLOCKS)
    )
    resources, common = order.resources, {"batch_size": 1, "batch_format": "pyarrow"}
    tasks: dict[str, Any] = {**common, "fn_kwargs": {"ticket": ticket}, "max_retries": flow.MAX_RETRIES}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as in `flow`: 2.60 deprecates the only way to bound retries
        if not any(is_learned(setting) for setting in order.settings):
            return dataset.map_batches(measure_unit, **tasks)
        chunks = dataset.map_batches(
            LearnedPool,
            **common,
            fn_constructor_kwargs={"ticket": ticket},
            compute=ray.data.ActorPoolStrategy(size=resources.actors, max_tasks_in_flight_per_actor=2),
            num_cpus=resources.cpus_per_actor,
            num_gpus=resources.num_gpus,
            max_restarts=flow.MAX_RESTARTS,
            max_task_retries=flow.MAX_RETRIES,
        )
        return chunks.map_batches(measure_chunk, **tasks)


def is_learned(setting: Setting) -> bool:
    """Whether a setting's codec holds a network, and so belongs into the actor pool."""
    return setting.spec.get("model") is not None


class Bench:
    """The trials of one ticket in one process: learned or classical settings, built when first needed."""

    def __init__(self, ticket: EvaluationTicket, learned: bool) -> None:
        self.ticket = ticket
        settings = [Setting(**json.loads(text)) for text in ticket.settings]
        chosen = [setting for setting in settings if is_learned(setting) == learned]
        # OpenMP reads its thread count once, when torch is imported, and Ray has set it to the CPUs of the task.
        os.environ["OMP_NUM_THREADS"] = str(ticket.threads)
        codecs: list[Codec] = trial.built([setting.spec for setting in chosen], ticket.device)
        task = ticket.fidelity.task(ticket.device if learned else "cpu") if ticket.fidelity and chosen else None
        self._trial = Trial(chosen, codecs, ticket.decode, task)

    def rows(self, images: Sequence[SourceImage], meta: ResultMeta) -> list[Row]:
        wanted = frozenset(meta.settings)
        found: list[Row] = []
        for image in images:
            with guard.attempt(self.ticket.run_id, f"{meta.part_id}-{image.image_id}") as died_before:
                found += self._trial.crashed(image, wanted) if died_before else self._trial(image, wanted)
        return found


@functools.lru_cache(maxsize=2)
def _bench(ticket: EvaluationTicket, learned: bool) -> Bench:
    return Bench(ticket, learned)


class LearnedPool:
    """The operator of learned codecs: an actor that holds their networks.

    They are built at the first call: what goes wrong in a constructor reaches the driver without its message.
    """

    def __init__(self, ticket: EvaluationTicket) -> None:
        self._ticket = ticket

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        for images, meta in _chunks(batch, self._ticket):
            committed = results.is_committed(self._ticket.results_uri, meta.part_id)
            rows = [] if committed else _bench(self._ticket, learned=True).rows(images, meta)
            works = [] if committed else [Work(image) for image in images]
            yield _chunk_row(meta, works, rows)


def measure_unit(batch: pa.Table, ticket: EvaluationTicket) -> Iterator[pa.Table]:
    """Operator of classical codecs alone: from unit to committed parts."""
    for images, meta in _chunks(batch, ticket):
        yield _finished(images, meta, [], ticket)


def measure_chunk(batch: pa.Table, ticket: EvaluationTicket) -> Iterator[pa.Table]:
    """Operator after the pool: classical rows beside the learned ones, then the commit."""
    for row in batch.to_batches():
        columns = (row.column(name) for name in ("meta", "works", "rows"))
        for meta_json, works, learned in zip(*columns, strict=True):
            meta = ResultMeta.from_json(meta_json.as_py())
            images = [work.source for work in unpack(works.as_buffer())]
            rows = pa.ipc.open_stream(learned.as_buffer()).read_all().to_pylist()
            yield _finished(images, meta, rows, ticket)


def _finished(
    images: Sequence[SourceImage], meta: ResultMeta, learned: Sequence[Row], ticket: EvaluationTicket
) -> pa.Table:
    if results.is_committed(ticket.results_uri, meta.part_id):
        return _count_row(Count())
    rows = [*learned, *_bench(ticket, learned=False).rows(images, meta)]
    rows.sort(key=lambda row: str(row["source_uri"]))
    results.commit(ticket.results_uri, meta, rows, ticket.run_id)
    seen = {row["image_id"] for row in rows if row["status"] != REJECTED}
    return _count_row(Count(len(images), len(rows), len(images) - len(seen)))


def _chunks(batch: pa.Table, ticket: EvaluationTicket) -> Iterator[tuple[list[SourceImage], ResultMeta]]:
    for text in batch.column("unit").to_pylist():
        unit = EvaluationUnit.from_json(text)
        for chunk in chunked(_images(ticket.source, unit)):
            yield chunk.images, unit.meta(chunk.number, chunk.last)


def _images(source: Source, unit: EvaluationUnit) -> Iterator[SourceImage]:
    try:
        images = source.images(unit.items)
        yield from images if unit.quota is None else drawn_images(images, unit.quota)
    except (PipelineError, OSError) as error:
        raise PipelineError(f"{unit.items[0].uri}: {error}; run the same command again to resume") from error


def _chunk_row(meta: ResultMeta, works: Sequence[Work], rows: Sequence[Row]) -> pa.Table:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, _ROW_SCHEMA) as writer:
        writer.write_table(pa.Table.from_pylist(list(rows), schema=_ROW_SCHEMA))
    columns = {"works": _blob(pack(works)), "rows": _blob(sink.getvalue())}
    return pa.table({"meta": pa.array([meta.to_json()]), **columns})


def _blob(data: pa.Buffer) -> pa.Array:
    offsets = pa.py_buffer(struct.pack("=qq", 0, data.size))
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, data])


def _count_row(count: Count) -> pa.Table:
    return pa.table({"images": [count.images], "rows": [count.rows], "rejected": [count.rejected]})
