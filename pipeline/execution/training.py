"""Training in several processes: Ray Data reads and decodes the photos, Ray Train runs one trainer in each worker.

Every worker holds all photos and takes its slice of each batch (`training.group`). OUT is one folder that all of them
share: when a worker dies, all start again and go on from the checkpoint that lies there, as a run in one process does.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.errors import ConfigError, PipelineError
from pipeline.execution import cluster
from pipeline.execution.cluster import Resources
from pipeline.records import SourceItem
from pipeline.sources.base import Source
from pipeline.training.spec import TrainSpec

_BLOCKS = 64
PHOTOS, HELD_OUT = "photos", "held_out"


def fit(
    spec: TrainSpec,
    source: Source,
    held_out: Source | None,
    *,
    out: str,
    limit_mpx: float,
    workers: int,
    gpus_per_worker: float = 0,
    max_failures: int = 3,
    threads: int = 1,
) -> None:
    """Train until the schedule ends; the result is OUT/checkpoint.pt.

    Raises:
        ConfigError: the workers do not fit, or OUT is no folder that they could share.
        PipelineError: workers died more than `max_failures` times.
    """
    if "://" in out:
        raise ConfigError(f"out is {out}; expected a folder that all {workers} workers share, by its path")
    cluster.require_shared("out", out)
    resources = Resources(
        actors=workers, num_gpus=gpus_per_worker, cpus=None if cluster.inside_cluster() else workers + 1
    )
    settings = {
        "spec": spec, "out": os.path.abspath(out), "limit_mpx": limit_mpx, "threads": threads,
        "device": "cuda" if gpus_per_worker else "cpu", HELD_OUT: held_out is not None,
    }  # fmt: skip
    with cluster.connected(resources):
        datasets = {PHOTOS: _dataset(source)} | ({HELD_OUT: _dataset(held_out)} if held_out else {})
        _run(settings, datasets, workers, gpus_per_worker, max_failures)


def _run(
    settings: dict[str, Any], datasets: dict[str, Any], workers: int, gpus_per_worker: float, max_failures: int
) -> None:
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    trainer = TorchTrainer(
        _work,
        train_loop_config=settings,
        torch_config=TorchConfig(backend="nccl" if gpus_per_worker else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers,
            use_gpu=gpus_per_worker > 0,
            resources_per_worker={"CPU": 1} | ({"GPU": gpus_per_worker} if gpus_per_worker else {}),
        ),
        run_config=ray.train.RunConfig(
            name="ray",
            storage_path=os.path.join(settings["out"], "workers"),
            failure_config=ray.train.FailureConfig(max_failures=max_failures),
        ),
        datasets=datasets,
        dataset_config=ray.train.DataConfig(datasets_to_split=[]),
    )
    try:
        trainer.fit()
    except Exception as error:  # Ray Train wraps what a worker raised in types of its own
        causes = list(_causes(error))
        told = next((cause for cause in causes if type(cause).__module__ == "pipeline.errors"), causes[-1])
        kind = type(told) if isinstance(told, PipelineError) else PipelineError
        raise kind(f"training stopped: {_line(told)}; run the same command again to go on") from error


def _work(settings: dict[str, Any]) -> None:
    """One worker: photos, trainer, and the log where it is the first."""
    import ray.train
    import torch

    from pipeline.training.log import logging
    from pipeline.training.tasks import trainer_of

    torch.set_num_threads(settings["threads"])
    photos = _photos(PHOTOS, settings["limit_mpx"])
    held_out = _photos(HELD_OUT, settings["limit_mpx"]) if settings[HELD_OUT] else None
    spec, out = settings["spec"], Path(settings["out"])
    trainer = trainer_of(spec)(spec, photos, out, settings["device"], held_out)
    context = ray.train.get_context()
    if context.get_world_rank():
        trainer.run(lambda record: None)
        return
    with logging(out, workers=context.get_world_size(), step=trainer.step) as log:
        trainer.run(log)


def _dataset(source: Source) -> Any:
    """Rows of decoded photos: position in the source, sides, pixels."""
    import ray.data

    items = source.list_items()
    operators: Any = ray.data
    rows = [
        {"at": at, "uri": item.uri, "version": item.version, "size": item.size_bytes} for at, item in enumerate(items)
    ]
    dataset = operators.from_items(rows, override_num_blocks=min(len(rows), _BLOCKS))
    return dataset.map_batches(_decoded, batch_size=1, batch_format="pyarrow", fn_kwargs={"source": source})


def _decoded(batch: pa.Table, source: Source) -> Iterator[pa.Table]:
    from pipeline.training.ingest import decoded

    for row in batch.to_pylist():
        item = SourceItem(row["uri"], row["version"], row["size"])
        for k, photo in enumerate(decoded(source.images([item]))):
            yield pa.table(
                {
                    "at": [row["at"]],
                    "k": [k],
                    "height": [photo.shape[0]],
                    "pixels": pa.array([photo.tobytes()], pa.large_binary()),
                }
            )


def _photos(name: str, limit_mpx: float) -> list[np.ndarray]:
    """All photos of a dataset in the order of its source, whatever was decoded first."""
    import ray.train

    from pipeline.training.ingest import nothing_to_train_on, within

    shard: Any = ray.train.get_dataset_shard(name)
    found: dict[tuple[int, int], np.ndarray] = {}
    for row in shard.iter_rows():
        flat = np.frombuffer(row["pixels"], np.uint8)
        found[row["at"], row["k"]] = flat.reshape(row["height"], -1, 3)
    if not found:
        raise nothing_to_train_on(name)
    return list(within((found[key] for key in sorted(found)), limit_mpx))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """What a failure of a worker group holds, outermost first."""
    yield error
    for inner in getattr(error, "worker_failures", {}).values():
        yield from _causes(inner)
    for inner in (getattr(error, "cause", None), error.__cause__):
        if isinstance(inner, BaseException):
            yield from _causes(inner)
            return


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
