"""The loop behind `jobs.verify`: what an audit cannot see, because it takes decoders and sources."""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow.compute as pc

from jobs.pictures import Decoders
from pipeline import storage
from pipeline.archive import Archive, StoredImage, open_archive
from pipeline.archive.audit import Finding, audit, sweep
from pipeline.codecs.base import PIXEL_LIMIT, Codec, SplitCodec
from pipeline.errors import PipelineError, VerifyError
from pipeline.execution.recompression import new_run_id
from pipeline.imaging.decode import decode
from pipeline.metrics.distortion import mse, psnr_db
from pipeline.records import REJECTED
from pipeline.stages.encode import require_equal
from pipeline.stages.restore import picture_of

# Synthesis in float32 may differ by one 8-bit level between devices; the archive's numbers are from another one.
PSNR_TOLERANCE_DB = 0.1


@dataclass
class Verification:
    """`compared` pictures were measured against their sources again; `sources_gone` could not be."""

    decoded: int = 0
    compared: int = 0
    sources_gone: int = 0
    swept: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    @property
    def harmful(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.harmful]

    def summary(self) -> dict[str, Any]:
        return asdict(self)


def verify_all(archive_uri: str, sample: int | None, remove_litter: bool) -> Verification:
    """Audits the archive and decodes `sample` pictures (all when None)."""
    archive, done = open_archive(archive_uri), Verification()
    if remove_litter:
        done.swept = sweep(archive, new_run_id())
    done.findings = audit(archive, sample)
    decoders = Decoders(archive)
    chosen = _chosen(archive, sample, done)
    for stored in archive.iter_payloads(chosen, on_error=lambda error: _note(done, archive.uri, error)):
        try:
            _check(stored, decoders.of(stored.codec, stored.model_id), done)
        except PipelineError as error:
            _note(done, f"{stored.source_uri} ({stored.image_id})", error)
    return done


def _note(done: Verification, uri: str, error: PipelineError) -> None:
    known = any(finding.kind == "damaged data" and finding.uri in str(error) for finding in done.findings)
    if not known:
        done.findings.append(Finding("damaged payload", uri, str(error)))


def _chosen(archive: Archive, sample: int | None, done: Verification) -> Collection[str]:
    try:
        table = archive.metrics(["image_id", "status"])
    except PipelineError as error:
        _note(done, archive.uri, error)
        return []
    ids = table.filter(pc.field("status") != REJECTED)["image_id"].to_pylist()
    return ids if sample is None or sample >= len(ids) else random.Random().sample(ids, sample)


def _check(stored: StoredImage, codec: Codec, done: Verification) -> None:
    if isinstance(codec, SplitCodec):
        symbols = codec.entropy_decode(stored.payload)
        require_equal(symbols, codec.entropy_decode(codec.entropy_encode(symbols)))
    picture = picture_of(stored, codec)
    done.decoded += 1
    source = _source_of(stored)
    if source is None:
        done.sources_gone += 1
        return
    given_back = codec.restore_source(stored.payload)
    if given_back is not None:
        if given_back != source:
            raise VerifyError("the payload gives back another file than the source is")
    else:
        _compare(picture.rgb, decode(source, pixel_limit=PIXEL_LIMIT, allow_cmyk=True).rgb, stored)
    done.compared += 1


def _compare(found: np.ndarray, source: np.ndarray, stored: StoredImage) -> None:
    wrote, reads = stored.metrics["mse"], mse(source, found)
    if wrote is None or (wrote == 0) != (reads == 0):
        raise VerifyError(f"its mse against the source is {reads:.4f}, its row says {wrote}")
    if wrote and abs(psnr_db(wrote) - psnr_db(reads)) > PSNR_TOLERANCE_DB:
        raise VerifyError(f"it is at {psnr_db(reads):.2f} dB from its source, its row says {psnr_db(wrote):.2f} dB")


def _source_of(stored: StoredImage) -> bytes | None:
    """The source file, if it is still there in the version that was read; members of shards are not looked up."""
    try:
        items = storage.list_files(stored.source_uri, hidden=True, missing_ok=True)
        same = len(items) == 1 and items[0].version == stored.source_version
        return storage.read_bytes(stored.source_uri) if same else None
    except PipelineError:
        return None
