"""Tries several codecs on each picture and keeps the smallest payload that is good enough.

`Encoded.codec` and `Encoded.model_id` name the winner, and the row must say that name, not "auto": an archive is
read without knowing who competed. `original` is no candidate: it is where the fallback chain ends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from pipeline.codecs.base import Codec, Encoded, validate_rate
from pipeline.codecs.lossy import DEFAULT_RATE, rate_spec
from pipeline.codecs.registry import build, from_spec, rate_of
from pipeline.errors import BitstreamError, CodecError, ConfigError
from pipeline.metrics.distortion import ms_ssim, mse, psnr_db
from pipeline.records import Picture, Rate


@dataclass(frozen=True)
class Auto:
    """`candidates` are names, built at `rate`, or specs: {"name": "avif", "speed": 8, "rate": {"quality": 50}}.

    They are kept as full specs, so that a changed default is a changed spec. One quality means different things
    to different codecs, so give a target or a `floor`: {"psnr_db": 30} or {"ms_ssim": 0.95}. Without either, the
    smallest payload at `rate` wins.
    """

    rate: Rate = DEFAULT_RATE
    candidates: Sequence[str | Mapping[str, Any]] = ()
    floor: Mapping[str, float] | None = None

    name: ClassVar[str] = "auto"
    model_id: ClassVar[str | None] = None
    lossless: ClassVar[bool] = False

    def __post_init__(self) -> None:
        validate_rate(self.rate)
        if isinstance(self.candidates, str) or not self.candidates:
            raise ConfigError(f"codec auto: candidates is {self.candidates!r}; expected a list of codec names or specs")
        if self.floor is not None:
            self._check_floor(rate_of(self.floor))
        codecs = tuple(self._build(candidate) for candidate in self.candidates)
        object.__setattr__(self, "candidates", tuple(codec.spec() for codec in codecs))
        object.__setattr__(self, "_codecs", codecs)

    def spec(self) -> dict[str, Any]:
        floor = {} if self.floor is None else {"floor": dict(self.floor)}
        return {"name": self.name, "rate": rate_spec(self.rate), "candidates": list(self.candidates), **floor}

    @property
    def codecs(self) -> tuple[Codec, ...]:
        built: tuple[Codec, ...] = self.__dict__["_codecs"]
        return built

    def encode(self, picture: Picture, source: bytes) -> Encoded:
        """Raises CodecError, with the reason of each candidate, when none is good enough."""
        best: Encoded | None = None
        reasons = []
        for codec in self.codecs:
            try:
                encoded = codec.encode(picture, source)
                if best is None or len(encoded.payload) < len(best.payload):
                    self._hold_floor(codec, encoded, picture)
                    best = Encoded(encoded.payload, encoded.quality, codec.name, codec.model_id)
            except CodecError as error:
                reasons.append(str(error))
        if best is None:
            raise CodecError(f"auto: none of {len(self.codecs)} candidates can code this picture: {'; '.join(reasons)}")
        return best

    def decode(self, payload: bytes) -> np.ndarray:
        return self._owner(payload)[1]

    def restore_source(self, payload: bytes) -> bytes | None:
        return self._owner(payload)[0].restore_source(payload)

    def _owner(self, payload: bytes) -> tuple[Codec, np.ndarray]:
        """The first candidate that reads it: each refuses what is not its own, by signature."""
        reasons = []
        for codec in self.codecs:
            try:
                return codec, codec.decode(payload)
            except BitstreamError as error:
                reasons.append(str(error))
        raise BitstreamError(f"auto: no candidate reads these {len(payload)} bytes: {'; '.join(reasons)}")

    def _hold_floor(self, codec: Codec, encoded: Encoded, picture: Picture) -> None:
        if self.floor is None or codec.lossless:
            return
        (kind, floor), decoded = next(iter(self.floor.items())), codec.decode(encoded.payload)
        value = ms_ssim(picture.rgb, decoded) if kind == "ms_ssim" else psnr_db(mse(picture.rgb, decoded))
        if value < floor:
            raise CodecError(
                f"{codec.name}: {kind} is {value:.4g} at quality {encoded.quality}, the floor is {floor:g}"
            )

    def _build(self, candidate: str | Mapping[str, Any]) -> Codec:
        spec = {"name": candidate} if isinstance(candidate, str) else dict(candidate)
        if spec.get("name") in ("original", self.name):
            raise ConfigError(f"codec auto: {spec['name']!r} cannot be a candidate; put original in `fallback`")
        if "rate" in spec:
            return from_spec(spec)
        return build(str(spec.pop("name", "")), self.rate, **spec)

    @staticmethod
    def _check_floor(floor: Rate) -> None:
        if floor.psnr_db is None and floor.ms_ssim is None:
            raise ConfigError("codec auto: floor takes psnr_db or ms_ssim, e.g. {psnr_db: 30}")
