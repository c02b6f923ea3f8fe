"""What the evaluation graph does where: each operator from a unit or chunk to the row that it sends on.

    learned codecs    unit -> [actor pool: read, decode, encode, decode again, measure] -> chunk -> [tasks: ...]
    classical codecs  ... [tasks: read, decode, encode, decode again, measure, commit] -> count

Learned rows of a chunk travel with its source bytes to the task that adds the classical ones and commits them
together.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from pipeline.archive import results
from pipeline.archive.results import RESULTS_SCHEMA, ResultMeta, Setting
from pipeline.codecs.base import Codec
from pipeline.execution import graph, marks
from pipeline.execution.cluster import Resources
from pipeline.records import REJECTED, SourceImage
from pipeline.sources import Source
from pipeline.stages import trial
from pipeline.stages.decode import Decode
from pipeline.stages.fidelity import Fidelity
from pipeline.stages.read import chunked, readable
from pipeline.stages.sample import EvaluationUnit, drawn_images
from pipeline.stages.trial import Row, Trial
from pipeline.stages.work import Work, pack, unpack

_ROW_SCHEMA = pa.schema([each for each in RESULTS_SCHEMA if each.name not in ("part", "run_id", "committed_at")])


@dataclass(frozen=True)
class MeasuringTicket:
    """What travels to the workers; each process builds its codecs from it once. `settings` are JSON texts."""

    results_uri: str
    run_id: str
    source: Source
    settings: tuple[str, ...]
    decode: Decode
    device: str
    threads: int
    fidelity: Fidelity | None

    @functools.cached_property
    def parsed(self) -> list[Setting]:
        return [Setting(**json.loads(text)) for text in self.settings]


@dataclass(frozen=True, slots=True)
class Count:
    """Rows and images measured; `rejected` counts images that no codec ever saw."""

    images: int = 0
    rows: int = 0
    rejected: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(self.images + other.images, self.rows + other.rows, self.rejected + other.rejected)


def run(units: Sequence[EvaluationUnit], ticket: MeasuringTicket, resources: Resources) -> Iterator[Count]:
    """Counts of parts as they are committed; raises what `graph.run` does."""
    learned = any(is_learned(setting) for setting in ticket.parsed)
    tasks, pool = (measure_chunk, LearnedPool) if learned else (measure_unit, None)
    for row in graph.run([unit.to_json() for unit in units], ticket, resources, tasks, pool):
        yield Count(**row)


def is_learned(setting: Setting) -> bool:
    """Whether a setting's codec holds a network, and so belongs into the actor pool."""
    return setting.spec.get("model") is not None


class Bench:
    """The trials of one ticket in one process: learned or classical settings, built when first needed."""

    def __init__(self, ticket: MeasuringTicket, learned: bool) -> None:
        self.ticket = ticket
        chosen = [setting for setting in ticket.parsed if is_learned(setting) == learned]
        # OpenMP reads its thread count once, when torch is imported, and Ray has set it to the CPUs of the task.
        os.environ["OMP_NUM_THREADS"] = str(ticket.threads)
        codecs: list[Codec] = trial.built([setting.spec for setting in chosen], ticket.device)
        task = ticket.fidelity.task(ticket.device if learned else "cpu") if ticket.fidelity and chosen else None
        self._trial = Trial(chosen, codecs, ticket.decode, task)

    def rows(self, images: Sequence[SourceImage], meta: ResultMeta) -> list[Row]:
        wanted = frozenset(meta.settings)
        found: list[Row] = []
        for image in images:
            with marks.attempt(self.ticket.run_id, f"{meta.part_id}-{image.image_id}") as died_before:
                found += self._trial.crashed(image, wanted) if died_before else self._trial(image, wanted)
        return found


@functools.lru_cache(maxsize=2)
def _bench(ticket: MeasuringTicket, learned: bool) -> Bench:
    return Bench(ticket, learned)


class LearnedPool:
    """The operator of learned codecs: an actor that holds their networks.

    They are built at the first call: what goes wrong in a constructor reaches the driver without its message.
    """

    def __init__(self, ticket: MeasuringTicket) -> None:
        self._ticket = ticket

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        for images, meta in _chunks(batch, self._ticket):
            committed = results.is_committed(self._ticket.results_uri, meta.part_id)
            rows = [] if committed else _bench(self._ticket, learned=True).rows(images, meta)
            works = [] if committed else [Work(image) for image in images]
            yield _chunk_row(meta, works, rows)


def measure_unit(batch: pa.Table, ticket: MeasuringTicket) -> Iterator[pa.Table]:
    """Operator of classical codecs alone: from unit to committed parts."""
    for images, meta in _chunks(batch, ticket):
        yield _finished(images, meta, [], ticket)


def measure_chunk(batch: pa.Table, ticket: MeasuringTicket) -> Iterator[pa.Table]:
    """Operator after the pool: classical rows beside the learned ones, then the commit."""
    for row in batch.to_batches():
        columns = (row.column(name) for name in ("meta", "works", "rows"))
        for meta_json, works, learned in zip(*columns, strict=True):
            meta = ResultMeta.from_json(meta_json.as_py())
            images = [work.source for work in unpack(works.as_buffer())]
            rows = pa.ipc.open_stream(learned.as_buffer()).read_all().to_pylist()
            yield _finished(images, meta, rows, ticket)


def _finished(
    images: Sequence[SourceImage], meta: ResultMeta, learned: Sequence[Row], ticket: MeasuringTicket
) -> pa.Table:
    if results.is_committed(ticket.results_uri, meta.part_id):
        return _count_row(Count())
    rows = [*learned, *_bench(ticket, learned=False).rows(images, meta)]
    rows.sort(key=lambda row: str(row["source_uri"]))
    results.commit(ticket.results_uri, meta, rows, ticket.run_id)
    seen = {row["image_id"] for row in rows if row["status"] != REJECTED}
    return _count_row(Count(len(images), len(rows), len(images) - len(seen)))


def _chunks(batch: pa.Table, ticket: MeasuringTicket) -> Iterator[tuple[list[SourceImage], ResultMeta]]:
    for text in batch.column("unit").to_pylist():
        unit = EvaluationUnit.from_json(text)
        images = readable(ticket.source, unit.items)
        for chunk in chunked(images if unit.quota is None else drawn_images(images, unit.quota)):
            yield chunk.images, unit.meta(chunk.number, chunk.last)


def _chunk_row(meta: ResultMeta, works: Sequence[Work], rows: Sequence[Row]) -> pa.Table:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, _ROW_SCHEMA) as writer:
        writer.write_table(pa.Table.from_pylist(list(rows), schema=_ROW_SCHEMA))
    columns = {"works": graph.blob(pack(works)), "rows": graph.blob(sink.getvalue())}
    return pa.table({"meta": pa.array([meta.to_json()]), **columns})


def _count_row(count: Count) -> pa.Table:
    return pa.table({"images": [count.images], "rows": [count.rows], "rejected": [count.rejected]})
