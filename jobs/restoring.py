"""The loop behind `jobs.restore`: select rows, decode, write files that were not there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow.compute as pc

from jobs.pictures import Decoders, Place, places
from pipeline import storage
from pipeline.archive import Archive, open_archive
from pipeline.errors import ConfigError, PipelineError, StorageError
from pipeline.execution.spread import spread
from pipeline.records import REJECTED
from pipeline.stages.restore import AS_IT_WAS, FORMATS, Enlargement, Restored, restore
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

    def add(self, part: Restoration) -> None:
        for name in ("restored", "sources", "unchanged"):
            setattr(self, name, getattr(self, name) + getattr(part, name))
        self.problems += part.problems

    def summary(self) -> dict[str, Any]:
        return asdict(self)


def restore_all(
    archive_uri: str,
    out: str,
    ids: Sequence[str] | None,
    where: str | None,
    file_format: str,
    overwrite: bool,
    larger: Enlargement = AS_IT_WAS,
) -> Restoration:
    """Restores what is selected, spread over processes. One picture that fails is a problem to tell, not the end."""
    if file_format not in FORMATS:
        raise ConfigError(f"--format {file_format}: expected one of {', '.join(FORMATS)}")
    archive = open_archive(archive_uri)
    done = Restoration(storage.absolute(out).rstrip("/"))
    rows = _selected(archive, ids, where, done)
    names = places({row["image_id"]: row["source_uri"] for row in rows})
    parts: dict[str, dict[str, Place]] = {}
    for row in rows:
        parts.setdefault(row["part"], {})[row["image_id"]] = names[row["image_id"]]
    for part in spread(RestorePart(archive, done.out, file_format, overwrite, larger), list(parts.items())):
        done.add(part)
    return done


@dataclass(frozen=True)
class RestorePart:
    """Restores pictures of one part to the places they were given."""

    archive: Archive
    out: str
    file_format: str
    overwrite: bool
    larger: Enlargement = AS_IT_WAS

    def __call__(self, job: tuple[str, dict[str, Place]]) -> Restoration:
        part, names = job
        done, decoders = Restoration(self.out), Decoders(self.archive)
        rows = [row for row in self.archive.part_metrics(part).to_pylist() if row["image_id"] in names]
        for stored in self.archive.stored(rows, lambda error: done.problems.append(str(error))):
            try:
                codec = decoders.of(stored.codec, stored.model_id)
                restored = restore(stored, codec, self.file_format, self.larger)
                other_suffix = _SUFFIXES.get(stored.source_format or "", "")
                self._write(restored, names[stored.image_id].named(restored.suffix, other_suffix), done)
            except StorageError:  # a full disk would refuse the other pictures, too
                raise
            except PipelineError as error:
                done.problems.append(f"{stored.source_uri}: {error}")
        return done

    def _write(self, restored: Restored, name: str, done: Restoration) -> None:
        uri = storage.join(self.out, name)
        there = storage.read_if_exists(uri)
        if there is not None and there != restored.data and not self.overwrite:
            raise ConfigError(f"{uri} exists and is another file; choose another --out, or allow it with --overwrite")
        if there == restored.data:
            done.unchanged += 1
        else:
            storage.write_atomic(uri, restored.data)
        done.restored += 1
        done.sources += restored.is_source


def _selected(
    archive: Archive, ids: Sequence[str] | None, where: str | None, done: Restoration
) -> list[dict[str, Any]]:
    """Rows of what is to be restored, in the order of sources."""
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
    return list(kept.select(["image_id", "source_uri", "part"]).to_pylist())
