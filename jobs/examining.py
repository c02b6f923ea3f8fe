"""May this original go? One verdict an object; whatever is in doubt stays.

An original may go when it is there in the version that was archived, and every image in it has a row that counts, is
not rejected, and was read back just now from the archive alone: decoded with the weights that rest there, equal to its
source byte for byte or within the floor it was archived under, columns and metadata included.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from jobs.pictures import Decoders
from pipeline.archive import Archive, StoredImage
from pipeline.archive.parts import data_uri, metrics_uri
from pipeline.errors import PipelineError, StoreUnavailable, VerifyError
from pipeline.records import REJECTED, SourceItem
from pipeline.stages.encode import Floor
from pipeline.stages.originals import Check, Original, Row, check_file, check_shard, current, names_its_file, version_of
from pipeline.stages.readback import replaces

SAFE, GONE, KEPT = "safe", "gone", "kept"


@dataclass(frozen=True)
class Verdict:
    """`safe` to delete, `gone` already, or `kept` and why. `evidence` is what the verdict rests on: uri -> version."""

    uri: str
    verdict: str
    reason: str | None = None
    version: str = ""
    size_bytes: int = 0
    payload_sha256: tuple[str, ...] = ()
    evidence: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Examine:
    """Examines objects; `floors` are those of runs by spec id, `specs` the spec ids of parts."""

    archive: Archive
    floors: Mapping[str, Floor]
    specs: Mapping[str, str]

    def __call__(self, group: Sequence[Original]) -> list[Verdict]:
        decoders, evidence = Decoders(self.archive), _Evidence(self.archive)
        return [self._verdict(original, decoders, evidence) for original in group]

    def _verdict(self, original: Original, decoders: Decoders, evidence: _Evidence) -> Verdict:
        hashes: list[str] = []

        def check(stored: StoredImage, source: bytes) -> None:
            floor = self.floors.get(self.specs[stored.part])
            if floor is None:
                raise VerifyError(f"archive.json does not say under which floor part {stored.part} was written")
            replaces(stored, decoders.of(stored.codec, stored.model_id), source, floor)
            hashes.append(hashlib.sha256(stored.payload).hexdigest())

        try:
            if (item := current(original.uri)) is None:
                return Verdict(original.uri, GONE)
            rests_on = evidence.of(original.rows)  # before anything is read: what changes later is noticed
            look = self._shard if original.is_shard else self._file
            reason = look(original, item, check)
        except StoreUnavailable:
            raise
        except PipelineError as error:
            return Verdict(original.uri, KEPT, str(error))
        if reason:
            return Verdict(original.uri, KEPT, reason)
        return Verdict(item.uri, SAFE, None, item.version, item.size_bytes, tuple(hashes), rests_on)

    def _file(self, original: Original, item: SourceItem, check: Check) -> str | None:
        [row] = original.rows
        if not names_its_file(row):
            return "its name is not UTF-8, so the archive cannot tell it from others"
        if row["source_version"] != item.version:
            return f"changed since: the archive has version {row['source_version']}, it is {item.version} now"
        if row["status"] == REJECTED:
            return f"was rejected ({row['reason']})"
        [stored] = self.archive.stored([row])
        check_file(stored, item, check)
        return None

    def _shard(self, original: Original, item: SourceItem, check: Check) -> str | None:
        if not any(row["source_version"] == item.version for row in original.rows):
            return f"changed since: the archive has no row of its version, {item.version}"
        return next((complaint for _, complaint in check_shard(self.archive, item, original.rows, check)), None)


class _Evidence:
    """Versions of the parts and weights that rows rest on, looked up once for a group."""

    def __init__(self, archive: Archive) -> None:
        self._archive, self._weights = archive, archive.weight_files()
        self._versions: dict[str, str] = {}

    def of(self, rows: Sequence[Row]) -> dict[str, str]:
        uris = {uri for row in rows if row["status"] != REJECTED for uri in self._needed(row)}
        for uri in uris - self._versions.keys():
            self._versions[uri] = version_of(uri) or "missing"
        return {uri: self._versions[uri] for uri in sorted(uris)}

    def _needed(self, row: Row) -> Iterator[str]:
        yield metrics_uri(self._archive.uri, row["part"])
        yield data_uri(self._archive.uri, row["part"])
        if row["model_id"]:  # all of them: a payload may name a super-resolver besides its model
            yield from self._weights.values()


def floors_of(archive: Archive) -> dict[str, Floor]:
    """Spec id -> the floor of every run that ever wrote here."""
    return {
        spec_id: Floor(spec["floor"].get("psnr_db"), spec["floor"].get("ms_ssim"))
        for spec_id, spec in archive.codec_specs().items()
        if isinstance(spec.get("floor"), dict)
    }
