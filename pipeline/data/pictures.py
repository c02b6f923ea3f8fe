"""An archive opened for its pictures: the rows that count, decoders that are loaded once, files in any format.

What the torch datasets, the file system, the gateway and Ray Data share. Knows no torch unless a learned payload is
decoded. Threads may share one; a process gets its own, for pickling leaves decoders and cached parts behind.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.archive import StoredImage, open_archive
from pipeline.archive.schema import METRICS_SCHEMA
from pipeline.codecs import registry
from pipeline.codecs.base import Codec, require_precision
from pipeline.errors import ArchiveError
from pipeline.imaging import export
from pipeline.records import REJECTED, Picture
from pipeline.stages.restore import Restored, picture_of, restore
from pipeline.stages.select import where as where_expression

CACHED_PARTS = 4  # of up to 64 pictures each
# How a picture of this source format is named; lossy rows of formats that cannot be written become PNG.
SUFFIXES = {
    "JPEG": ".jpg",
    "MPO": ".jpg",
    "PNG": ".png",
    "WEBP": ".webp",
    "AVIF": ".avif",
    "TIFF": ".tif",
    "JPEG2000": ".jp2",
    "GIF": ".gif",
    "BMP": ".bmp",
    "JXL": ".jxl",
}
FORMATS = {suffix: name for name, suffix in export.SUFFIXES.items()} | {".jpeg": "jpeg", ".tiff": "tiff"}


_TRAVELS = ("archive", "where", "device", "precision", "table", "cached_parts")


class Pictures:
    """Pictures of the archive at `uri`, or of those rows that `where` selects, in the order of parts.

    Args:
        where: comparisons over metrics columns, as `restore --where` takes them.
        device: where learned payloads are synthesised: "auto", "cpu", "cuda".
        precision: "fp32", or "bf16" for pictures that are only looked at or trained on (`codecs.base.PRECISIONS`).
    """

    def __init__(self, uri: str, where: str | None = None, device: str = "auto", precision: str = "fp32") -> None:
        self.archive = open_archive(uri)
        self.where, self.device, self.cached_parts = where, device, CACHED_PARTS
        self.precision = require_precision(precision)
        self.table = self._read()
        self._prepare()

    def _prepare(self) -> None:
        self._lock = threading.Lock()
        self._decoders: dict[tuple[str, str | None], Codec] = {}
        self._parts: OrderedDict[str, dict[str, StoredImage]] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _TRAVELS}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._prepare()

    def _read(self) -> pa.Table:
        table = self.archive.metrics()
        if self.where is not None:
            table = table.filter(where_expression(self.where, table.schema))
        return table.filter(pc.field("status") != REJECTED).sort_by(
            [("part", "ascending"), ("source_uri", "ascending")]
        )

    def reload(self) -> None:
        """Looks at the metrics table again: what was committed since shows up."""
        table = self._read()
        with self._lock:
            self.table = table
            self.__dict__.pop("_index", None)

    def __len__(self) -> int:
        return len(self.table)

    @cached_property
    def _index(self) -> dict[str, int]:
        return {image_id: at for at, image_id in enumerate(self.table["image_id"].to_pylist())}

    def row(self, image_id: str) -> dict[str, Any]:
        """The metrics row of one picture. Raises ArchiveError when there is none."""
        at = self._index.get(image_id)
        if at is None:
            raise ArchiveError(
                f"{self.archive.uri}: no picture {image_id!r} among {len(self)}; expected an image_id of its metrics"
            )
        return self.rows([at])[0]

    def rows(self, indexes: Sequence[int]) -> list[dict[str, Any]]:
        return list(self.table.take(pa.array(indexes, pa.int64())).to_pylist())

    def stored(self, row: dict[str, Any]) -> StoredImage:
        """The payload of one row, by reading one row group."""
        return next(iter(self.archive.stored([row])))

    def neighbours(self, rows: Sequence[dict[str, Any]]) -> list[StoredImage]:
        """The payloads of these rows, whole parts at a time; the last few parts are kept."""
        return [self._part(row["part"])[row["image_id"]] for row in rows]

    def _part(self, part: str) -> dict[str, StoredImage]:
        with self._lock:
            if part in self._parts:
                self._parts.move_to_end(part)
                return self._parts[part]
        rows = self.table.filter(pc.field("part") == part).to_pylist()
        found = {stored.image_id: stored for stored in self.archive.stored(rows)}
        with self._lock:
            self._parts[part] = found
            while len(self._parts) > self.cached_parts:
                self._parts.popitem(last=False)
        return found

    def decoder(self, codec: str, model_id: str | None) -> Codec:
        """The codec of such rows; a learned one is loaded once, with the weights that rest in the archive."""
        with self._lock:
            if (codec, model_id) not in self._decoders:
                self._decoders[codec, model_id] = registry.decoder_for(
                    codec, model_id, self.archive.weights, self.device, self.precision
                )
            return self._decoders[codec, model_id]

    def picture(self, stored: StoredImage) -> Picture:
        """Upright pixels and metadata. Raises BitstreamError for a damaged payload."""
        return picture_of(stored, self.decoder(stored.codec, stored.model_id))

    def file(self, row: dict[str, Any], file_format: str | None = None) -> Restored:
        """The picture as a file: in the format it came in (byte for byte where the payload can), or in another."""
        stored = self.stored(row)
        codec = self.decoder(stored.codec, stored.model_id)
        if file_format is not None:
            return restore(stored, codec, file_format)
        if codec.restore_source(stored.payload) is not None:
            return replace(restore(stored, codec, "original"), suffix=suffix_of(row))
        return restore(stored, codec, FORMATS.get(suffix_of(row), "png"))

    def select(self, text: str) -> pa.Table:
        """Rows whose `source_uri` or `image_id` holds `text`, or that meet it as a comparison over columns."""
        if is_comparison(text):
            return self.table.filter(where_expression(text, self.table.schema))
        fits = pc.match_substring(self.table["source_uri"], text, ignore_case=True)
        return self.table.filter(pc.or_(fits, pc.equal(self.table["image_id"], text)))


def suffix_of(row: dict[str, Any]) -> str:
    """The suffix of the file that `Pictures.file` gives for this metrics row."""
    own = SUFFIXES.get(row["source_format"] or "", "")
    if row["codec"] == "original" or own in FORMATS:
        return own
    return ".png"


def is_comparison(text: str) -> bool:
    """Whether a search text begins like a comparison: (not, brackets and) the name of a metrics column."""
    words = text.replace("(", " ").split()
    names = [word for word in words if word.lower() != "not"]
    first = names[0].split("<")[0].split(">")[0].split("=")[0].split("!")[0] if names else ""
    return first in METRICS_SCHEMA.names and len(text) > len(first)


def known_columns(columns: Collection[str]) -> tuple[list[str], list[str]]:
    """(columns of the metrics table, passthrough columns) among `columns`."""
    own = [name for name in columns if name in METRICS_SCHEMA.names]
    return own, [name for name in columns if name not in METRICS_SCHEMA.names]
