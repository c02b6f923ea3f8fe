"""What a training run is: plain values with defaults, read by configs without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pipeline.nn.spec import HyperpriorSpec


@dataclass(frozen=True)
class TrainSpec:
    """One run. `minutes` is training time, summed over resumes; validation and start-up are not counted.

    `lr` is AdamW's peak; Muon, which trains the matrices, gets `matrix_lr_scale` times that.
    `init_from` is a model file to start from instead of a KLT; its sizes must be those of `model`.
    `compile` runs the networks through torch.compile, a quarter faster on a CPU after a minute or two of compiling;
    `large_from` is the part of the schedule after which crops grow to `large_crop_px` at equal pixels a step.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    steps: int = 20_000
    minutes: float = math.inf
    batch: int = 8
    crop_px: int = 256
    large_crop_px: int = 512
    large_from: float = 0.85
    lr: float = 1.5e-3
    matrix_lr_scale: float = 3.0
    warmup_steps: int = 300
    clip_norm: float = 0.2
    ema_decay: float = 0.999
    seed: int = 0
    save_every_steps: int = 500
    validate_every_steps: int = 1000
    holdout: int = 16
    klt_patches: int = 30_000
    compile: bool = False
    init_from: str | None = None
    model: HyperpriorSpec = field(default_factory=HyperpriorSpec)
