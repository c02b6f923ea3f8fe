"""The same small work over many items, in processes that Ray starts; in this process while that is quicker.

Answers come in the order of the items, whatever finished first, so a spread run and a plain loop print the same.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from pipeline.errors import PipelineError
from pipeline.execution import cluster
from pipeline.execution.cluster import Resources

T = TypeVar("T")
R = TypeVar("R")
# Starting Ray takes some seconds, about as long as a few parts.
FEW = 8
AHEAD = 2
MAX_RETRIES = 3


def spread(work: Callable[[T], R], items: Sequence[T], resources: Resources | None = None) -> Iterator[R]:
    """`work(item)` of each item, in order. `work` and its answers travel: both must be plain data.

    Raises:
        PipelineError: as `work` raised it, or because a worker died `MAX_RETRIES` times over one item.
    """
    if not items or (not cluster.inside_cluster() and (len(items) < FEW or cluster.machine_cpus() == 1)):
        yield from map(work, items)
        return
    with cluster.connected(resources or Resources()):
        yield from _remote(work, items)


def _remote(work: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    import ray

    remote: Any = ray.remote(num_cpus=1, max_retries=MAX_RETRIES)(_call)
    at_once = AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))
    flying: deque[Any] = deque()
    for item in items:
        if len(flying) >= at_once:
            yield _answer(flying.popleft())
        flying.append(remote.remote(work, item))
    while flying:
        yield _answer(flying.popleft())


def _call(work: Callable[[T], R], item: T) -> R:
    return work(item)


def _answer(reference: Any) -> Any:
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        return ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, PipelineError):
            raise type(error.cause)(str(error.cause)) from error
        raise PipelineError(f"a worker failed: {type(error.cause).__name__}: {error.cause}") from error
    except RayError as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise PipelineError(f"a worker died: {said[0]}; run the same command again") from error
