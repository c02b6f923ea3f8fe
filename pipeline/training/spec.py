"""What a training run is: plain values with defaults, read by configs without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from pipeline.errors import ConfigError
from pipeline.nn.spec import HyperpriorSpec, ModelSpec


@dataclass(frozen=True)
class AugmentSpec:
    """What happens to crops besides flips and quarter turns, which always do. All off by default.

    `brightness`, `contrast`, `saturation` are the largest relative changes, such as 0.2; `downscale` is the smallest
    factor a crop is shrunk by (1 leaves it), drawn anew for each batch. `synthetic` is the share of crops that are made
    into what no photo teaches: noise, halftones, mosaics and hard contrasts. Networks explode where they learned
    nothing.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    downscale: float = 1.0
    synthetic: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.synthetic <= 1:
            raise ConfigError(f"run.augment.synthetic is {self.synthetic}; expected a share from 0 to 1")

    def synthetic_of(self, count: int) -> int:
        """How many of a batch are synthetic; its first."""
        return round(self.synthetic * count)


@dataclass(frozen=True)
class BackboneSpec:
    """Weights of the classifier in a `transfer` model, of the one that judges a perceptual loss, or of the trunk of a
    super-resolver (of trunk `codec`: `default` for the packaged model, an id or a file).

    `weights` is "default" (torchvision's own), one of its names such as VGG16_Weights.IMAGENET1K_V1, the path or URI of
    a state dict, or "none" for a random start. `sha256` pins a file. `finetune` lets an encoder's learn, at a tenth of
    the rate.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    weights: str = "default"
    sha256: str | None = None
    finetune: bool = False


@dataclass(frozen=True)
class LossSpec:
    """The distortion that is traded against rate; all kinds in units of MSE on 0..255.

    `kind`: mse, ssim, ms-ssim, mixed (`ms_ssim_share` of the latter), mixed-ssim (as much of SSIM). `perceptual` adds
    that many times the squared distance of features of `judge`, cut at `layer`; `adversarial` that many times the loss
    of a PatchGAN, which learns beside.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    kind: Literal["mse", "ssim", "ms-ssim", "mixed", "mixed-ssim"] = "mse"
    ms_ssim_share: float = 0.5
    perceptual: float = 0.0
    judge: str = "vgg16"
    layer: str = "features.15"
    judge_weights: BackboneSpec = field(default_factory=BackboneSpec)
    adversarial: float = 0.0


@dataclass(frozen=True)
class DegradeSpec:
    """What a super-resolver learns to undo besides bicubic reduction, which is all that the rest of each batch gets.

    `codec` is the share of pictures that `model` codes and decodes, at a quality drawn for each. `realistic` is the
    share that is blurred, made noisy and saved as JPEG, each with a chance of one half, by a strength drawn for each:
    up to `blur_px` (sigma, low-resolution pixels), `noise` (sigma, 8-bit levels) and down to `jpeg`, a quality. The
    network is told the quality of the codec, or one minus the strength.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    codec: float = 0.0
    realistic: float = 0.0
    blur_px: float = 1.0
    noise: float = 10.0
    jpeg: float = 10.0
    model: str = "default"

    def __post_init__(self) -> None:
        if min(self.codec, self.realistic) < 0 or self.codec + self.realistic > 1:
            raise ConfigError(
                f"run.degrade: shares are codec {self.codec} and realistic {self.realistic}; "
                "expected numbers from 0 that sum to at most 1"
            )
        if min(self.blur_px, self.noise) < 0 or not 1 <= self.jpeg <= 100:
            raise ConfigError(
                f"run.degrade: blur_px {self.blur_px}, noise {self.noise}, jpeg {self.jpeg}; "
                "expected strengths from 0 and a quality in [1, 100]"
            )


@dataclass(frozen=True)
class TrainSpec:
    """One run. `minutes` is training time, summed over resumes; validation and start-up are not counted.

    `lr` is AdamW's peak; Muon, which trains the matrices, gets `matrix_lr_scale` times that.
    `init_from` is a model to start from: an id, a file, or `default` for the packaged one; its kind and sizes must be
    those of `model`, but for blocks of g_a and g_s, which may be fewer: others are added that change nothing at first.
    `polish_steps` fit g_s, on a CPU and after the schedule, to `polish_crops` crops as the encoder sends them, and make
    it one of integers (`polish.py`); 0 leaves it in floats, and other kinds of model know no such thing.
    `teach_steps` then fit g_a to what passes of `teach_crops` crops find (`teach.py`), `teach_batch` of them a step,
    with rates and crops of their own. With `steps` of 0 there is nothing else: the model of `init_from` is taught,
    whatever its sizes are, with blocks added to its g_a up to `teach_blocks`.
    `context_steps` come last, with or without others, and fit a context for z to `context_crops` crops (`context.py`).
    `quantised` trains with such a g_s from the start, for encoder and entropy model to know it; polish, even of no
    steps, goes on with its units.
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
    optimizer: Literal["muon", "adamw"] = "muon"
    matrix_lr_scale: float = 3.0
    warmup_steps: int = 300
    clip_norm: float = 0.2
    ema_decay: float = 0.999
    seed: int = 0
    save_every_steps: int = 500
    validate_every_steps: int = 1000
    holdout: int = 16
    klt_patches: int = 30_000
    polish_steps: int = 0
    polish_crops: int = 600
    teach_steps: int = 0
    teach_crops: int = 600
    teach_batch: int = 4
    teach_blocks: int = 0
    context_steps: int = 0
    context_crops: int = 600
    quantised: bool = False
    compile: bool = False
    init_from: str | None = None
    loss: LossSpec = field(default_factory=LossSpec)
    augment: AugmentSpec = field(default_factory=AugmentSpec)
    backbone: BackboneSpec = field(default_factory=BackboneSpec)
    degrade: DegradeSpec = field(default_factory=DegradeSpec)
    model: ModelSpec = field(default_factory=HyperpriorSpec)

    def __post_init__(self) -> None:
        if self.augment.synthetic and self.model.kind == "superres":
            raise ConfigError(
                f"run.augment.synthetic is {self.augment.synthetic}; a super-resolver learns from photos alone, use 0"
            )
        for name, used in (("polish_steps", self.polish_steps), ("quantised", self.quantised)):
            if used and not isinstance(self.model, HyperpriorSpec):
                raise ConfigError(
                    f"run.{name} is {used}; a model of kind {self.model.kind} has no decoder in integers, leave it out"
                )
        for name, used, wanting in (
            ("teach_steps", self.teach_steps, "an encoder that makes passes to learn from"),
            ("context_steps", self.context_steps, "hyper-latents"),
        ):
            if used and not isinstance(self.model, HyperpriorSpec):
                raise ConfigError(f"run.{name} is {used}; a model of kind {self.model.kind} has not {wanting}, use 0")
        if self.teach_steps < 0 or (self.teach_steps and min(self.teach_crops, self.teach_batch) < 1):
            raise ConfigError(
                f"run.teach_steps is {self.teach_steps}, run.teach_crops {self.teach_crops} and run.teach_batch "
                f"{self.teach_batch}; expected steps from 0, and for any at least 1 crop to learn from and 1 a step"
            )
        if self.context_steps < 0 or (self.context_steps and self.context_crops < 1):
            raise ConfigError(
                f"run.context_steps is {self.context_steps} and run.context_crops {self.context_crops}; expected steps "
                "from 0, and for any at least 1 crop"
            )
        if not self.steps and not ((self.teach_steps or self.context_steps) and self.init_from):
            raise ConfigError(
                "run.steps is 0, so there is nothing to do; expected some, or run.teach_steps or run.context_steps and "
                "the run.init_from of a model"
            )
