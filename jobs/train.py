"""Fit the learned codec on photos and export it: `OUT/<model id>.safetensors`, ready to use or to ship.

Run it again to go on where it stopped. `pipeline/training/LOG.md` says how the packaged model was made.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs import cli
from pipeline.config import TrainConfig, load

if TYPE_CHECKING:
    from pipeline.training.loop import Trainer


RECIPE = ("lr", "matrix_lr_scale", "batch", "crop_px", "large_crop_px", "large_from", "ema_decay", "seed", "init_from")
"""What a model's card says of its run, beside time and data."""


def train(
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[key=value ...]", show_default=False)] = None,
    config: Annotated[str | None, typer.Option(help="YAML file; see configs/train/.")] = None,
    data: Annotated[str | None, typer.Option(help="Folder of photos or tar shards.")] = None,
    out: Annotated[str | None, typer.Option(help="Folder for checkpoint, log and model.")] = None,
    export_only: Annotated[bool, typer.Option(help="Export the checkpoint in OUT as it is.")] = False,
) -> int:
    """Train a codec, or go on with a run that was stopped, and export the model.

    Keys are those of the config, e.g. run.steps=2000 run.model.width=64.
    """
    flags = {"data.uri": data, "out": out}
    settings = load(TrainConfig, config, overrides or [], {name: flag for name, flag in flags.items() if flag})
    trainer, photos = _trainer(settings)
    started = time.monotonic()
    if not export_only:
        with _logging(Path(settings.out)) as log:
            trainer.run(log)
    path = _export(settings, trainer, photos)
    minutes, elapsed_s = trainer.elapsed_s / 60, time.monotonic() - started
    print(f"{path}: step {trainer.step}, {minutes:.1f} minutes of training in all, {elapsed_s:.0f} s in this run")
    return cli.OK


def _trainer(settings: TrainConfig) -> tuple[Trainer, list[Any]]:
    import torch

    from pipeline.training.data import load_photos
    from pipeline.training.loop import Trainer

    if settings.threads:
        torch.set_num_threads(settings.threads)
    device = settings.device if settings.device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    photos = load_photos(settings.data.uri)
    return Trainer(settings.run, photos, Path(settings.out), device), photos


@contextlib.contextmanager
def _logging(out: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Every record as a line of OUT/log.jsonl and on the terminal."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / "log.jsonl").open("a") as file:

        def log(record: dict[str, Any]) -> None:
            line = json.dumps(record)
            file.write(line + "\n")
            file.flush()
            print(line, flush=True)

        yield log


def _export(settings: TrainConfig, trainer: Trainer, photos: list[Any]) -> Path:
    from pipeline.training.export import export

    card = {
        "name": settings.name,
        "made": datetime.now(UTC).strftime("%Y-%m-%d"),
        "steps": trainer.step,
        "training_minutes": round(trainer.elapsed_s / 60, 1),
        "photos": len(photos),
        "megapixels": round(sum(p.shape[0] * p.shape[1] for p in photos) / 1e6, 1),
        "device": str(trainer.device),
        "recipe": {name: getattr(settings.run, name) for name in RECIPE},
    }
    data = export(settings.run.model, trainer.ema.weights, photos[: settings.calibration_photos], card)
    path = Path(settings.out) / f"{hashlib.sha256(data).hexdigest()[:16]}.safetensors"
    path.write_bytes(data)
    return path


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run_command(train, argv, "python -m jobs.train")


if __name__ == "__main__":
    raise SystemExit(main())
