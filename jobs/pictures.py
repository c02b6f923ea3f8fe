"""What `restore` and `verify` share: decoders for stored rows, and names for restored files."""

from __future__ import annotations

import functools
import posixpath
import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

from pipeline import storage
from pipeline.archive import Archive
from pipeline.codecs import registry
from pipeline.codecs.base import Codec

_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f\\:*?\"<>|]")
# Most file systems allow 255 bytes for a name, S3 1024 for a key; id, suffix and the folder given must fit beside it.
_NAME_BYTES, _SUFFIX_LENGTH, _PATH_BYTES = 200, 12, 700
LONG_PATHS = "long-paths"


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


class Place(NamedTuple):
    """Where a restored file goes: a path without its suffix, unique among all, and the suffix that the source had."""

    stem: str
    own_suffix: str

    def named(self, suffix: str | None, other_suffix: str = "") -> str:
        """`suffix` replaces that of the source; None keeps it, or adds `other_suffix` where it has none."""
        return self.stem + ((self.own_suffix or other_suffix) if suffix is None else suffix)


def places(sources: Mapping[str, str]) -> dict[str, Place]:
    """image_id -> where to put its file, below one folder, from image_id -> source URI; no two get the same place.

    Folders that all sources share are left out; members of a shard come into a folder named after it. Names that
    differ in suffix, case or Unicode form alone carry the start of their image_id, or all of it where somebody made
    names to collide with that.
    """
    paths = {image_id: _segments(uri) for image_id, uri in sources.items()}
    shared = len(posixpath.commonprefix([path[:-1] for path in paths.values()])) if paths else 0
    plain = {image_id: _plain(path[shared:]) for image_id, path in paths.items()}
    marks = dict.fromkeys(plain, 0)  # hex digits of the image_id behind each name
    while clashes := _clashes({image_id: _marked(plain[image_id].stem, image_id, marks) for image_id in plain}):
        for image_id in clashes:
            marks[image_id] = 8 if marks[image_id] == 0 else len(image_id)
    return {i: Place(_marked(place.stem, i, marks), place.own_suffix) for i, place in plain.items()}


def _clashes(names: Mapping[str, str]) -> list[str]:
    """Whoever has the name of another, in the eyes of a file system that ignores case and Unicode forms."""
    owners: dict[str, list[str]] = defaultdict(list)
    for image_id, name in names.items():
        owners[unicodedata.normalize("NFC", name).casefold()].append(image_id)
    return [image_id for same in owners.values() if len(same) > 1 for image_id in same]


def _marked(stem: str, image_id: str, marks: Mapping[str, int]) -> str:
    return f"{stem}-{image_id[: marks[image_id]]}" if marks[image_id] else stem


def _plain(path: list[str]) -> Place:
    """A name of its own for the file: folders, stem and suffix, each short enough for any file system or bucket."""
    *folders, name = path
    stem, suffix = posixpath.splitext(name)
    if len(suffix) > _SUFFIX_LENGTH:
        stem, suffix = name, ""
    whole = posixpath.join(*map(_shortened, folders), _shortened(stem))
    if len(whole.encode()) > _PATH_BYTES:
        whole = posixpath.join(LONG_PATHS, _shortened(stem))
    return Place(whole, suffix)


def _segments(uri: str) -> list[str]:
    """Path segments of a URI that cannot leave the folder they are put in."""
    file, mark, member = uri.rpartition("://")[2].partition("#")
    path = file
    if mark:
        path = f"{posixpath.splitext(file)[0]}/{member}"
    parts = (_FORBIDDEN.sub("_", part).strip() for part in path.split("/"))
    return [part.lstrip(".") or "_" for part in parts if part and part != "."] or ["_"]


def _shortened(name: str) -> str:
    return name.encode("utf-8", "replace")[:_NAME_BYTES].decode("utf-8", "ignore")
