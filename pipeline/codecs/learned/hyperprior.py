"""`cnn`: the flagship codec, a mean-scale hyperprior with one model for every rate.

Constructing one costs nothing but reading the integer half of its weights; torch is imported when the first
picture is analysed or synthesised, so tasks that only code integers never pay for it.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np

from pipeline.codecs.base import Analysis, Encoded, Symbols, validate_rate
from pipeline.codecs.learned import adaptive, reduced, search, superres, symbols, weights
from pipeline.codecs.learned.dequantise import dequantised
from pipeline.codecs.learned.reduced import Reducing
from pipeline.codecs.learned.weights import FrozenModel
from pipeline.codecs.lossy import DEFAULT_RATE, rate_spec
from pipeline.errors import BitstreamError, CodecError, ConfigError
from pipeline.metrics.distortion import measure
from pipeline.nn.spec import CODECS
from pipeline.records import Picture, Rate

T = TypeVar("T")
EFFORTS = range(10)
DEFAULT_EFFORT = 1

if TYPE_CHECKING:
    from pipeline.codecs.learned.enlarging import Enlarger
    from pipeline.codecs.learned.networks import Networks
    from pipeline.codecs.learned.together import Found


class Hyperprior:
    """The learned codec at one rate.

    Args:
        rate: a quality in [0, 100] or a target, reached by search over quality for each picture.
        model: id of a packaged model, or the path or URI of a model file; None is the default one.
        device: "auto" (CUDA where there is one), "cpu", "cuda" or "cuda:1".
        effort: what the encoder spends; decoding takes as long. 0 takes the cheapest sequence of symbols for the
            latents, 1 weighs it once against the decoder's own error, as the linear part of the decoder sees it, 2 to 9
            do so again and again and through all of it; from 1 on a picture may come with a filter of its own
            (`learned.wiener`).
        reduced: "auto" codes a picture at half its size, to be restored by a super-resolver, where that is better
            (`learned.reduced`); None never does.
        superres: id or file of that super-resolver; None is the one that comes with the package.
        tune: "psnr" spends bits evenly; "ms-ssim" more on what is smooth and less on what is busy (`learned.adaptive`).

    Raises:
        ConfigError: no such model, device or tuning.
    """

    name = "cnn"
    lossless = False
    reducing: Reducing | None = None
    weights_of: superres.Weights | None = None
    precision = "fp32"
    tune = "psnr"

    def __init__(
        self,
        rate: Rate = DEFAULT_RATE,
        model: str | None = None,
        device: str = "auto",
        effort: int = DEFAULT_EFFORT,
        reduced: str | None = None,
        superres: str | None = None,
        tune: str = "psnr",
    ) -> None:
        self.rate, self.tune = validate_rate(rate), _checked_tune(self.name, tune)
        self.device, self.effort = device, _checked_effort(self.name, effort)
        self.frozen = self._of_this_codec(packaged(self.name, model))
        self.reducing = self._reducing(reduced, superres)

    @classmethod
    def from_weights(
        cls,
        data: bytes,
        rate: Rate = DEFAULT_RATE,
        device: str = "auto",
        effort: int = DEFAULT_EFFORT,
        reduced: str | None = None,
        superres: str | None = None,
        tune: str = "psnr",
    ) -> Self:
        """The codec with the model in the bytes of a weights file, such as an archive carries."""
        codec = cls.__new__(cls)
        codec.rate, codec.device, codec.frozen = validate_rate(rate), device, cls._of_this_codec(weights.parse(data))
        codec.effort, codec.tune = _checked_effort(cls.name, effort), _checked_tune(cls.name, tune)
        codec.reducing = codec._reducing(reduced, superres)
        return codec

    def _reducing(self, reduced: str | None, superres: str | None) -> Reducing | None:
        """Raises ConfigError for what does not go together."""
        if reduced is not None and self.strength:
            raise ConfigError(
                f"codec {self.name}: reduced={reduced} compares by PSNR, which tune={self.tune} gives away; "
                "leave one of them out"
            )
        return Reducing.of(reduced, superres)

    @classmethod
    def _of_this_codec(cls, model: FrozenModel) -> FrozenModel:
        if CODECS[model.kind] != cls.name:
            raise ConfigError(
                f"codec {cls.name}: model {model.model_id} is of kind {model.kind}; use codec {CODECS[model.kind]}"
            )
        return model

    def at(self, rate: Rate) -> Hyperprior:
        """The same codec, networks shared, at another rate."""
        other = copy.copy(self)
        other.__dict__["networks"], other.rate = self.networks, validate_rate(rate)
        return other

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Hyperprior) and other.spec() == self.spec()

    def __hash__(self) -> int:
        return hash((self.model_id, self.rate, self.effort, self.tune, self.reducing))

    @property
    def model_id(self) -> str:
        return self.frozen.model_id

    def weights_bytes(self) -> tuple[str, bytes]:
        """(SHA-256, bytes) of the weights file, for the archive to carry."""
        return self.frozen.sha256, weights.packaged_bytes(self.model_id)

    def spec(self) -> dict[str, Any]:
        fields = {"name": self.name, "rate": rate_spec(self.rate), "model": self.model_id, "effort": self.effort}
        tuned = {"tune": self.tune} if self.strength else {}
        return fields | tuned | (self.reducing.spec() if self.reducing else {})

    @property
    def strength(self) -> int:
        """How far quality follows the picture, of 64."""
        return adaptive.STRENGTHS[self.tune]

    @cached_property
    def networks(self) -> Networks:
        """The networks on their device; built once, with torch."""
        # Read by torch at its first allocation: large tensors on large pages, which saves 6 % of an encoder's time.
        os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
        return self._networks()

    def _networks(self) -> Networks:
        from pipeline.codecs.learned import networks

        return networks.Networks(self.frozen, self.device, self.precision)

    def analyse(self, pictures: Sequence[Picture]) -> Iterator[Analysis]:
        """Symbols and distortion of each picture, in order; on a GPU of many at a time.

        Raises CodecError when the turn of a picture has come that 8-bit RGB cannot hold.
        """

        def measured(picture: Picture, found: Found) -> Analysis:
            x_hat = self.networks.picture(found.y_hat, found.symbols)
            return Analysis(found.symbols, measure(picture.rgb, x_hat))

        return self._each(pictures, self._analyse, measured)

    def _each(
        self, pictures: Iterable[Picture], alone: Callable[[Picture], T], finish: Callable[[Picture, Found], T]
    ) -> Iterator[T]:
        """`alone` of each picture; on a GPU of several at a time, and `finish` of what was found for them together."""
        if self.networks.one_at_a_time:
            yield from map(alone, pictures)
            return
        from pipeline.codecs.learned import together

        setting, plain = None, self.reducing is None and not self.strength
        if plain and self.rate.quality is not None and self.frozen.trellis is not None:
            setting = together.Setting(self.networks, round(self.rate.quality * 100), self.effort)
        yield from together.each(pictures, self.networks.device, self.networks.threads, alone, setting, finish)

    def _analyse(self, picture: Picture) -> Analysis:
        found, x_hat = self._symbols(picture)
        return Analysis(found, measure(picture.rgb, x_hat))

    def _symbols(self, picture: Picture) -> tuple[Symbols, np.ndarray]:
        """Symbols at this rate, and the picture they decode to."""
        _refuse(picture)
        return self.at_full_size(picture) if self.reducing is None else reduced.better(self, self.reducing, picture)

    def at_full_size(self, picture: Picture) -> tuple[Symbols, np.ndarray]:
        if self.rate.quality is not None:
            centi = round(self.rate.quality * 100)
            return self.networks.analyse(picture.rgb, centi, picture.gray, self.effort, self.strength)
        return search.reach(
            self.rate,
            picture.rgb,
            lambda centi, worth: self.networks.analyse(
                picture.rgb, centi, picture.gray, self.effort, self.strength, worth
            ),
            lambda symbols: len(self.entropy_encode(symbols)),
            self.name,
            fine=self.networks.minds_worth(self.effort),
        )

    def entropy_encode(self, symbols_: Symbols) -> bytes:
        return symbols.entropy_encode(self.frozen, symbols_)

    def entropy_decode(self, payload: bytes) -> Symbols:
        """Raises BitstreamError for anything but a whole payload of this model."""
        with _named(self.name):
            return self._symbols_in(payload)

    def _symbols_in(self, payload: bytes) -> Symbols:
        return symbols.entropy_decode(self.frozen, payload)

    def synthesise(self, symbols: Sequence[Symbols]) -> list[np.ndarray]:
        """(H, W, 3) uint8 of each."""
        return [self._enlarged(one, self.networks.synthesise(one)) for one in symbols]

    def _enlarged(self, symbols: Symbols, x_hat: np.ndarray) -> np.ndarray:
        """The picture itself, at its true size where it was coded at a smaller one."""
        return x_hat if symbols.reduced is None else reduced.restored(self, symbols, symbols.reduced, x_hat)

    def enlarger(self, model_id: str) -> Enlarger:
        """A super-resolver on this codec's device: from the archive where there is one, else from the package."""
        if model_id not in self._enlargers:
            weights_of = self.weights_of or superres.packaged_bytes
            self._enlargers[model_id] = superres.needed(model_id, weights_of, self.device)
        return self._enlargers[model_id]

    @cached_property
    def _enlargers(self) -> dict[str, Enlarger]:
        return {}

    def restore(self, image: np.ndarray, scale: int = 2, quality: float = 100.0) -> np.ndarray:
        """(H, W, 3) uint8, any picture, to (scale H, scale W, 3) uint8; see `superres.restore`."""
        return superres.restore(image, scale, quality, device=self.device)

    def encode(self, picture: Picture, source: bytes = b"") -> Encoded:
        """The payload of `picture`; at a quality, without the work of decoding it again."""
        _refuse(picture)
        if self.rate.quality is None or self.reducing is not None:
            found, _ = self._symbols(picture)
        else:
            centi = round(self.rate.quality * 100)
            found = self.networks.symbols_of(picture.rgb, centi, picture.gray, self.effort, self.strength)
        return Encoded(self.entropy_encode(found), found.quality_centi / 100)

    def encode_all(self, pictures: Iterable[Picture]) -> Iterator[Encoded]:
        """What `encode` makes of each, in order; on a GPU of many at a time, in as many threads as torch had.

        There symbols can differ by what is in a batch with a picture. Raises CodecError when the turn of a picture has
        come that cannot be encoded, and ends.
        """

        def written(_: Picture, found: Found) -> Encoded:
            return Encoded(self.entropy_encode(found.symbols), found.symbols.quality_centi / 100)

        return self._each(pictures, self.encode, written)

    def decode(self, payload: bytes) -> np.ndarray:
        """(H, W, 3) uint8. Raises BitstreamError for anything but a whole payload of this model."""
        y_hat = list[np.ndarray]()
        with _named(self.name):
            found = symbols.entropy_decode(
                self.frozen,
                payload,
                lambda band: y_hat.append(dequantised(self.frozen, band)),
            )
        return self._enlarged(found, self.networks.synthesise(found, np.concatenate(y_hat, axis=1)))

    def restore_source(self, payload: bytes) -> bytes | None:
        return None


@contextmanager
def _named(codec: str) -> Iterator[None]:
    try:
        yield
    except BitstreamError as error:
        raise BitstreamError(f"{codec}: {error}") from error


def _refuse(picture: Picture) -> None:
    if picture.obstacle is not None:
        raise CodecError(f"the source has {picture.obstacle}")


def packaged(codec: str, model: str | None) -> FrozenModel:
    """The model of an id or a file; the default one of `codec` when None."""
    return weights.packaged_model(weights.open_model(model) if model else weights.default_model_id(codec))


def _checked_effort(codec: str, effort: int) -> int:
    if effort not in EFFORTS:
        raise ConfigError(
            f"codec {codec}: effort is {effort!r}; expected an integer from {EFFORTS[0]} to {EFFORTS[-1]}"
        )
    return effort


def _checked_tune(codec: str, tune: str) -> str:
    if tune not in tuple(adaptive.STRENGTHS):
        raise ConfigError(f"codec {codec}: tune is {tune!r}; expected one of {', '.join(adaptive.STRENGTHS)}")
    return tune
