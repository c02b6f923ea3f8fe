"""The codec protocols: what every image codec is to the rest of the house.

A codec turns a `Picture` (and the source bytes it came from) into an opaque payload and back. It never sees a
path, an archive or a cluster. Learned codecs are `SplitCodec`s: their accelerator and CPU halves are apart, so
that a pool of devices can analyse while ordinary CPUs entropy-code.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from pipeline.bitstream.container import Reduced
from pipeline.records import Distortion, Picture, Rate

PRECISIONS = ("fp32", "bf16")
"""How `cnn` decodes: to the same picture everywhere (models whose decoder is in floats, but for one 8-bit level); or on
GPUs, and with those models on CPUs with bf16, faster, for looking and training only: photos come out alike, noise of
black and white differs by tens of levels."""
PIXEL_LIMIT = 1_000_000_000  # a payload that declares more is refused before anything is allocated


@dataclass(frozen=True, slots=True)
class Encoded:
    """A payload, and the quality setting that made it (None for codecs without one).

    `codec` and `model_id` are set only by a codec that chose among others (`auto`): they name the one that made
    the payload, and are what its row must say.
    """

    payload: bytes
    quality: float | None = None
    codec: str | None = None
    model_id: str | None = None


@runtime_checkable
class Codec(Protocol):
    """Image <-> bytes. `name` and `spec()` together are enough to find the codec again years later."""

    @property
    def name(self) -> str: ...

    @property
    def model_id(self) -> str | None: ...

    @property
    def lossless(self) -> bool: ...

    def spec(self) -> dict[str, Any]:
        """JSON that `registry.build` turns back into an equal codec; part of every part id."""
        ...

    def encode(self, picture: Picture, source: bytes) -> Encoded:
        """Raises CodecError when this codec cannot represent the picture or reach its target."""
        ...

    def decode(self, payload: bytes) -> np.ndarray:
        """(H, W, 3) uint8. Raises BitstreamError for anything that is not a payload of this codec."""
        ...

    def restore_source(self, payload: bytes) -> bytes | None:
        """The source file, byte for byte, if this payload can give it back; else None."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Symbols:
    """Everything a learned payload says, as integers; equality of two is equality of every field.

    y  (M, ceil(H/16), ceil(W/16)) int16, zeros where the scale index says skip: quantised y - mu.
    z  (N, ceil(h/4), ceil(w/4)) int16.
    trellis  y counts the steps of two quantisers, taken along a trellis of so many states (`entropy.order`); 0 where
        it counts those of one.

    A model with static tables has positions of its own size instead of 16 px, and z (1 or 7, 1, 1) is what it says of
    the whole picture (`learned.static_symbols.Side`).

    quality_centi  quality * 100, an integer in [0, 10000].
    reduced  the picture was made smaller before it was coded, height_px and width_px are of that, and this is how it is
        restored.
    adaptive  how far quality follows the picture (`learned.adaptive`), 1 to 64; 0 where it is the same everywhere.
    wiener  the filter of the decoded picture, as section 6 of a container has it (`learned.wiener`); empty for none.
    index  (M, h, w) uint8, the tables that y was quantised for, where they are known already; no part of what is said.
    levels  (h, w) int8, the same for what quality does there where it is adaptive.
    """

    model_id: str
    height_px: int
    width_px: int
    gray: bool
    quality_centi: int
    y: np.ndarray
    z: np.ndarray
    reduced: Reduced | None = None
    trellis: int = 0
    adaptive: int = 0
    wiener: bytes = b""
    index: np.ndarray | None = field(default=None, compare=False)
    levels: np.ndarray | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, eq=False)
class Analysis:
    """Symbols of one picture and the distortion of what they decode to."""

    symbols: Symbols
    distortion: Distortion


@runtime_checkable
class SplitCodec(Codec, Protocol):
    """A learned codec: the accelerator half (analyse, synthesise) and the CPU half apart."""

    def analyse(self, pictures: Sequence[Picture]) -> Iterable[Analysis]:
        """One of each, in order; raises when the turn of a picture has come that cannot be analysed."""
        ...

    def entropy_encode(self, symbols: Symbols) -> bytes: ...

    def entropy_decode(self, payload: bytes) -> Symbols: ...

    def synthesise(self, symbols: Sequence[Symbols]) -> list[np.ndarray]: ...


def require_precision(precision: str) -> str:
    """`precision` itself, or ConfigError unless it is one of PRECISIONS."""
    from pipeline.errors import ConfigError

    if precision not in PRECISIONS:
        raise ConfigError(f"precision {precision!r}: expected one of {', '.join(PRECISIONS)}")
    return precision


def validate_rate(rate: Rate) -> Rate:
    """`rate` itself, or ConfigError unless exactly one of its fields is set and in range."""
    from pipeline.errors import ConfigError

    given = {k: v for k in ("quality", "psnr_db", "ms_ssim", "bpp") if (v := getattr(rate, k)) is not None}
    if len(given) != 1:
        raise ConfigError(f"rate: found {given or 'nothing'}; set exactly one of quality, psnr_db, ms_ssim, bpp")
    (name, value), low, high = next(iter(given.items())), 0.0, {"quality": 100.0, "ms_ssim": 1.0}
    limit = high.get(name, 200.0)
    if not low <= value <= limit:
        raise ConfigError(f"rate: {name} is {value}; expected a number in [{low:g}, {limit:g}]")
    return rate
