"""The Ray Data graph: units in, committed parts out, one small summary row per part on the way back.

    learned codec     unit -> [actor pool: read, decode, analyse] -> chunk -> [tasks: encode, verify, commit] -> row
    classical codec   unit -> [tasks: read, decode, encode, verify, commit] -> row

A row of the dataset is a chunk (a future part), not an image, so pixels never cross a process. A generator yields
exactly one row for each chunk, committed before or not: Ray replays a generator whose worker died and drops as many
of its outputs as it had seen, so a replay must not be shorter.
"""

from __future__ import annotations

import json
import logging
import struct
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from pipeline.archive import PartMeta, Unit
from pipeline.errors import PipelineError, StoreUnavailable
from pipeline.execution.cluster import Resources
from pipeline.execution.guard import attempt
from pipeline.execution.ticket import CarefulSteps, Steps, Ticket, steps_of
from pipeline.records import Outcome
from pipeline.stages.commit import Tally, commit
from pipeline.stages.read import Chunk, read_unit
from pipeline.stages.work import Work, pack, unpack

MAX_RESTARTS, MAX_RETRIES = 3, 3
PATIENCE = 2  # deaths on a machine after which its actors try every image in a child first
_BLOCKS = 4096


def run(units: Sequence[Unit], ticket: Ticket, resources: Resources) -> Iterator[Tally]:
    """Tallies of parts as they are committed. Ray must be connected; see `cluster.connected`.

    Raises:
        PipelineError: what stopped the run (storage refused, the codec could not be built, workers died too often).
    """
    from ray.exceptions import RayError

    try:
        for batch in _graph(units, ticket, resources).iter_batches(batch_size=None, batch_format="pyarrow"):
            for row in batch.to_pylist():
                yield Tally(**row)
    except RayError as error:
        raise _plain(error) from error


def _graph(units: Sequence[Unit], ticket: Ticket, resources: Resources) -> Any:
    import ray.data

    operators: Any = ray.data  # its annotations know no keyword arguments of functions
    _quieten(ray.data.DataContext.get_current())
    rows = [{"unit": unit.to_json()} for unit in units]
    dataset = operators.from_items(rows, override_num_blocks=min(len(rows), _BLOCKS))
    tasks: dict[str, Any] = {
        "batch_size": 1,
        "batch_format": "pyarrow",
        "fn_kwargs": {"ticket": ticket},
        "max_retries": MAX_RETRIES,
    }
    with warnings.catch_warnings():
        # 2.60 deprecates max_retries and friends as keywords of map_batches and has no other way to bound them.
        warnings.simplefilter("ignore")
        if not ticket.split:
            return dataset.map_batches(recompress, **tasks)
        chunks = dataset.map_batches(
            AnalysePool,
            batch_size=1,
            batch_format="pyarrow",
            fn_constructor_kwargs={"ticket": ticket},
            compute=ray.data.ActorPoolStrategy(size=resources.actors, max_tasks_in_flight_per_actor=2),
            num_cpus=resources.cpus_per_actor,
            num_gpus=resources.num_gpus,
            max_restarts=MAX_RESTARTS,
            max_task_retries=MAX_RETRIES,
        )
        return chunks.map_batches(encode_and_commit, **tasks)


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
    data = pack(works)
    offsets = pa.py_buffer(struct.pack("=qq", 0, data.size))
    blob = pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, data])  # no copy of what may be 100 MB
    return pa.table({"meta": pa.array([meta.to_json()]), "works": blob})


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


def _quieten(context: Any) -> None:
    """One chunk per block, so that a part is committed as soon as its chunk is ready; and no chatter."""
    context.target_max_block_size = 1
    context.target_min_block_size = 1
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    for name in ("ray.data", "ray.data._internal"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _plain(error: BaseException) -> PipelineError:
    """What went wrong on a worker as the error it was there, without Ray's wrappings and tracebacks."""
    from ray.exceptions import RayError

    chain = list(_causes(error))
    for at in chain:
        # Ray's own copy of an error is an instance of its class as well, and its text is a traceback.
        if isinstance(at, PipelineError) and not isinstance(at, RayError):
            again = "; what was committed stays, run the same command again to go on"
            return type(at)(f"{at}{again if isinstance(at, StoreUnavailable) else ''}")
    named = [at for at in chain if not type(at).__module__.startswith("ray")] or chain
    lines = [line.strip() for line in str(named[-1]).splitlines() if line.strip()] or ["no message"]
    return PipelineError(f"a worker failed: {type(named[-1]).__name__}: {lines[0]}; run the same command to resume")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """`error` and what caused it, outermost first."""
    seen: set[int] = set()
    at: BaseException | None = error
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        yield at
        at = getattr(at, "cause", None) or at.__cause__ or at.__context__
