"""What the recompression graph does where: each operator from a unit or chunk to the row that it sends on.

learned codec     unit -> [actor pool: read, decode, analyse] -> chunk -> [tasks: encode, verify, commit] -> row
classical codec   unit -> [tasks: read, decode, encode, verify, commit] -> row
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa

from pipeline.archive import PartMeta, Unit
from pipeline.execution import graph
from pipeline.execution.cluster import Resources
from pipeline.execution.guard import attempt
from pipeline.execution.ticket import CarefulSteps, Steps, Ticket, steps_of
from pipeline.records import Outcome
from pipeline.stages.commit import Tally, commit
from pipeline.stages.read import Chunk, read_unit
from pipeline.stages.work import Work, pack, unpack

PATIENCE = 2  # deaths on a machine after which its actors try every image in a child first


def run(units: Sequence[Unit], ticket: Ticket, resources: Resources) -> Iterator[Tally]:
    """Tallies of parts as they are committed; raises what `graph.run` does."""
    tasks, pool = (encode_and_commit, AnalysePool) if ticket.split else (recompress, None)
    for row in graph.run([unit.to_json() for unit in units], ticket, resources, tasks, pool):
        yield Tally(**row)


def recompress(batch: pa.Table, ticket: Ticket) -> Iterator[pa.Table]:
    """Operator of classical codecs: from unit to committed parts."""
    steps = steps_of(ticket)
    for chunk, meta in _chunks(batch, steps):
        if (tally := _done_before(steps, meta)) is None:
            works = [Work(image) for image in chunk.images]
            tally = _finish(works, meta, ticket)
        yield pa.Table.from_pylist([tally.row()])


class AnalysePool:
    """Operator A: an actor that holds the codec; pixels live and die here."""

    def __init__(self, ticket: Ticket) -> None:
        self._ticket, self._steps = ticket, steps_of(ticket)
        self._steps.analyse  # noqa: B018  a codec that cannot be built must fail now, and not once per image

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        for chunk, meta in _chunks(batch, self._steps):
            works: list[Work] = []
            if not self._steps.archive.is_committed(meta.part_id):
                with attempt(self._ticket.run_id, f"{meta.part_id}-a", PATIENCE) as died_before:
                    works = self._works(chunk, died_before)
            yield _chunk_row(meta, works)

    def _works(self, chunk: Chunk, died_before: bool) -> list[Work]:
        if not died_before:
            return list(self._steps.analysed(chunk.images))
        careful = CarefulSteps(self._ticket)
        try:
            return list(careful.analysed(chunk.images))
        finally:
            careful.close()


def encode_and_commit(batch: pa.Table, ticket: Ticket) -> Iterator[pa.Table]:
    """Operator B: entropy coding, verification and fallback hold the GIL, so they get processes."""
    steps = steps_of(ticket)
    for row in batch.select(["meta", "works"]).to_batches():
        for meta_json, works in zip(row.column(0), row.column(1), strict=True):
            meta = PartMeta.from_json(meta_json.as_py())
            tally = _done_before(steps, meta)
            if tally is None:
                tally = _finish(unpack(works.as_buffer()), meta, ticket)
            yield pa.Table.from_pylist([tally.row()])


def _chunks(batch: pa.Table, steps: Steps) -> Iterator[tuple[Chunk, PartMeta]]:
    spec = json.loads(steps.ticket.spec)
    for text in batch.column("unit").to_pylist():
        unit = Unit.from_json(text)
        for chunk in read_unit(steps.ticket.source, unit):
            yield chunk, unit.meta(chunk.number, chunk.last, spec)


def _chunk_row(meta: PartMeta, works: Sequence[Work]) -> pa.Table:
    return pa.table({"meta": pa.array([meta.to_json()]), "works": graph.blob(pack(works))})


def _done_before(steps: Steps, meta: PartMeta) -> Tally | None:
    """The tally of a part that is there already: all of it when this very run wrote it, nothing otherwise."""
    if not steps.archive.is_committed(meta.part_id):
        return None
    return Tally.of_part(steps.archive, meta.part_id, steps.ticket.run_id)


def _finish(works: Sequence[Work], meta: PartMeta, ticket: Ticket) -> Tally:
    steps = steps_of(ticket)
    with attempt(ticket.run_id, f"{meta.part_id}-b") as died_before:
        if not died_before:
            return commit(steps.archive, meta, _outcomes(steps, works), ticket.run_id)
        careful = CarefulSteps(ticket)
        try:
            return commit(steps.archive, meta, _outcomes(careful, works), ticket.run_id)
        finally:
            careful.close()


def _outcomes(steps: Steps | CarefulSteps, works: Iterable[Work]) -> list[Outcome]:
    return [steps.outcome(work) for work in works]
