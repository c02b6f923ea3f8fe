"""The loop behind `jobs.verify`: what an audit cannot see, because it takes decoders and sources.

An audit of names, metrics and weights comes first, in this process. Then parts are decoded, spread over processes, and
with `sources` shards are read again to compare their members. What is found names the pictures it costs, so that the
end can say what is lost, what is not, and what can be encoded again because its source is still there.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from jobs.pictures import Decoders
from pipeline import storage
from pipeline.archive import Archive, StoredImage, audit, open_archive, sweep
from pipeline.archive.audit import Committed, Finding, check_rows, newest_ids, read_committed
from pipeline.archive.parts import data_uri
from pipeline.errors import PipelineError, StoreUnavailable
from pipeline.execution.recompression import new_run_id
from pipeline.execution.spread import spread
from pipeline.records import REJECTED
from pipeline.stages.originals import Original, check_shard, current, originals, version_of
from pipeline.stages.readback import compare, read_back
from pipeline.storage.parquet import DAMAGE


@dataclass
class Verification:
    """`compared` pictures were measured against their sources again; `sources_gone` could not be.

    images  the archive holds, one for each row that counts.
    lost  source URI of each picture that cannot be restored -> the part it was in.
    source_there  those of them whose source still is what was archived.
    """

    images: int = 0
    decoded: int = 0
    compared: int = 0
    sources_gone: int = 0
    members: int = 0
    swept: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    lost: dict[str, str] = field(default_factory=dict)
    source_there: list[str] = field(default_factory=list)

    @property
    def harmful(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.harmful]

    def add(self, part: Checked) -> None:
        for name in ("decoded", "compared", "sources_gone", "members"):
            setattr(self, name, getattr(self, name) + getattr(part, name))
        self.findings += part.findings

    def summary(self) -> dict[str, Any]:
        findings = [asdict(finding) | {"remedy": finding.remedy} for finding in self.findings]
        return asdict(self) | {"findings": findings}


@dataclass
class Checked:
    """What one worker found; counters as in `Verification`."""

    decoded: int = 0
    compared: int = 0
    sources_gone: int = 0
    members: int = 0
    findings: list[Finding] = field(default_factory=list)


def verify_all(archive_uri: str, sample: int | None, remove_litter: bool, sources: bool = False) -> Verification:
    """Audits the archive, decodes `sample` pictures (all when None), and with `sources` reads their shards again."""
    archive, done = open_archive(archive_uri), Verification()
    if remove_litter:
        done.swept = sweep(archive, new_run_id())
    done.findings = audit(archive, sample=0)
    committed, _ = read_committed(archive)
    stored = _stored(committed)
    done.images = sum(map(len, stored.values()))
    chosen = _chosen(stored, sample)
    known = {image_id for finding in done.findings for image_id in finding.image_ids}
    jobs = [(part, sorted(ids - known)) for part, ids in sorted(chosen.items()) if ids - known]
    for checked in spread(CheckPart(archive, whole=sample is None), jobs):
        done.add(checked)
    shards = [each for each in originals(committed) if each.is_shard and _any_of(each, chosen)] if sources else []
    for checked in spread(CheckShard(archive), shards):
        done.add(checked)
    _tell_losses(done, committed)
    return done


@dataclass(frozen=True)
class CheckPart:
    """Decodes pictures of one part and compares them with their source files. `whole`: and hashes all of it."""

    archive: Archive
    whole: bool

    def __call__(self, job: tuple[str, Sequence[str]]) -> Checked:
        part, image_ids = job
        done, uri = Checked(), data_uri(self.archive.uri, part)
        rows = [row for row in self.archive.part_metrics(part).to_pylist() if row["status"] != REJECTED]
        if self.whole:
            done.findings += _hashed(uri, [row["image_id"] for row in rows], image_ids)
        damaged = {image_id for finding in done.findings for image_id in finding.image_ids}
        wanted = [row for row in rows if row["image_id"] in set(image_ids) - damaged]

        def note(error: PipelineError, rows: Iterable[dict[str, Any]]) -> None:
            ids = tuple(row["image_id"] for row in rows)
            done.findings.append(Finding("damaged payload", uri, str(error), True, ids))

        decoders = Decoders(self.archive)
        for stored in self.archive.stored(wanted, lambda error: note(error, error.rows)):
            try:
                self._check(stored, decoders, done)
            except StoreUnavailable:
                raise
            except PipelineError as error:
                note(type(error)(f"{stored.source_uri}: {error}"), [stored.metrics])
        return done

    def _check(self, stored: StoredImage, decoders: Decoders, done: Checked) -> None:
        codec = decoders.of(stored.codec, stored.model_id)
        picture = read_back(stored, codec)
        done.decoded += 1
        if (item := current(stored.source_uri)) is None:
            done.members += "#" in stored.source_uri
            done.sources_gone += "#" not in stored.source_uri
        elif item.version != stored.source_version:
            done.sources_gone += 1
        else:
            compare(stored, codec, picture, storage.read_bytes(item.uri))
            done.compared += 1


@dataclass(frozen=True)
class CheckShard:
    """Reads one shard again and compares its members, columns included, with what is stored of them."""

    archive: Archive

    def __call__(self, shard: Original) -> Checked:
        done, decoders = Checked(), Decoders(self.archive)

        def check(stored: StoredImage, source: bytes) -> None:
            codec = decoders.of(stored.codec, stored.model_id)
            compare(stored, codec, read_back(stored, codec), source)
            done.compared += 1

        item = current(shard.uri)
        if item is None or not any(row["source_version"] == item.version for row in shard.rows):
            done.sources_gone += len(shard.rows)
            return done
        for row, complaint in check_shard(self.archive, item, shard.rows, check):
            if not row:
                done.findings.append(Finding("not archived", item.uri, complaint, harmful=False))
            elif row["status"] != REJECTED and row["source_version"] == item.version:
                uri = data_uri(self.archive.uri, row["part"])
                done.findings.append(Finding("damaged payload", uri, complaint, True, (row["image_id"],)))
        return done


def _hashed(uri: str, expected: list[str], newest: Collection[str]) -> list[Finding]:
    try:
        return list(check_rows(uri, expected, newest))
    except StoreUnavailable:
        raise
    except (PipelineError, *DAMAGE) as error:
        return [Finding("damaged data", uri, f"cannot be read: {error}", True, tuple(newest))]


def _stored(committed: Committed) -> dict[str, set[str]]:
    """Part -> images whose row counts and says that something is stored."""
    newest, found = newest_ids(committed), defaultdict[str, set[str]](set)
    for part, (_, table) in committed.items():
        for image_id, status in zip(table["image_id"].to_pylist(), table["status"].to_pylist(), strict=True):
            if status != REJECTED and image_id in newest.get(part, ()):
                found[part].add(image_id)
    return found


def _chosen(stored: dict[str, set[str]], sample: int | None) -> dict[str, set[str]]:
    pairs = [(part, image_id) for part, ids in sorted(stored.items()) for image_id in sorted(ids)]
    if sample is not None and sample < len(pairs):
        pairs = random.Random().sample(pairs, sample)
    chosen = defaultdict[str, set[str]](set)
    for part, image_id in pairs:
        chosen[part].add(image_id)
    return chosen


def _any_of(original: Original, chosen: dict[str, set[str]]) -> bool:
    return any(row["image_id"] in chosen.get(row["part"], ()) for row in original.rows)


def _tell_losses(done: Verification, committed: Committed) -> None:
    lost = {image_id for finding in done.harmful for image_id in finding.image_ids}
    if not lost:
        return
    for original in originals(committed):
        rows = [row for row in original.rows if row["image_id"] in lost]
        there = version_of(original.uri) if rows else None
        done.lost |= {row["source_uri"]: row["part"] for row in rows}
        done.source_there += [row["source_uri"] for row in rows if row["source_version"] == there]
