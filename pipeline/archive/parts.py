"""Names: where everything lies in an archive, and what a part is called.

A part id is a digest of what went into the part and how, never of when or in which run, so that a retried task
arrives at the same name. The metrics part carries its `PartMeta` as Parquet metadata: planning reads nothing else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline import storage
from pipeline.errors import ArchiveError
from pipeline.records import SourceItem

FORMAT_VERSION = 1
# 64 images or 16 MiB are a few seconds of work: little to lose in a crash, few enough objects in a bucket.
CHUNK_IMAGES, CHUNK_BYTES = 64, 16 << 20
META_KEY = b"shardpress"


@dataclass(frozen=True, slots=True)
class PartMeta:
    """What a part holds: chunk number `chunk` of `items` ((uri, version) pairs), `last` when none follows.

    `attempt` counts how often these items were taken up on purpose (retries, a version that came back);
    `partial` says that only some images of the items were taken up. `limits` are (images, bytes) per chunk.
    """

    items: tuple[tuple[str, str], ...]
    spec_id: str
    chunk: int = 0
    last: bool = True
    attempt: int = 0
    partial: bool = False
    limits: tuple[int, int] = (CHUNK_IMAGES, CHUNK_BYTES)

    @property
    def part_id(self) -> str:
        return digest([sorted(self.items), self.chunk, self.limits, self.spec_id, self.attempt])

    @classmethod
    def of(
        cls,
        items: Iterable[SourceItem],
        chunk: int,
        last: bool,
        spec: Mapping[str, Any],
        attempt: int = 0,
        partial: bool = False,
    ) -> PartMeta:
        pairs = tuple((item.uri, item.version) for item in items)
        return cls(pairs, spec_id(spec), chunk, last, attempt, partial)

    def to_json(self) -> str:
        return json.dumps({name: getattr(self, name) for name in self.__slots__})

    @classmethod
    def from_json(cls, text: str) -> PartMeta:
        """Raises KeyError, TypeError or ValueError for anything `to_json` did not write."""
        found = json.loads(text)
        items = tuple((str(uri), str(version)) for uri, version in found["items"])
        images, size_bytes = found["limits"]
        numbers = int(found["chunk"]), bool(found["last"]), int(found["attempt"]), bool(found["partial"])
        return cls(items, str(found["spec_id"]), *numbers, (int(images), int(size_bytes)))


@dataclass(frozen=True, slots=True)
class PartRecord:
    """A committed part as its Parquet metadata tells it; `committed_at` is ISO 8601, UTC."""

    part: str
    run_id: str
    committed_at: str
    meta: PartMeta

    def to_metadata(self) -> dict[bytes, bytes]:
        stamp = {"format_version": FORMAT_VERSION, "part": self.part, "run_id": self.run_id}
        stamp |= {"committed_at": self.committed_at} | json.loads(self.meta.to_json())
        return {META_KEY: json.dumps(stamp).encode()}

    @classmethod
    def from_metadata(cls, raw: Mapping[bytes, bytes] | None, where: str) -> PartRecord:
        """Raises ArchiveError for foreign and newer parts."""
        try:
            text = (raw or {})[META_KEY].decode()
            found = json.loads(text)
            check_version(found["format_version"], where)
            return cls(found["part"], found["run_id"], found["committed_at"], PartMeta.from_json(text))
        except (KeyError, TypeError, ValueError) as error:
            raise ArchiveError(
                f"{where}: has no readable `shardpress` metadata ({type(error).__name__}: {error}); expected a metrics "
                "part written by this program; move the file out of metrics/ or restore it from a backup"
            ) from None


def check_version(found: Any, where: str) -> None:
    """Raises ArchiveError unless `found` is a format version that this program reads."""
    if found != FORMAT_VERSION:
        raise ArchiveError(
            f"{where}: archive format version is {found!r}, this program knows version {FORMAT_VERSION}; "
            "use the shardpress release that wrote it, or a newer one"
        )


def digest(value: Any) -> str:
    """32 hex digits of the SHA-256 of canonical JSON; 60 and 60.0 are the same number there."""
    text = json.dumps(_canonical(value), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def spec_id(spec: Mapping[str, Any]) -> str:
    """Id of a codec spec, as in archive.json and in part metadata."""
    return digest(spec)


def part_id(items: Iterable[SourceItem], chunk: int, spec: Mapping[str, Any], attempt: int = 0) -> str:
    """Name of the part that holds chunk `chunk` of `items`; `Unit.meta(...).part_id` says the same."""
    return PartMeta.of(items, chunk, True, spec, attempt).part_id


def metrics_uri(archive: str, part: str) -> str:
    return storage.join(archive, "metrics", f"part-{part}.parquet")


def data_uri(archive: str, part: str) -> str:
    return storage.join(archive, "data", f"part-{part}.parquet")


def part_of(uri: str) -> str:
    """The part id in the name of a data or metrics part; "" for a foreign name."""
    name = uri.rsplit("/", 1)[-1]
    return name[5:-8] if name.startswith("part-") and name.endswith(".parquet") else ""


def _canonical(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _canonical(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
