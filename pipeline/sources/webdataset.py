"""Tar shards, read as WebDataset reads them: neighbours that share a key are one sample.

The key of a member is its path up to the first dot of its base name, the rest is its extension, in lower case.
Members with an image extension are images, with id `<shard>#<member name>`; the others are columns named by their
extension, and `__key__` is one more. Several images under one key are several images, and the first of them carries
the columns. Hidden members, folders and `__meta__` members are passed over, as WebDataset does.

A sample without an image is no image if it consists of sidecar files (a README, a list of labels); anything else
that could be an image gets a row that says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pipeline import storage
from pipeline.errors import PipelineError, StoreUnavailable
from pipeline.records import SourceImage, SourceItem, image_id_of
from pipeline.sources.base import (
    MEMBER_LIMIT_BYTES,
    Listing,
    UniqueNames,
    failed,
    human_bytes,
    not_as_listed,
    printable,
)
from pipeline.sources.formats import IMAGE_SUFFIXES, SIDECAR_SUFFIXES, TAR_SUFFIXES, looks_like_image, suffix_of
from pipeline.sources.tar import Member, TarDamage, decompressed, members

TEXT_EXTENSIONS = frozenset({"txt", "cls", "json"})
SAMPLE_HOLD_BYTES = 16 << 20
SAMPLE_MEMBERS = 1000
_META = re.compile(r"__[^/]*__($|/)")


@dataclass(slots=True)
class _Sample:
    """Consecutive members of one key, held back until the next key begins."""

    key: str
    limit_bytes: int
    members: list[Member] = field(default_factory=list)
    named_images: int = 0
    unnamed_images: int = 0
    held_bytes: int = 0
    problem: str | None = None

    def add(self, member: Member) -> None:
        self.named_images += _named_as_image(member)
        self.unnamed_images += looks_like_image(member.data or b"")
        size_bytes = len(member.data or b"")
        if self.held_bytes + size_bytes > self.limit_bytes or len(self.members) >= SAMPLE_MEMBERS:
            found = f"over {human_bytes(self.limit_bytes)} or {SAMPLE_MEMBERS} members in sample {self.key!r}"
            self.problem = f"too large: {found}; raise source.member_limit_bytes or split the sample"
            member, size_bytes = Member(member.name, None, self.problem), 0
            if not _named_as_image(member) and self.members:
                return
        self.members.append(member)
        self.held_bytes += size_bytes

    def is_full_before(self, member: Member) -> bool:
        """One key may span the whole shard (scene.0001.png, scene.0002.png, ...): then it is handed on in parts."""
        image_follows = _named_as_image(member) or (not self.named_images and looks_like_image(member.data or b""))
        more_bytes = self.held_bytes + len(member.data or b"") > SAMPLE_HOLD_BYTES
        has_image = self.named_images or self.unnamed_images
        return bool(has_image) and image_follows and (more_bytes or len(self.members) >= SAMPLE_MEMBERS)


@dataclass(frozen=True, slots=True)
class WebDatasetSource:
    """Tar shards (plain, gzip or xz) at `uri`. What exceeds `member_limit_bytes` becomes a row with an error."""

    uri: str
    member_limit_bytes: int = MEMBER_LIMIT_BYTES
    listing: Listing = field(default_factory=Listing, repr=False, compare=False)

    kind: ClassVar[str] = "webdataset"
    items_are_shards: ClassVar[bool] = True

    def list_items(self) -> list[SourceItem]:
        return self.listing.ending_in(TAR_SUFFIXES, self.uri, "tar shards (" + " ".join(TAR_SUFFIXES) + ")")

    def images(self, items: Sequence[SourceItem]) -> Iterator[SourceImage]:
        for item in items:
            if missing := not_as_listed(item):
                yield missing
            else:
                yield from _Shard(item).images(self.member_limit_bytes)


class _Shard:
    """One pass over one shard."""

    def __init__(self, item: SourceItem) -> None:
        self._item = item
        self._names = UniqueNames()
        self._image_keys: set[str] = set()
        self._lone_keys: set[str] = set()

    def images(self, limit_bytes: int) -> Iterator[SourceImage]:
        sample, error = _Sample("", limit_bytes), None
        stream = self._members(limit_bytes)
        while True:
            try:
                member = next(stream, None)
            except TarDamage as damage:
                member, error = None, f"damaged: shard {self._item.uri} {damage}; images after this point are missing"
            except StoreUnavailable:
                raise
            except (PipelineError, OSError) as failure:
                member, error = None, f"unreadable: {failure}"
            if member is None:
                break
            key = _split(member.name)[0]
            if key != sample.key or sample.is_full_before(member):
                yield from self._sample_images(sample)
                sample = _Sample(key, limit_bytes)
            sample.add(member)
        yield from self._sample_images(sample)
        if error:
            yield failed(self._item, error)

    def _members(self, limit_bytes: int) -> Iterator[Member]:
        with storage.open_read(self._item.uri) as raw:
            yield from members(decompressed(raw), limit_bytes, _is_passed_over)

    def _sample_images(self, sample: _Sample) -> Iterator[SourceImage]:
        if not sample.members:
            return
        images = [member for member in sample.members if _named_as_image(member)]
        images = images or [member for member in sample.members if looks_like_image(member.data or b"")]
        if not images:
            yield from self._without_image(sample)
            return
        columns, problem = _columns([member for member in sample.members if member not in images])
        problem = problem or sample.problem
        if sample.key in self._lone_keys:
            problem = problem or "damaged: other members of its sample lie elsewhere in the shard; expected neighbours"
        self._image_keys.add(sample.key)
        key = {"__key__": printable(sample.key)}
        yield self._image(images[0], {**key, **columns}, images[0].problem or problem)
        for member in images[1:]:
            yield self._image(member, key, member.problem)

    def _without_image(self, sample: _Sample) -> Iterator[SourceImage]:
        """Sidecars alone are no image, unless their image lies elsewhere in the shard: that would lose a label."""
        extensions = [_split(member.name)[1] for member in sample.members]
        if all(suffix_of("." + extension) in SIDECAR_SUFFIXES for extension in extensions):
            self._lone_keys.add(sample.key)
            if sample.key not in self._image_keys:
                return
        found = ", ".join(sorted(set(extensions))[:8])
        error = f"damaged: no image next to the member(s) of type {found!r}; expected the members of a sample together"
        yield self._image(sample.members[0], {"__key__": printable(sample.key)}, error)

    def _image(self, member: Member, passthrough: dict[str, Any], error: str | None) -> SourceImage:
        source_uri = f"{self._item.uri}#{self._names.take(member.name)}"
        return SourceImage(
            image_id_of(source_uri),
            printable(source_uri),
            self._item.version,
            None if error else member.data,
            passthrough,
            printable(storage.redact(error)) if error else None,
        )


def _split(name: str) -> tuple[str, str]:
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return folder + slash + stem, extension.lower()


def _named_as_image(member: Member) -> bool:
    return suffix_of("." + _split(member.name)[1]) in IMAGE_SUFFIXES


def _is_passed_over(name: str) -> bool:
    hidden = any(part.startswith(".") and part.strip(".") for part in name.split("/"))
    return hidden or _META.match(name) is not None


def _columns(siblings: Sequence[Member]) -> tuple[dict[str, Any], str | None]:
    """Columns by extension, and what is wrong with the first sibling that could not be read."""
    names, columns, problem = UniqueNames(), {}, None
    for member in siblings:
        extension = _split(member.name)[1]
        if member.data is None:
            problem = problem or f"damaged: its sibling {member.name!r} is {member.problem}"
            continue
        columns[names.take(printable(extension))] = _value(extension, member.data)
    return columns, problem


def _value(extension: str, data: bytes) -> str | bytes:
    if suffix_of("." + extension) not in TEXT_EXTENSIONS:
        return data
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data
