"""The bare trainer: `python -m pipeline.training --data FOLDER --out FOLDER [--spec JSON]`.

For a borrowed machine that has torch, NumPy, Pillow and safetensors and nothing else. It writes the same checkpoint and
log as `jobs.train`, which exports them (`--export-only`), and the EMA weights in fp16, small enough to carry.

With `"steps": 0` it teaches a model (`teach.py`), all cores coding crops, or gives it a context for z (`context.py`),
and writes its file; that takes what encoding does (Numba, constriction) beside.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from pipeline.nn.spec import HyperpriorSpec
from pipeline.training.data import load_photos
from pipeline.training.loop import Trainer, file_of
from pipeline.training.spec import AugmentSpec, TrainSpec

CALIBRATION_PHOTOS = 64
"""That tables are fitted to."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--spec", default="{}", help='fields of TrainSpec, e.g. {"minutes": 20, "model": {"width": 96}}'
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(argv)
    fields = json.loads(options.spec)
    parts = {"model": HyperpriorSpec, "augment": AugmentSpec}
    spec = TrainSpec(**(fields | {name: part(**fields.get(name, {})) for name, part in parts.items()}))
    options.out.mkdir(parents=True, exist_ok=True)
    if not spec.steps:
        _teach(spec, options.data, options.out, options.device)
        return 0
    photos = _photos(options.data)
    trainer = Trainer(spec, photos, options.out, options.device)
    mpix, started, first = spec.batch * spec.crop_px**2 / 1e6, time.monotonic(), trainer.step
    with (options.out / "log.jsonl").open("a") as log:

        def record(entry: dict[str, object]) -> None:
            log.write(json.dumps(entry) + "\n")
            log.flush()
            speed = (trainer.step - first) * mpix / (time.monotonic() - started)
            print(json.dumps(entry | {"mpix_per_s": round(speed, 2)}), flush=True)

        trainer.run(record)
    weights = {name: value.half().contiguous() for name, value in trainer.ema.weights.items()}
    save_file(weights, options.out / "ema.safetensors")
    return 0


def _photos(folder: str) -> list[np.ndarray]:
    photos = load_photos(folder)
    print(f"{len(photos)} photos, {sum(p.size for p in photos) / 3e6:.0f} MPix", flush=True)
    return photos


def _teach(spec: TrainSpec, folder: str, out: Path, device: str) -> None:
    from pipeline.training.export import written
    from pipeline.training.refit import refitted
    from pipeline.training.teach import teachable

    assert spec.init_from is not None  # TrainSpec takes no steps of 0 without
    data = Path(file_of(spec.init_from)).read_bytes()
    teachable(data)

    def log(record: dict[str, float]) -> None:
        print(json.dumps(record), flush=True)

    photos, processes = _photos(folder), len(os.sched_getaffinity(0))
    data = refitted(data, spec, photos, CALIBRATION_PHOTOS, device, processes, log)
    print(written(out, data), flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
