"""What `restore` and `verify` share: decoders for stored rows, and names for restored files."""

from __future__ import annotations

import functools
import posixpath
import re
from collections import Counter
from collections.abc import Iterable

from pipeline import storage
from pipeline.archive import Archive
from pipeline.codecs import registry
from pipeline.codecs.base import Codec

_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f\\:*?\"<>|]")
_NAME_BYTES = 200  # of the 255 most file systems allow; the id and a suffix must fit beside it


class Decoders:
    """Codecs by the columns of a row; a learned one is loaded with the weights that rest in the archive.

    A process loads the networks of a weights file once, for all instances, as long as that file stays as it is.
    """

    def __init__(self, archive: Archive) -> None:
        self._archive, self._loaded = archive, dict[tuple[str, str | None], Codec]()

    def of(self, codec: str, model_id: str | None) -> Codec:
        """Raises ArchiveError for weights that are missing or damaged."""
        if (codec, model_id) not in self._loaded:
            self._loaded[codec, model_id] = _loaded(self._archive, codec, model_id, self._version(model_id))
        return self._loaded[codec, model_id]

    def _version(self, model_id: str | None) -> str:
        files = self._archive.weight_files() if model_id else {}
        uris = [uri for sha256, uri in files.items() if sha256.startswith(model_id or "")]
        return " ".join(storage.list_files(uri)[0].version for uri in uris)


@functools.lru_cache(maxsize=4)
def _loaded(archive: Archive, codec: str, model_id: str | None, version: str) -> Codec:
    return registry.decoder_for(codec, model_id, archive.weights)


class Names:
    """Unique names below a folder, derived from where the pictures came from.

    The folders that all sources share are left out; members of a shard come into a folder named after it. Sources
    whose names differ in their suffix or in case alone carry the start of their image_id.
    """

    def __init__(self, source_uris: Iterable[str]) -> None:
        paths = [_segments(uri) for uri in source_uris]
        self._shared = len(posixpath.commonprefix([path[:-1] for path in paths])) if paths else 0
        self._stems = Counter(_stem_of(path) for path in paths)

    def of(self, source_uri: str, image_id: str, suffix: str | None, own_suffix: str = "") -> str:
        """`suffix` replaces that of the source; None keeps it, or adds `own_suffix` where it has none."""
        path = _segments(source_uri)
        *folders, name = path[self._shared :]
        stem, own = posixpath.splitext(name)
        mark = f"-{image_id[:8]}" if self._stems[_stem_of(path)] > 1 else ""
        return posixpath.join(*folders, _shortened(stem) + mark + ((own or own_suffix) if suffix is None else suffix))


def _stem_of(path: list[str]) -> str:
    return posixpath.join(*path[:-1], _shortened(posixpath.splitext(path[-1])[0])).lower()


def _segments(uri: str) -> list[str]:
    """Path segments of a URI that cannot leave the folder they are put in."""
    file, mark, member = uri.rpartition("://")[2].partition("#")
    path = file
    if mark:
        path = f"{posixpath.splitext(file)[0]}/{member}"
    parts = (_FORBIDDEN.sub("_", part).strip() for part in path.split("/"))
    return [part.lstrip(".") or "_" for part in parts if part and part != "."] or ["_"]


def _shortened(stem: str) -> str:
    return stem.encode("utf-8", "replace")[:_NAME_BYTES].decode("utf-8", "ignore")
