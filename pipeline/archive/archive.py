"""An archive by its URI: small enough to travel to every worker, with no state of its own.

`create_or_open` and `open_archive` look at archive.json first; an `Archive(uri)` made on a worker trusts them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.archive import parts, reader, writer
from pipeline.archive.lock import RunLock
from pipeline.archive.parts import FORMAT_VERSION, PartMeta
from pipeline.archive.reader import OnError, StoredImage
from pipeline.archive.writer import CommitSummary
from pipeline.errors import ArchiveError
from pipeline.records import Outcome


@dataclass(frozen=True, slots=True)
class Archive:
    """The archive at `uri`."""

    uri: str

    def run_lock(self, run_id: str, config: Mapping[str, Any]) -> RunLock:
        """A context manager that holds the archive for one run. Entering raises ArchiveError while another does."""
        return RunLock(self.uri, run_id, config)

    def is_committed(self, part_id: str) -> bool:
        return writer.is_committed(self.uri, part_id)

    def commit(self, part_id: str, outcomes: Sequence[Outcome], meta: PartMeta, run_id: str) -> CommitSummary:
        """Data part, then metrics part; writes nothing when the part is there. Rows keep their order."""
        return writer.commit(self.uri, part_id, outcomes, meta, run_id)

    def metrics(self, columns: Collection[str] | None = None, newest: bool = True) -> pa.Table:
        """The metrics table; with `newest`, one row per image, sorted by image_id."""
        return reader.metrics(self.uri, columns, newest)

    def part_metrics(self, part_id: str) -> pa.Table:
        """The metrics rows of one committed part, in its order."""
        return reader.read_part(parts.metrics_uri(self.uri, part_id), reader.METRICS_SCHEMA.names)[1]

    def row(self, image_id: str) -> dict[str, Any]:
        """The newest metrics row of one image."""
        return reader.row(self.uri, image_id)

    def payload(self, image_id: str) -> StoredImage:
        """One stored picture, by reading one row group."""
        return reader.payload(self.uri, image_id)

    def iter_payloads(
        self,
        ids: Collection[str] | None = None,
        where: pc.Expression | None = None,
        on_error: OnError | None = None,
    ) -> Iterator[StoredImage]:
        """Stored pictures, newest rows only, in bounded memory; see `reader.iter_payloads`."""
        return reader.iter_payloads(self.uri, ids, where, on_error)

    def stored(self, rows: Iterable[dict[str, Any]], on_error: OnError | None = None) -> Iterator[StoredImage]:
        """The pictures of these (not rejected) rows of `metrics()`, part by part; for who keeps the table."""
        return reader.stored(self.uri, rows, on_error)

    def codec_specs(self) -> dict[str, dict[str, Any]]:
        """Spec id -> spec of every codec that ever wrote here."""
        return dict(_manifest(self.uri)["codec_specs"])

    def add_spec(self, spec: Mapping[str, Any]) -> str:
        """Puts `spec` into archive.json; call it while holding the run lock. Returns its id."""
        manifest, spec_id = _manifest(self.uri), parts.spec_id(spec)
        if spec_id not in manifest["codec_specs"]:
            manifest["codec_specs"][spec_id] = storage.redact_tree(spec)
            storage.write_atomic(_manifest_uri(self.uri), _json(manifest))
        return spec_id

    def add_weights(self, sha256: str, data: bytes) -> None:
        """Stores decoder weights, once, under their hash."""
        found = hashlib.sha256(data).hexdigest()
        if found != sha256:
            raise ArchiveError(f"weights: their SHA-256 is {found}, expected {sha256}; load the file again")
        uri = storage.join(self.uri, "weights", f"{sha256}.safetensors")
        if not storage.exists(uri):
            storage.write_atomic(uri, data)

    def weights(self, model_id: str) -> bytes:
        """The weights whose SHA-256 starts with `model_id`, checked against it."""
        found = {name: uri for name, uri in self.weight_files().items() if model_id and name.startswith(model_id)}
        if len(found) != 1:
            raise ArchiveError(
                f"{self.uri}: found {len(found)} weights files for model {model_id!r}, expected one in weights/; "
                "restore it from a backup of the archive or from the release that wrote it"
            )
        [(sha256, uri)] = found.items()
        data = storage.read_bytes(uri)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise ArchiveError(f"{uri}: its content does not have the SHA-256 of its name; restore it from a backup")
        return data

    def weight_files(self) -> dict[str, str]:
        """SHA-256 -> URI of every weights file."""
        items = storage.list_files(storage.join(self.uri, "weights"), {".safetensors"}, missing_ok=True)
        return {item.uri.rsplit("/", 1)[-1].removesuffix(".safetensors"): item.uri for item in items}


def create_or_open(uri: str) -> Archive:
    """The archive at `uri`, made when there is nothing. Raises ArchiveError for a folder that holds other things."""
    archive = Archive(storage.absolute(uri).rstrip("/"))
    if not storage.exists(_manifest_uri(archive.uri)):
        if not storage.is_empty(archive.uri):
            raise ArchiveError(
                f"{archive.uri}: found files but no archive.json, so this is not an archive; "
                "expected an archive or an empty place, choose another folder or prefix"
            )
        storage.put_if_absent(_manifest_uri(archive.uri), _json({"format_version": FORMAT_VERSION, "codec_specs": {}}))
    _manifest(archive.uri)
    return archive


def open_archive(uri: str) -> Archive:
    """The archive at `uri`. Raises ArchiveError when there is none, or one of an unknown version."""
    archive = Archive(storage.absolute(uri).rstrip("/"))
    _manifest(archive.uri)
    return archive


def _manifest(uri: str) -> dict[str, Any]:
    where = _manifest_uri(uri)
    data = storage.read_if_exists(where)
    if data is None:
        raise ArchiveError(f"{uri}: found no archive.json, so this is not an archive; check the path or prefix")
    try:
        found = json.loads(data)
        version = found["format_version"]
    except (ValueError, KeyError, TypeError):
        raise ArchiveError(
            f"{where}: found {data[:40]!r}, expected JSON with a format_version; restore it from a backup"
        ) from None
    parts.check_version(version, where)
    found.setdefault("codec_specs", {})
    return dict(found)


def _manifest_uri(uri: str) -> str:
    return storage.join(uri, "archive.json")


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=1).encode()
