"""Which trainer a run wants: that of codecs, or that of super-resolvers."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.nn.spec import SuperresSpec
from pipeline.training.loop import Trainer
from pipeline.training.spec import TrainSpec


def trainer_of(
    spec: TrainSpec,
    photos: list[np.ndarray],
    out: Path,
    device: str = "cpu",
    held_out: list[np.ndarray] | None = None,
) -> Trainer:
    if isinstance(spec.model, SuperresSpec):
        from pipeline.training.superres import SuperresTrainer

        return SuperresTrainer(spec, photos, out, device, held_out)
    return Trainer(spec, photos, out, device, held_out)
