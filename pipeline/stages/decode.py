"""Decode: source bytes become a picture, or a `rejected` row that says why not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pipeline.errors import ImageError
from pipeline.imaging.decode import decode
from pipeline.records import REJECTED, Outcome, Picture, SourceImage
from pipeline.stages.work import Work

Decoder = Callable[[bytes], Picture]


@dataclass(frozen=True, slots=True)
class Decode:
    """Decodes one image at a time. `hook` stands in for the real decoder where a test needs a worse one."""

    pixel_limit: int = 200_000_000
    allow_cmyk: bool = False
    hook: Decoder | None = None

    def __call__(self, source: SourceImage) -> Work:
        if source.data is None:
            return rejected(source, source.error or "unreadable: the source gave no bytes and no reason")
        try:
            return Work(source, self.picture(source.data))
        except ImageError as error:
            return rejected(source, str(error))
        except MemoryError:
            return rejected(source, "decoding ran out of memory; lower limits.pixels or give the workers more")
        except Exception as error:  # a decoder's own bug must not cost the neighbours their rows
            return rejected(source, f"decoder failed: {type(error).__name__}: {error}")

    def picture(self, data: bytes) -> Picture:
        if self.hook is not None:
            return self.hook(data)
        return decode(data, pixel_limit=self.pixel_limit, allow_cmyk=self.allow_cmyk)


def rejected(source: SourceImage, reason: str) -> Work:
    return Work(source, outcome=Outcome(source=source, status=REJECTED, reason=reason))
