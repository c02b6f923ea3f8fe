"""Fit a learned codec or a super-resolver on photos and export it: `OUT/<model id>.safetensors`, ready to use.

Run it again to go on where it stopped. `pipeline/training/LOG.md` says how the packaged model was made.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated

import typer

from jobs import cli
from pipeline.config import TrainConfig, load
from pipeline.errors import ConfigError


def train(
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[key=value ...]", show_default=False)] = None,
    config: Annotated[str | None, typer.Option(help="YAML file; see configs/train/.")] = None,
    data: Annotated[str | None, typer.Option(help="Photos: a folder, tar shards or Parquet, in any store.")] = None,
    out: Annotated[str | None, typer.Option(help="Folder for checkpoint, log and model.")] = None,
    export_only: Annotated[bool, typer.Option(help="Export the checkpoint in OUT as it is.")] = False,
) -> int:
    """Train a codec, or go on with a run that was stopped, and export the model.

    Keys are those of the config, e.g. run.steps=2000 run.model.width=64; run.model.kind says what is trained.
    """
    flags = {"data.uri": data, "out": out}
    settings = load(TrainConfig, config, overrides or [], {name: flag for name, flag in flags.items() if flag})
    if settings.sweep:
        from jobs import sweeping

        print(sweeping.sweep(settings))
        return cli.OK
    from jobs import training

    if not settings.run.steps:
        if export_only:
            raise ConfigError(
                "--export-only: run.steps is 0, a model is only taught or given a context; leave one of both out"
            )
        print(training.taught(settings))
        return cli.OK
    photos, held_out = training.photos_of(settings)
    started = time.monotonic()
    fit = training.trainer_for if export_only else training.fit
    trainer = fit(settings, photos, held_out)
    path = training.export(settings, trainer, photos)
    minutes, elapsed_s = trainer.elapsed_s / 60, time.monotonic() - started
    print(f"{path}: step {trainer.step}, {minutes:.1f} minutes of training in all, {elapsed_s:.0f} s in this run")
    return cli.OK


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run_command(train, argv, "python -m jobs.train")


if __name__ == "__main__":
    raise SystemExit(main())
