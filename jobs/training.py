"""What `jobs.train` does with one run: photos, trainer, progress on the terminal, the exported file and its card."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config import TrainConfig
from pipeline.errors import TrainingError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from pipeline.sources.base import Source
    from pipeline.training.log import Log
    from pipeline.training.loop import Trainer
    from pipeline.training.spec import TrainSpec

RECIPE = (
    "lr", "optimizer", "matrix_lr_scale", "batch", "crop_px", "large_crop_px", "large_from", "ema_decay", "seed",
    "init_from", "quantised",
)  # fmt: skip
"""What a model's card says of its run, beside time and data."""


def sources_of(settings: TrainConfig) -> tuple[Source, Source | None]:
    """Where the photos to train on and those to validate on come from."""
    from jobs.orders import source_of
    from pipeline.sources.open import open_source

    held_out = open_source(settings.data.validation) if settings.data.validation else None
    return source_of(settings.data), held_out


def photos_of(settings: TrainConfig) -> tuple[list[np.ndarray], list[np.ndarray] | None]:
    from pipeline.training.ingest import read_photos

    (source, held_out), limit = sources_of(settings), settings.data.limit_mpx
    held = read_photos(held_out, settings.data.validation or "", limit) if held_out else None
    return read_photos(source, settings.data.uri, limit), held


def trainer_for(settings: TrainConfig, photos: list[np.ndarray], held_out: list[np.ndarray] | None) -> Trainer:
    import torch

    from pipeline.codecs.learned.tiles import pick_device
    from pipeline.training.tasks import trainer_of

    if settings.threads:
        torch.set_num_threads(settings.threads)
    device = str(pick_device(settings.device))
    return trainer_of(settings.run)(settings.run, photos, Path(settings.out), device, held_out)


def fit(settings: TrainConfig, photos: list[np.ndarray], held_out: list[np.ndarray] | None) -> Trainer:
    """Train here, or in workers that Ray Train starts; the trainer at the end of it."""
    from pipeline.training.log import logging

    if settings.workers == 1:
        trainer = trainer_for(settings, photos, held_out)
        with shown() as show, logging(Path(settings.out), show, workers=1, step=trainer.step) as log:
            trainer.run(log)
        return trainer
    from pipeline.execution import training

    training.fit(
        settings.run,
        *sources_of(settings),
        out=settings.out,
        limit_mpx=settings.data.limit_mpx,
        workers=settings.workers,
        gpus_per_worker=settings.gpus_per_worker,
        max_failures=settings.max_failures,
        threads=settings.threads or 1,
    )
    return trainer_for(settings, photos, held_out)


@contextlib.contextmanager
def shown() -> Iterator[Log]:
    """Records on the terminal: a bar with the time left where someone looks at it, else lines of JSON."""
    if not sys.stdout.isatty():
        yield lambda record: print(json.dumps(record), flush=True)
        return
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (BarColumn(), TextColumn("{task.percentage:.1f} %  {task.description}"))
    with Progress(*columns) as progress:
        bar = progress.add_task("starting", total=1.0)

        def show(record: dict[str, Any]) -> None:
            if "eta_s" in record:
                minutes, seconds = divmod(record["eta_s"], 60)
                text = f"step {record['step']}  loss {record['loss']:.3f}  {minutes} min {seconds:02d} s left"
                progress.update(bar, completed=record["progress"], description=text)
            else:
                progress.print(json.dumps(record))

        yield show


def polished(
    spec: TrainSpec, trainer: Trainer, data: bytes, photos: list[np.ndarray], card: dict[str, Any]
) -> tuple[dict[str, Tensor], dict[str, np.ndarray]]:
    """The state of the model with a decoder that knows what is sent, and that decoder in integers.

    `card` is told what that brought.
    """
    from pipeline.codecs.learned import weights
    from pipeline.nn.spec import HyperpriorSpec
    from pipeline.training.polish import polish

    assert isinstance(spec.model, HyperpriorSpec)  # TrainSpec takes polish_steps for no other
    steps, crops = spec.polish_steps, spec.polish_crops
    with shown() as show:
        model, compiled = weights.parse(data), spec.compile
        found = polish(spec.model, trainer.ema.weights, model, photos, steps, crops, compiled=compiled, log=show)
    card["polish"] = {"steps": steps, "crops": crops, "psnr_db": [round(value, 3) for value in found.psnr_db]}
    return found.state, found.arrays


def _recipe(settings: TrainConfig) -> dict[str, Any]:
    """What was asked for; of a file the name is enough, where it lay on one machine is no part of a model."""
    from pipeline.nn.spec import SuperresSpec
    from pipeline.training.spec import AugmentSpec

    recipe = {name: getattr(settings.run, name) for name in RECIPE}
    recipe["init_from"] = recipe["init_from"] and str(recipe["init_from"]).rpartition("/")[2]
    usual = asdict(AugmentSpec())
    recipe["augment"] = {name: x for name, x in asdict(settings.run.augment).items() if x != usual[name]}
    superres = {"degrade": asdict(settings.run.degrade)} if isinstance(settings.run.model, SuperresSpec) else {}
    return recipe | superres


def export(settings: TrainConfig, trainer: Trainer, photos: list[np.ndarray]) -> Path:
    """OUT/<model id>.safetensors. Raises TrainingError when frozen and float model disagree."""
    from pipeline.nn.complexity import work_of
    from pipeline.training.export import export as exported
    from pipeline.training.export import written

    if trainer.step == 0:
        raise TrainingError(f"{settings.out}: has no checkpoint to export; train first, without --export-only")
    card = {
        "name": settings.name,
        "made": datetime.now(UTC).strftime("%Y-%m-%d"),
        "steps": trainer.step,
        "training_minutes": round(trainer.elapsed_s / 60, 1),
        "photos": len(photos),
        "megapixels": round(sum(p.shape[0] * p.shape[1] for p in photos) / 1e6, 1),
        "device": str(trainer.device),
        "recipe": _recipe(settings),
        "kmac_per_px": {name: round(work, 2) for name, work in work_of(trainer.model.cpu().eval()).items()},
        "validation": trainer.validated,
        **trainer.origin,
    }
    calibration = photos[: settings.calibration_photos]
    data = exported(settings.run.model, trainer.ema.weights, calibration, card)
    if settings.run.polish_steps or settings.run.quantised:
        state, arrays = polished(settings.run, trainer, data, photos, card)
        data = exported(settings.run.model, state, calibration, card, arrays)
    return written(Path(settings.out), _refitted(settings, data, photos))


def taught(settings: TrainConfig) -> str:
    """Teaches the model of `run.init_from`, or gives it a context for z, or both; writes OUT/<model id>.safetensors,
    and says what came of it.

    Raises:
        ConfigError: there is no such device.
        TrainingError: there is no such model, or none that can be taught.
    """
    import torch

    from pipeline.codecs.learned import weights
    from pipeline.codecs.learned.tiles import pick_device
    from pipeline.errors import BitstreamError
    from pipeline.training.export import written
    from pipeline.training.loop import file_of
    from pipeline.training.teach import teachable

    if settings.threads:
        torch.set_num_threads(settings.threads)
    pick_device(settings.device)  # before photos are read, as the model below
    name, run = settings.run.init_from, settings.run
    assert name is not None  # TrainSpec takes no steps of 0 without
    try:
        data = Path(file_of(name)).read_bytes()
        teachable(data)
    except (OSError, BitstreamError) as error:
        raise TrainingError(f"init_from {name}: no model that can be taught ({error})") from error
    found = _refitted(settings, data, photos_of(settings)[0])
    card, said = weights.meta_of(found)["card"], f"{written(Path(settings.out), found)}: {name}"
    if run.teach_steps:
        said += f", taught for {run.teach_steps} steps; it knows {card['teach']['known']:.1%} of what its passes found"
    if run.context_steps:
        said += f", with a context for z of {run.context_steps} steps, which saves {card['context']['saved']:.1%} of it"
    return said


def _refitted(settings: TrainConfig, data: bytes, photos: list[np.ndarray]) -> bytes:
    from pipeline.training.refit import refitted

    with shown() as show:
        return refitted(
            data,
            settings.run,
            photos,
            settings.calibration_photos,
            settings.device,
            settings.threads or 1,
            show,
        )
