"""The one shape of our Ray Data graphs: units in, perhaps an actor pool, tasks, one small row per part on the way back.

    unit -> [tasks before the pool, if asked] -> [actor pool that holds networks] -> chunk -> [tasks] -> row

A row of the dataset is a chunk (a future part), not an image. A generator yields exactly one row for each chunk,
committed before or not: Ray replays a generator whose worker died and drops as many of its outputs as it had seen,
so a replay must not be shorter.
"""

from __future__ import annotations

import logging
import struct
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import pyarrow as pa

from pipeline.errors import PipelineError, StoreUnavailable
from pipeline.execution import cluster, marks
from pipeline.execution.cluster import Resources

# Poison images use up one or two (see `marks`); the rest is for nodes that are taken away in a long night.
MAX_RESTARTS, MAX_RETRIES = 10, 10
_BLOCKS = 4096


class Ticket(Protocol):
    """What travels to the workers, whatever else it holds."""

    @property
    def run_id(self) -> str: ...


Operator = Callable[..., Iterator[pa.Table]]


def run(
    units: Sequence[str],
    ticket: Ticket,
    resources: Resources,
    tasks: Operator,
    pool: type | None = None,
    before: Operator | None = None,
) -> Iterator[dict[str, Any]]:
    """Rows that `tasks(batch, ticket)` makes of `units` (texts), as they come; without units Ray is not started.

    With a `pool`, units go to `pool(ticket)(batch)` in actors first, and tasks take what those yield; `before` are
    tasks whose rows the pool takes instead of units.

    Raises:
        PipelineError: what stopped the run (storage refused, the codec could not be built, workers died too often).
    """
    if not units:
        return
    from ray.exceptions import RayError

    try:
        with cluster.connected(resources), marks.kept(ticket.run_id):
            dataset = _dataset(units, ticket, resources, tasks, pool, before)
            for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
                yield from batch.to_pylist()
    except RayError as error:
        raise _plain(error) from error


def _dataset(
    units: Sequence[str],
    ticket: Ticket,
    resources: Resources,
    tasks: Operator,
    pool: type | None,
    before: Operator | None,
) -> Any:
    import ray.data

    operators: Any = ray.data  # its annotations know no keyword arguments of functions
    _quieten(ray.data.DataContext.get_current())
    dataset = operators.from_items([{"unit": unit} for unit in units], override_num_blocks=min(len(units), _BLOCKS))
    common: dict[str, Any] = {"batch_size": 1, "batch_format": "pyarrow"}
    of_tasks = common | {"fn_kwargs": {"ticket": ticket}, "max_retries": MAX_RETRIES}
    if resources.task_nodes:
        of_tasks["label_selector"] = dict(resources.task_nodes)
    with warnings.catch_warnings():
        # 2.60 deprecates max_retries and friends as keywords of map_batches and has no other way to bound them.
        warnings.simplefilter("ignore")
        if pool is not None and before is not None:
            dataset = dataset.map_batches(before, **of_tasks)
        if pool is not None:
            dataset = dataset.map_batches(
                pool, **common, fn_constructor_kwargs={"ticket": ticket}, **_actors(resources)
            )
        return dataset.map_batches(tasks, **of_tasks)


def _actors(resources: Resources) -> dict[str, Any]:
    import ray.data

    least, most = resources.actors, max(resources.actors, resources.max_actors or 0)
    return {
        "compute": ray.data.ActorPoolStrategy(min_size=least, max_size=most, max_tasks_in_flight_per_actor=2),
        "num_cpus": resources.cpus_per_actor,
        "num_gpus": resources.num_gpus,
        "resources": {resources.accelerator: 1} if resources.accelerator else None,
        "max_restarts": MAX_RESTARTS,
        "max_task_retries": MAX_RETRIES,
    }


def blob(data: pa.Buffer) -> pa.Array:
    """A column of one large_binary value, without a copy of what may be 100 MB."""
    offsets = pa.py_buffer(struct.pack("=qq", 0, data.size))
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, data])


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
            # Ours are one line; Ray Data writes advice of its own below it.
            return type(at)(f"{str(at).splitlines()[0]}{again if isinstance(at, StoreUnavailable) else ''}")
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
