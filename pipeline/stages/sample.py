"""Sampling and planning of an evaluation: which images, in what units, under which settings not yet measured.

A sample is drawn by hashing each name with the seed, so it depends on neither listing order nor machine, and a
larger sample contains the smaller one. Of shards only as many are opened as give `SHARD_SHARE` images each; every one
of them gives the same number of images (a two-stage sample).
"""

from __future__ import annotations

import hashlib
import heapq
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pipeline.archive.results import Done, ResultMeta
from pipeline.records import SourceImage, SourceItem

SHARD_SHARE = 64
# A unit is what a crash loses and one worker does: few images when there are few, so that all workers have some.
UNIT_IMAGES, UNITS_WANTED = 64, 64


@dataclass(frozen=True, slots=True)
class EvaluationUnit:
    """Image files, or one shard, to be measured under `settings` (ids); `quota`: (images, seed) of a shard's sample."""

    items: tuple[SourceItem, ...]
    settings: tuple[str, ...]
    quota: tuple[int, int] | None = None

    def meta(self, chunk: int, last: bool) -> ResultMeta:
        pairs = tuple((item.uri, item.version) for item in self.items)
        return ResultMeta(pairs, self.settings, chunk, last, self.quota)

    def to_json(self) -> str:
        items = [(item.uri, item.version, item.size_bytes) for item in self.items]
        return json.dumps([items, self.settings, self.quota])

    @classmethod
    def from_json(cls, text: str) -> EvaluationUnit:
        items, settings, quota = json.loads(text)
        return cls(tuple(SourceItem(*item) for item in items), tuple(settings), tuple(quota) if quota else None)


def rank(name: str, seed: int) -> bytes:
    """Where `name` comes in the random order of `seed`."""
    return hashlib.sha256(f"{seed}\0{name}".encode("utf-8", "surrogateescape")).digest()


def plan(
    items: Sequence[SourceItem], settings: Sequence[str], done: Done, *, shards: bool, sample: int | None, seed: int
) -> list[EvaluationUnit]:
    """Units for every sampled item and the settings it lacks; sorted by URI."""
    quota: tuple[int, int] | None = None
    chosen = list(items)
    if sample is not None and shards:
        shards_used = min(len(items), -(-sample // SHARD_SHARE))
        quota = (-(-sample // shards_used), seed)
        chosen = drawn(items, shards_used, seed)
    elif sample is not None:
        chosen = drawn(items, sample, seed)
    lacking: dict[tuple[str, ...], list[SourceItem]] = defaultdict(list)
    for item in sorted(chosen, key=lambda item: item.uri):
        known = done.get((item.uri, item.version, quota), frozenset())
        if todo := tuple(setting for setting in settings if setting not in known):
            lacking[todo].append(item)
    size = 1 if shards else max(1, min(UNIT_IMAGES, len(chosen) // UNITS_WANTED))
    return [
        EvaluationUnit(tuple(group[at : at + size]), todo, quota)
        for todo, group in lacking.items()
        for at in range(0, len(group), size)
    ]


def images_in(units: Sequence[EvaluationUnit], shards: bool) -> int | None:
    """How many images `units` hold; None when only the shards themselves know."""
    if not shards:
        return sum(len(unit.items) for unit in units)
    quotas = [unit.quota[0] for unit in units if unit.quota is not None]
    return sum(quotas) if len(quotas) == len(units) else None


def drawn(items: Sequence[SourceItem], count: int, seed: int) -> list[SourceItem]:
    """At most `count` of `items`."""
    return heapq.nsmallest(count, items, key=lambda item: rank(item.uri, seed))


def drawn_images(images: Iterable[SourceImage], quota: tuple[int, int]) -> Iterator[SourceImage]:
    """The quota of one shard, in shard order; holds no more than that many images in memory."""
    count, seed = quota
    held: list[tuple[bytes, int, SourceImage]] = []
    for position, image in enumerate(images):
        # Largest rank first, so that the heap's top is the one to go; positions never tie.
        entry = (bytes(255 - byte for byte in rank(image.source_uri, seed)), position, image)
        if len(held) < count:
            heapq.heappush(held, entry)
        elif entry[:2] > held[0][:2]:
            heapq.heapreplace(held, entry)
    yield from (image for _, _, image in sorted(held, key=lambda entry: entry[1]))
