"""Sizes of networks, as plain values: read by configs and weights files without torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar


@dataclass(frozen=True)
class HyperpriorSpec:
    """Sizes of a `MeanScaleHyperprior`; stored beside its weights."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    latent: int = 384
    width: int = 96
    encoder_blocks: int = 4
    decoder_blocks: int = 6
    hyper_width: int = 160
    hyper: int = 128
    anchors: int = 9
    lmbda_min: float = 0.001
    lmbda_max: float = 0.2

    def lmbda(self, quality: float) -> float:
        """The rate-distortion trade-off at `quality` in [0, 1]: bpp + lmbda * MSE on 0..255."""
        return self.lmbda_min * (self.lmbda_max / self.lmbda_min) ** quality

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
