"""Sizes of networks, as plain values: read by configs and weights files without torch.

Each class describes one kind of model; `kind` stands beside its fields in a weights file and selects it in a config.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

from pipeline.errors import ConfigError

SCALE_STEPS_PER_OCTAVE = 16
"""Units of the scales that an input normalisation sends."""
SCALE_BOUNDS = (-48, 16)
"""An eighth to twice the common spread."""
CURVATURE = 0.8
"""Curvature of a picture's squared error over its latents in training, where 1 is that of orthonormal transforms.

The encoder takes 1; what was trained with 0.8 is kept, it pushes symbols off the thresholds a little less."""
_BOUNDS = {
    "anchors": (2, 256),
    "lmbda_min": (1e-9, 1e6),
    "lmbda_max": (1e-9, 1e6),
    "scale": (2, 4),
    "num_bits": (2, 12),
    "limited": (0, 1),
}
_BOUNDS |= dict.fromkeys(
    ("encoder_blocks", "decoder_blocks", "blocks", "depth", "levels", "kernel", "tile_px"), (1, 64)
)
_CHANNELS = (1, 1 << 14)


@dataclass(frozen=True)
class _Spec:
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            low, high = _BOUNDS.get(name, _CHANNELS)
            if isinstance(value, int | float) and not low <= value <= high:
                raise ConfigError(f"run.model.{name} is {value}; expected {low:g} to {high:g}")

    def lmbda(self, quality: Any) -> Any:
        """The rate-distortion trade-off at `quality` in [0, 1], a float or a tensor: bpp + lmbda * MSE on 0..255."""
        low, high = self.lmbda_min, self.lmbda_max  # type: ignore[attr-defined]
        return low * (high / low) ** quality

    def loss_scale(self, lmbda: Any) -> Any:
        """Weight of a picture's loss: rate grows like lmbda^0.5, and what counts is relative rate, as in BD-rate."""
        return ((self.lmbda_min * self.lmbda_max) ** 0.5 / lmbda) ** 0.5  # type: ignore[attr-defined]

    def to_json(self) -> dict[str, Any]:
        """The fields as they stand in a weights file, which names the kind beside them."""
        return {name: value for name, value in asdict(self).items() if name != "kind"}


@dataclass(frozen=True)
class HyperpriorSpec(_Spec):
    """Sizes of a `MeanScaleHyperprior`; stored beside its weights.

    `limited` bounds what goes from block to block by what photos reach (`transforms.Blocks`), as models once did not.
    """

    latent: int = 384
    width: int = 96
    encoder_blocks: int = 4
    decoder_blocks: int = 6
    hyper_width: int = 160
    hyper: int = 128
    anchors: int = 9
    lmbda_min: float = 0.001
    lmbda_max: float = 0.2
    limited: bool = False
    kind: Literal["mean-scale-hyperprior"] = "mean-scale-hyperprior"


@dataclass(frozen=True)
class StaticSpec(_Spec):
    """What all models with one static table per channel and quality have (`static.StaticCompressor`).

    `num_bits`: every latent is a uniform code of that many bits, and `quality` says how many channels are sent; None
    leaves both to the entropy model.
    """

    latent: int = 192
    anchors: int = 9
    lmbda_min: float = 0.001
    lmbda_max: float = 0.2
    num_bits: int | None = None

    normalise: ClassVar[bool] = False

    @property
    def unit_px(self) -> int:
        """Pixels along a side that one position of y stands for."""
        return 16

    @property
    def halo_px(self) -> int:
        """How far beyond its own pixels a position of y may act or look; a multiple of `unit_px`."""
        return 64


@dataclass(frozen=True)
class TransferSpec(StaticSpec):
    """A torchvision classifier, cut at a named layer, as the encoder; a decoder of `blocks` at an eighth."""

    backbone: str = "vgg16"
    layer: str = "features.3"
    width: int = 96
    blocks: int = 4
    kind: Literal["transfer"] = "transfer"

    @property
    def halo_px(self) -> int:
        return _halo(8 * self.blocks + 16)


@dataclass(frozen=True)
class PyramidSpec(StaticSpec):
    """Convolutions and pooling, `levels` times; `width` channels at full resolution, twice as many a level deeper."""

    width: int = 16
    depth: int = 1
    levels: int = 4
    kernel: int = 3
    activation: Literal["relu", "leaky-relu", "silu", "gelu", "tanh"] = "relu"
    pooling: Literal["max", "average", "stride"] = "max"

    tiled: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.levels > 6 or 64 % self.unit_px or self.unit_px % 2**self.levels:
            raise ConfigError(
                f"run.model: {self.levels} levels and units of {self.unit_px} px; "
                "expected 1 to 6 levels and a tile of 64 px or a half, a quarter ... of it, not smaller than 2^levels"
            )
        if self.kernel % 2 == 0:
            raise ConfigError(f"run.model.kernel is {self.kernel}; expected an odd number")


@dataclass(frozen=True)
class ConvSpec(PyramidSpec):
    """Convolutions over pictures whose brightness, contrast and colour balance were evened out before."""

    kind: Literal["conv"] = "conv"

    normalise: ClassVar[bool] = True

    @property
    def unit_px(self) -> int:
        return int(2**self.levels)

    @property
    def halo_px(self) -> int:
        return _halo((self.kernel // 2) * self.depth * 2**self.levels)


@dataclass(frozen=True)
class TileSpec(PyramidSpec):
    """Tiles that know nothing of each other: convolutions, pooling and one dense layer, and their mirror image."""

    levels: int = 3
    tile_px: int = 32
    latent: int = 384
    kind: Literal["tile-autoencoder"] = "tile-autoencoder"

    tiled: ClassVar[bool] = True

    @property
    def unit_px(self) -> int:
        return self.tile_px

    @property
    def halo_px(self) -> int:
        return 0


@dataclass(frozen=True)
class SuperresSpec(_Spec):
    """Sizes of a `superres.SuperResolver`. It codes nothing and enlarges what any codec decoded.

    `blocks` are residual blocks of a trunk of `pixels` or behind a `backbone`, or those of g_s when the trunk is the
    `codec`'s; `latent` and `encoder_blocks` are sizes of the latter, `backbone` and `layer` of the former.
    """

    scale: int = 2
    trunk: Literal["pixels", "codec", "backbone"] = "pixels"
    width: int = 32
    blocks: int = 4
    anchors: int = 9
    latent: int = 384
    encoder_blocks: int = 4
    backbone: str = "vgg16"
    layer: str = "features.3"
    kind: Literal["superres"] = "superres"

    @property
    def halo_px(self) -> int:
        """How many low-resolution pixels around its own a pixel may look at; a multiple of 16."""
        # Classifiers look far, and continue what is smaller than `backbone.LEAST_PX`; windows are never that small.
        return 16 * -(-(2 * self.blocks + 8) // 16) if self.trunk == "pixels" else 128


def _halo(reach_px: int) -> int:
    return max(64, -(-reach_px // 64) * 64)


CodecSpec = HyperpriorSpec | TransferSpec | ConvSpec | TileSpec
ModelSpec = CodecSpec | SuperresSpec
SPECS: dict[str, type[ModelSpec]] = {
    "mean-scale-hyperprior": HyperpriorSpec,
    "transfer": TransferSpec,
    "conv": ConvSpec,
    "tile-autoencoder": TileSpec,
    "superres": SuperresSpec,
}
CODECS = {
    "mean-scale-hyperprior": "cnn",
    "transfer": "transfer",
    "conv": "conv",
    "tile-autoencoder": "tile-autoencoder",
}
"""The codec that reads a kind of model; `superres` enlarges what codecs decoded, and is none."""
