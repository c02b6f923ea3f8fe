"""What is done to a model after its training, in this order: its encoder is taught, and z is given a context."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from pipeline.training.context import fit_context
from pipeline.training.spec import TrainSpec
from pipeline.training.teach import teach


def refitted(
    data: bytes,
    spec: TrainSpec,
    photos: Sequence[np.ndarray],
    calibration: int,
    device: str,
    processes: int,
    log: Callable[[dict[str, float]], None],
) -> bytes:
    """The model file `data` after what `spec` asks for, perhaps nothing; the first `calibration` photos fit tables.

    Raises what `teach` and `fit_context` raise.
    """
    few = photos[:calibration]
    if spec.teach_steps:
        data = teach(
            data,
            photos,
            few,
            spec.teach_steps,
            spec.teach_crops,
            seed=spec.seed,
            log=log,
            batch=spec.teach_batch,
            blocks=spec.teach_blocks,
            device=device,
            processes=processes,
        )
    if spec.context_steps:
        data = fit_context(data, photos, few, spec.context_steps, spec.context_crops, seed=spec.seed, log=log)
    return data
