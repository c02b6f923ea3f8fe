"""The loop behind `jobs.restore`: select rows, decode, write files that were not there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow.compute as pc

from jobs.pictures import Decoders, Names
from pipeline import storage
from pipeline.archive import Archive, StoredImage, open_archive
from pipeline.errors import ConfigError, PipelineError
from pipeline.records import REJECTED
from pipeline.stages.restore import FORMATS, Restored, restore
from pipeline.stages.select import where as where_expression

# For sources whose names say nothing, such as rows of a table.
_SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "AVIF": ".avif", "GIF": ".gif", "TIFF": ".tif"}


@dataclass
class Restoration:
    """What was restored; `sources` counts source files given back byte for byte."""

    out: str
    restored: int = 0
    sources: int = 0
    unchanged: int = 0
    rejected: int = 0
    problems: list[str] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        return asdict(self)


def restore_all(
    archive_uri: str, out: str, ids: Sequence[str] | None, where: str | None, file_format: str, overwrite: bool
) -> Restoration:
    """Restores what is selected. One picture that fails is a problem to tell, not the end."""
    if file_format not in FORMATS:
        raise ConfigError(f"--format {file_format}: expected one of {', '.join(FORMATS)}")
    archive = open_archive(archive_uri)
    done = Restoration(storage.absolute(out).rstrip("/"))
    wanted = _selected(archive, ids, where, done)
    names, decoders = Names(wanted.values()), Decoders(archive)
    for stored in archive.iter_payloads(set(wanted), on_error=lambda error: done.problems.append(str(error))):
        try:
            codec = decoders.of(stored.codec, stored.model_id)
            _write(restore(stored, codec, file_format), stored, names, done, overwrite)
        except PipelineError as error:
            done.problems.append(f"{stored.source_uri}: {error}")
    return done


def _selected(archive: Archive, ids: Sequence[str] | None, where: str | None, done: Restoration) -> dict[str, str]:
    """image_id -> source URI of what is to be restored, in the order of sources."""
    table = archive.metrics()
    if where is not None:
        table = table.filter(where_expression(where, table.schema))
    if ids:
        unknown = sorted(set(ids) - set(table["image_id"].to_pylist()))
        if unknown:
            selected = " with this --where" if where else ""
            raise ConfigError(f"--id {unknown[0]}: {archive.uri} has no such image{selected}; see its metrics table")
        table = table.filter(pc.field("image_id").isin(list(ids)))
    done.rejected = table.filter(pc.field("status") == REJECTED).num_rows
    kept = table.filter(pc.field("status") != REJECTED).sort_by("source_uri")
    return dict(zip(kept["image_id"].to_pylist(), kept["source_uri"].to_pylist(), strict=True))


def _write(restored: Restored, stored: StoredImage, names: Names, done: Restoration, overwrite: bool) -> None:
    own_suffix = _SUFFIXES.get(stored.source_format or "", "")
    uri = storage.join(done.out, names.of(stored.source_uri, stored.image_id, restored.suffix, own_suffix))
    there = storage.read_if_exists(uri)
    if there is not None and there != restored.data and not overwrite:
        raise ConfigError(f"{uri} exists and is another file; choose another --out, or allow it with --overwrite")
    if there == restored.data:
        done.unchanged += 1
    else:
        storage.write_atomic(uri, restored.data)
    done.restored += 1
    done.sources += restored.is_source
