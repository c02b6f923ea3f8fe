"""`transfer`, `tile-autoencoder` and `conv`: codecs whose tables are fixed with the weights.

    transfer          an ImageNet classifier, cut at a layer, sees the picture; a decoder is trained to it
    tile-autoencoder  convolutions, pooling and one dense layer on tiles of a fixed size
    conv              convolutions over pictures whose brightness, contrast and colour balance were evened out before

They differ from `cnn` in what their networks are and in how symbols find their tables; rates, targets, efforts,
container and weights files are the same. Which networks a model has is written in its file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np

from pipeline.codecs.base import Symbols
from pipeline.codecs.learned import static_symbols
from pipeline.codecs.learned.hyperprior import Hyperprior
from pipeline.codecs.lossy import DEFAULT_RATE
from pipeline.errors import ConfigError
from pipeline.records import Rate

if TYPE_CHECKING:
    from pipeline.codecs.learned.static_networks import StaticNetworks


class _Static(Hyperprior):
    """A codec with static tables, at one rate; arguments as for `cnn`, and:

    Args:
        effort: 0 rounds latents, 1 and above weigh the bits of each symbol against its error.
        keep: the share of channels that are sent, the most important ones; 1 is all of them.
    """

    keep = 1.0

    def __init__(
        self,
        rate: Rate = DEFAULT_RATE,
        model: str | None = None,
        device: str = "auto",
        effort: int = 1,
        keep: float = 1.0,
    ) -> None:
        super().__init__(rate, model, device, effort)
        self.keep = _checked_share(self.name, keep)

    @classmethod
    def from_weights(  # type: ignore[override]
        cls, data: bytes, rate: Rate = DEFAULT_RATE, device: str = "auto", effort: int = 1, keep: float = 1.0
    ) -> Self:
        codec = super().from_weights(data, rate, device, effort)
        codec.keep = _checked_share(cls.name, keep)
        return codec

    def spec(self) -> dict[str, Any]:
        return super().spec() | {"keep": self.keep}

    def _networks(self) -> StaticNetworks:  # type: ignore[override]
        from pipeline.codecs.learned.static_networks import StaticNetworks

        return StaticNetworks(self.frozen, self.device, self.keep)

    def entropy_encode(self, symbols_: Symbols) -> bytes:
        return static_symbols.entropy_encode(self.frozen, symbols_)

    def decode(self, payload: bytes) -> np.ndarray:
        return self.networks.synthesise(self.entropy_decode(payload))

    def _symbols_in(self, payload: bytes) -> Symbols:
        return static_symbols.entropy_decode(self.frozen, payload)


class Transfer(_Static):
    name = "transfer"


class TileAutoencoder(_Static):
    name = "tile-autoencoder"


class Conv(_Static):
    name = "conv"


def _checked_share(codec: str, keep: float) -> float:
    if isinstance(keep, bool) or not 0 < keep <= 1:
        raise ConfigError(f"codec {codec}: keep is {keep!r}; expected a share of the channels, above 0 and at most 1")
    return float(keep)
