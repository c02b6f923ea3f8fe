"""The graph of a recompression: units in, committed parts out, the tally of each on the way back.

    learned codec     unit -> [actor pool: read, decode, analyse] -> chunk -> [tasks: encode, verify, commit] -> tally
    decoding apart    unit -> [tasks: read, decode] -> chunk -> [actor pool: analyse] -> chunk -> [tasks: ...] -> tally
    classical codec   unit -> [tasks: read, decode, encode, verify, commit] -> tally

Pixels cross processes only where decoding is apart from analysis, which spares the CPUs beside an accelerator.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa

from pipeline.archive import PartMeta, Unit
from pipeline.execution import graph
from pipeline.execution.cluster import Resources
from pipeline.execution.marks import attempt, here
from pipeline.execution.ticket import CarefulSteps, Steps, Ticket, steps_of
from pipeline.stages.commit import Tally, commit, committed_before
from pipeline.stages.read import Chunk, read_unit
from pipeline.stages.trace import READ, Trace
from pipeline.stages.work import Work, pack, unpack

PATIENCE = 2  # deadly chunks after which actors try every image in a child first
# A chunk is 16 MiB of source bytes, which is about this much of decoded photos. What exceeds it is decoded by the pool.
PIXEL_BYTES = 256 << 20


def run(units: Sequence[Unit], ticket: Ticket, resources: Resources) -> Iterator[Tally]:
    """Tallies of parts as they are committed; raises PipelineError as `graph.run` does."""
    texts = [unit.to_json() for unit in units]
    if ticket.split:
        before = read_and_decode if ticket.apart else None
        rows = graph.run(texts, ticket, resources, encode_and_commit, AnalysePool, before)
    else:
        rows = graph.run(texts, ticket, resources, recompress)
    return (Tally.from_json(row["tally"]) for row in rows)


def recompress(batch: pa.Table, ticket: Ticket) -> Iterator[pa.Table]:
    """Operator of classical codecs: from unit to committed parts."""
    steps = steps_of(ticket)
    for chunk, meta, trace in _chunks(batch, steps):
        if (tally := _done_before(steps, meta)) is None:
            tally = _finish([Work(image) for image in chunk.images], meta, ticket, trace)
        yield _tally_row(tally)


def read_and_decode(batch: pa.Table, ticket: Ticket) -> Iterator[pa.Table]:
    """Operator before the pool where decoding is apart: from unit to chunks with pixels."""
    steps = steps_of(ticket)
    for chunk, meta, trace in _chunks(batch, steps):
        works: list[Work] = []
        if not steps.archive.is_committed(meta.part_id):
            with attempt(ticket.run_id, f"{meta.part_id}-d") as died_before, _chosen(ticket, died_before) as chosen:
                works = [chosen.decoded(Work(image), trace) for image in chunk.images]
        yield _chunk_row(meta, works, trace, PIXEL_BYTES)


class AnalysePool:
    """Operator A: an actor that holds the codec; pixels end here."""

    def __init__(self, ticket: Ticket) -> None:
        self._ticket, self._steps = ticket, steps_of(ticket)
        self._steps.analyse  # noqa: B018  a codec that cannot be built must fail now, and not once per image

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        for works, meta, trace in self._arriving(batch):
            analysed: list[Work] = []
            if not self._steps.archive.is_committed(meta.part_id):
                mark = attempt(self._ticket.run_id, f"{meta.part_id}-a", PATIENCE)
                with mark as died_before, _chosen(self._ticket, died_before) as chosen:
                    analysed = list(chosen.analysed(works, trace))
            yield _chunk_row(meta, analysed, trace)

    def _arriving(self, batch: pa.Table) -> Iterator[tuple[list[Work], PartMeta, Trace]]:
        if self._ticket.apart:
            yield from _received(batch)
        else:
            for chunk, meta, trace in _chunks(batch, self._steps):
                yield [Work(image) for image in chunk.images], meta, trace


def encode_and_commit(batch: pa.Table, ticket: Ticket) -> Iterator[pa.Table]:
    """Operator B: coding, verification and fallback, of which most hold the GIL, so they get processes."""
    steps = steps_of(ticket)
    for works, meta, trace in _received(batch):
        tally = _done_before(steps, meta)
        yield _tally_row(_finish(works, meta, ticket, trace) if tally is None else tally)


def _chunks(batch: pa.Table, steps: Steps) -> Iterator[tuple[Chunk, PartMeta, Trace]]:
    spec, node = json.loads(steps.ticket.spec), here()
    for text in batch.column("unit").to_pylist():
        unit = Unit.from_json(text)
        source = read_unit(steps.ticket.source, unit)
        while True:
            trace = Trace(node)
            with trace.timed(READ):
                chunk = next(source, None)
            if chunk is None:
                break
            yield chunk, unit.meta(chunk.number, chunk.last, spec), trace


def _chunk_row(meta: PartMeta, works: Sequence[Work], trace: Trace, pixel_bytes: int = 0) -> pa.Table:
    works_blob = graph.blob(pack(works, pixel_bytes))
    return pa.table({"meta": [meta.to_json()], "trace": [trace.to_json()], "works": works_blob})


def _received(batch: pa.Table) -> Iterator[tuple[list[Work], PartMeta, Trace]]:
    """What `_chunk_row` sent, one chunk after the other."""
    node = here()
    for row in batch.select(["meta", "trace", "works"]).to_batches():
        for meta, trace, works in zip(row.column(0), row.column(1), row.column(2), strict=True):
            yield unpack(works.as_buffer()), PartMeta.from_json(meta.as_py()), Trace.from_json(trace.as_py(), node)


def _tally_row(tally: Tally) -> pa.Table:
    return pa.table({"tally": [tally.to_json()]})


def _done_before(steps: Steps, meta: PartMeta) -> Tally | None:
    if not steps.archive.is_committed(meta.part_id):
        return None
    return committed_before(steps.archive, meta, steps.ticket.run_id)


def _finish(works: Sequence[Work], meta: PartMeta, ticket: Ticket, trace: Trace) -> Tally:
    with attempt(ticket.run_id, f"{meta.part_id}-b") as died_before, _chosen(ticket, died_before) as chosen:
        outcomes = [chosen.outcome(work, trace) for work in works]
        return commit(steps_of(ticket).archive, meta, outcomes, ticket.run_id, trace)


@contextmanager
def _chosen(ticket: Ticket, careful: bool) -> Iterator[Steps | CarefulSteps]:
    """The plain stages, or those that try each image in a child process first."""
    if not careful:
        yield steps_of(ticket)
        return
    steps = CarefulSteps(ticket)
    try:
        yield steps
    finally:
        steps.close()
