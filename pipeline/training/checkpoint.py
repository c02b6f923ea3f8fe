"""Checkpoints: everything a run needs to go on as if it had never stopped.

A checkpoint is written beside its final name and renamed, so a kill leaves the old one whole.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.errors import TrainingError


class Ema:
    """Exponential moving average of a model's weights; warms up, so early averages are not the start values."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {k: v.detach().clone().float() for k, v in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            self.weights[name].lerp_(value.float(), 1 - decay)


def rng_state(rng: np.random.Generator) -> str:
    """A NumPy generator's state as text; PCG64's 128-bit integers do not fit a tensor."""
    import json

    return json.dumps(rng.bit_generator.state)


def save(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors, numbers, strings) atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def load(path: Path, device: torch.device) -> dict[str, Any]:
    """A checkpoint written by `save`; raises TrainingError if it is not one."""
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:
        raise TrainingError(
            f"{path}: not a checkpoint of this trainer ({error}); remove it to start over, or give another --out"
        ) from error


def cpu(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.detach().cpu() for k, v in weights.items()}
