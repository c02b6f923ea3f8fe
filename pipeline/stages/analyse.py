"""Analyse: pictures become integer symbols and the distortion of what they decode to; pixels end here.

Batches are cut by megapixels, not by count: a batch of thumbnails and one panorama cost about the same. A batch
that fails goes on behind the picture that failed, so that one cannot fail its neighbours.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from pipeline.codecs.base import Analysis, SplitCodec
from pipeline.errors import CodecError, ConfigError
from pipeline.records import Picture
from pipeline.stages.work import Work, shell_of


@dataclass(frozen=True, slots=True)
class Analyse:
    """Runs the accelerator half of `codec` over decoded works, in order, at most `batch_mpx` at a time."""

    codec: SplitCodec
    batch_mpx: float = 2.0

    def __call__(self, works: Iterable[Work]) -> Iterator[Work]:
        for batch in by_megapixels(works, self.batch_mpx):
            yield from self._batch(batch)

    def _batch(self, batch: Sequence[Work]) -> Iterator[Work]:
        todo = [work.picture for work in batch if work.picture is not None and work.picture.obstacle is None]
        started = time.perf_counter()
        results = iter(self._analyses(todo))
        share_ms = (time.perf_counter() - started) * 1e3 / max(1, len(todo))
        for work in batch:
            if work.picture is None:
                yield work
                continue
            result: Analysis | str = f"the source has {work.picture.obstacle}"
            if work.picture.obstacle is None:
                result = next(results)
            note, analysis = (result, None) if isinstance(result, str) else (None, result)
            yield replace(work, picture=shell_of(work.picture), analysis=analysis, note=note, analyse_ms=share_ms)

    def _analyses(self, pictures: Sequence[Picture]) -> list[Analysis | str]:
        """One analysis, or the reason why there is none, for each picture."""
        results = list[Analysis | str]()
        while len(results) < len(pictures):
            rest = pictures[len(results) :]
            reason, certain = "the codec gave no analysis", len(rest) == 1
            try:
                for _, analysis in zip(rest, self.codec.analyse(rest), strict=False):
                    results.append(analysis)
            except ConfigError:  # a device that is not there is no fault of any picture: the run ends and says so
                raise
            except CodecError as error:  # of this picture, where others have had their turn
                reason, certain = _line(str(error)), certain or len(rest) > len(pictures) - len(results)
            except Exception as error:  # torch raises RuntimeError for anything, out of memory included
                reason = _line(f"{type(error).__name__}: {error}")
            # The error is gone here, and with it what it held of the memory of whoever raised it.
            if len(results) < len(pictures):
                # Perhaps there were too many at once, or it was another one: asked by itself, it can only be this.
                failed = pictures[len(results) : len(results) + 1]
                results += [reason] if certain else self._analyses(failed)
        return results


def _line(text: str) -> str:
    return text.splitlines()[0] if text else "analysis failed"


def by_megapixels(works: Iterable[Work], limit_mpx: float) -> Iterator[list[Work]]:
    """Consecutive works with at most `limit_mpx` decoded megapixels in all; a bigger picture goes alone."""
    batch: list[Work] = []
    held_mpx = 0.0
    for work in works:
        size_mpx = work.picture.height_px * work.picture.width_px / 1e6 if work.picture else 0.0
        if batch and held_mpx + size_mpx > limit_mpx:
            yield batch
            batch, held_mpx = [], 0.0
        batch.append(work)
        held_mpx += size_mpx
    if batch:
        yield batch
