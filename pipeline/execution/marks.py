"""Marks of attempts: which chunk was being worked on, where, when its process or its node died.

One small actor beside the driver keeps them, so that every node sees what happened on the others, and they end with
the run. When a process dies and its node lives, the chunk it worked on is to blame; a node that vanishes proves
nothing about its chunks until that has happened to one of them twice.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any


class Marks:
    """Attempts that began and never ended, by key. `alive` gives the ids of the nodes that live."""

    def __init__(self, alive: Callable[[], Collection[str]] | None = None) -> None:
        self._alive = alive or _nodes_alive
        self._at_work: dict[str, str] = {}
        self._lost: dict[str, list[str]] = {}

    def begin(self, key: str, node: str, patience: int | None = None) -> bool:
        """Marks `key` as being worked on at `node`; True when work on it must be done with care.

        With `patience`, also True for every key once so many were deadly: an actor has few lives, and none to waste.
        """
        if key in self._at_work:
            self._lost.setdefault(key, []).append(self._at_work[key])
        self._at_work[key] = node
        if not self._lost:
            return False
        alive = self._alive()
        deadly = [each for each, nodes in self._lost.items() if len(nodes) > 1 or nodes[0] in alive]
        return key in deadly or (patience is not None and len(deadly) >= patience)

    def end(self, key: str) -> None:
        self._at_work.pop(key, None)


@contextmanager
def kept(run_id: str) -> Iterator[None]:
    """Marks for the length of a run, on the driver's node. Ray must be connected."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    remote: Any = ray.remote(Marks)
    keeper = remote.options(name=_name(run_id), num_cpus=0, scheduling_strategy=here).remote()
    ray.get(keeper.__ray_ready__.remote())
    try:
        yield
    finally:
        ray.kill(keeper)


@contextmanager
def attempt(run_id: str, key: str, patience: int | None = None) -> Iterator[bool]:
    """Marks `key` while the block runs; yields whether an earlier attempt died of it. On a worker of the run."""
    import ray

    keeper: Any = ray.get_actor(_name(run_id))
    careful = ray.get(keeper.begin.remote(key, here(), patience))
    try:
        yield bool(careful)
    finally:
        ray.get(keeper.end.remote(key))


def here() -> str:
    """The id of the node that this worker runs on."""
    import ray

    return str(ray.get_runtime_context().get_node_id())


def _nodes_alive() -> Collection[str]:
    import ray

    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def _name(run_id: str) -> str:
    return f"shardpress-marks-{run_id}"
