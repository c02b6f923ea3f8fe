"""Ray, quickly and quietly: join the cluster this process runs in, or start a small one on this machine.

Minimum actors x CPUs + 1 must fit, or Ray Data waits for ever without a word; so it is checked before anything
is scheduled.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import ConfigError, PipelineError

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # C++ lines such as ray#53727 for every actor pool
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_COLOR_PREFIX": "0",  # of the few lines it prints all the same, terminal or not
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_worker_niceness": "0",  # 15 unless told: whoever wants a polite job can say `nice`
}

# Ray listens on all interfaces unless it believes to be where firewalls ask about that; it reads this when imported.
_LOOPBACK = ("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")


@dataclass(frozen=True)
class Resources:
    """What the graph may use, and where. `cpus` and `object_store_mb` count only when Ray is started here.

    max_actors   the pool grows up to this while there is room; None keeps it at `actors`.
    accelerator  a custom Ray resource of which each actor takes one, for devices that are not GPUs to Ray.
    task_nodes   labels of the nodes that tasks may run on; anywhere when empty.
    wait_s       how long to wait for nodes that an autoscaler has to bring.
    """

    actors: int = 1
    num_gpus: float = 0
    cpus_per_actor: float = 1
    cpus: int | None = None
    object_store_mb: int = 512
    max_actors: int | None = None
    accelerator: str | None = None
    task_nodes: Mapping[str, str] = field(default_factory=dict)
    wait_s: float = 0


def machine_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def inside_cluster() -> bool:
    """Whether this process was started by `ray job submit`, or told of a cluster by RAY_ADDRESS."""
    return bool(os.environ.get("RAY_ADDRESS"))


def threads_per_actor(resources: Resources) -> int:
    """Of a network on a CPU: an even share of this machine, or in a cluster the CPUs that each actor was given."""
    threads = int(resources.cpus_per_actor) if inside_cluster() else machine_cpus() // resources.actors
    return max(1, threads)


def require_shared(key: str, uri: str) -> None:
    """Raises ConfigError for a path that means another place on every node of a cluster."""
    if inside_cluster() and "://" not in uri and not os.path.isabs(uri):
        raise ConfigError(
            f"{key} is {uri!r}, which a job inside a Ray cluster would look for in its own copy of the working "
            "directory; give s3://... or the absolute path of a folder that every node shares"
        )


@contextmanager
def connected(resources: Resources) -> Iterator[None]:
    """Ray for the length of a job: what is already connected, else the cluster around us, else one of our own.

    Raises:
        ConfigError: the actor pool and one task beside it do not fit.
        PipelineError: Ray does not start or cannot be reached.
    """
    if not inside_cluster():
        os.environ.setdefault(*_LOOPBACK)
    import ray

    ours = not ray.is_initialized()
    if ours:
        _connect(resources)
    try:
        require_capacity(resources)
        yield
    finally:
        if ours:
            ray.shutdown()


def _connect(resources: Resources) -> None:
    import ray

    loading = threading.Thread(target=_import_ray_data, daemon=True)  # 0.6 s that need not wait for 2-6 s of ray.init
    loading.start()
    warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
    try:
        with _sigterm_kept():
            if inside_cluster():
                ray.init(address=os.environ["RAY_ADDRESS"], logging_level=logging.ERROR, log_to_driver=False)
            else:
                _start_here(resources)
    except Exception as error:  # bare Exception is what Ray raises when it does not start in time
        where = "the cluster at RAY_ADDRESS" if inside_cluster() else "a local Ray"
        raise PipelineError(f"{where} could not be reached or started: {' '.join(str(error).split())}") from error
    finally:
        loading.join()


@contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Ray's C++ half takes SIGTERM for itself, and the run would die without a word in its record."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def _start_here(resources: Resources) -> None:
    import ray

    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    # A token that an earlier `ray start` left in the home directory must not lock this private instance.
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    with _stderr_closed():
        ray.init(
            address="local",
            num_cpus=local_cpus(resources),
            num_gpus=_local_gpus(resources),
            object_store_memory=_object_store_bytes(resources.object_store_mb),
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )


@contextmanager
def _stderr_closed() -> Iterator[None]:
    """Ray's C++ half says on stderr that it was told to say nothing; what goes wrong comes as an exception."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def local_cpus(resources: Resources) -> int:
    """CPUs of a Ray of our own. They are bookkeeping: two let the pool and a task share a one-core machine."""
    return resources.cpus or max(2, machine_cpus())


def _local_gpus(resources: Resources) -> int | None:
    return None if resources.num_gpus else 0  # None: let Ray look for them


def _object_store_bytes(wanted_mb: int) -> int:
    """At most half of free shared memory; Ray refuses less than 75 MiB."""
    wanted = wanted_mb << 20
    if os.path.isdir("/dev/shm"):
        wanted = min(wanted, shutil.disk_usage("/dev/shm").free // 2)
    return max(wanted, 80 << 20)


def require_capacity(resources: Resources) -> None:
    """Raises ConfigError unless all actors and one more CPU for the tasks beside them fit, after `wait_s` at most."""
    deadline = time.monotonic() + resources.wait_s
    while (complaint := _shortage(resources)) is not None:
        if time.monotonic() >= deadline:
            raise ConfigError(complaint)
        _ask_autoscaler(resources)
        time.sleep(min(2.0, resources.wait_s))


def _shortage(resources: Resources) -> str | None:
    """What the cluster lacks right now, as a sentence."""
    import ray

    have, actors = ray.cluster_resources(), resources.actors
    cpus = have.get("CPU", 0)
    if (needed := actors * resources.cpus_per_actor + 1) > cpus:
        return (
            f"resources: {actors} actors x {resources.cpus_per_actor:g} CPUs + 1 for tasks need {needed:g} CPUs, "
            f"Ray has {cpus:g}; lower resources.actors or resources.cpus_per_actor, or add nodes"
        )
    if (needed := actors * resources.num_gpus) > (gpus := have.get("GPU", 0)):
        return (
            f"resources: {actors} actors x {resources.num_gpus:g} GPUs need {needed:g}, Ray has {gpus:g}; "
            "lower resources.actors, set resources.num_gpus=0, or add nodes"
        )
    if resources.accelerator and actors > (found := have.get(resources.accelerator, 0)):
        return (
            f"resources: {actors} actors need {actors} of the resource {resources.accelerator!r}, Ray has {found:g}; "
            "lower resources.actors, or start nodes with `ray start --resources`"
        )
    if resources.task_nodes and not any(_takes_tasks(node, resources.task_nodes) for node in ray.nodes()):
        labels = ",".join(f"{name}={value}" for name, value in resources.task_nodes.items())
        return (
            f"resources.task_nodes: no node with a CPU has the labels {labels}; start some with "
            f"`ray start --labels {labels}`, or leave task_nodes out"
        )
    return None


def _takes_tasks(node: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    return bool(node["Alive"]) and node["Resources"].get("CPU", 0) >= 1 and labels.items() <= node["Labels"].items()


def _ask_autoscaler(resources: Resources) -> None:
    """Actors ask for their nodes only once they exist; a cluster scaled to nothing must be told before."""
    from ray.autoscaler.sdk import request_resources

    bundle = {"CPU": resources.cpus_per_actor, "GPU": resources.num_gpus}
    bundle |= {resources.accelerator: 1} if resources.accelerator else {}
    request_resources(bundles=[{name: n for name, n in bundle.items() if n}] * resources.actors + [{"CPU": 1}])


def _import_ray_data() -> None:
    import ray.data  # noqa: F401
