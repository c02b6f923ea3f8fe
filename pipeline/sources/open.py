"""From a URI to its source: by kind, or by the suffixes of what lies there."""

from __future__ import annotations

import dataclasses
import difflib
from typing import Any

from pipeline import storage
from pipeline.errors import ConfigError, SourceError
from pipeline.records import SourceItem
from pipeline.sources.base import Listing, Source
from pipeline.sources.files import FilesSource
from pipeline.sources.formats import IMAGE_SUFFIXES, PARQUET_SUFFIXES, SIDECAR_SUFFIXES, TAR_SUFFIXES, suffix_of
from pipeline.sources.parquet import ParquetSource
from pipeline.sources.webdataset import WebDatasetSource

_KINDS: dict[str, type[FilesSource] | type[WebDatasetSource] | type[ParquetSource]] = {
    "files": FilesSource,
    "webdataset": WebDatasetSource,
    "parquet": ParquetSource,
}
KINDS = ("auto", *_KINDS)


def open_source(uri: str, kind: str = "auto", **options: Any) -> Source:
    """The source at `uri`. `options` are the other fields of its class (`image_column`, `member_limit_bytes`, ...).

    Raises:
        ConfigError: an unknown kind or option.
        SourceError: "auto" finds nothing, or several kinds at once.
    """
    if kind not in KINDS:
        raise ConfigError(f"source.kind: found {kind!r}; expected one of {', '.join(KINDS)}{_nearest(kind, KINDS)}")
    kind, listing = _detected(uri) if kind == "auto" else (kind, Listing())
    known = [field.name for field in dataclasses.fields(_KINDS[kind]) if field.name not in ("uri", "listing")]
    for option in options:
        if option not in known:
            raise ConfigError(
                f"source.{option}: found an option that kind {kind!r} does not have; "
                f"expected one of {', '.join(known)}{_nearest(option, known)}"
            )
    return _KINDS[kind](uri, listing=listing, **options)


def _nearest(word: str, known: list[str] | tuple[str, ...]) -> str:
    close = difflib.get_close_matches(word, known, 1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _detected(uri: str) -> tuple[str, Listing]:
    """By the URI alone where it names its suffix, else by what lies there."""
    if by_name := _kind_of(uri):
        return by_name, Listing()
    found = storage.list_files(uri, missing_ok=True)
    return _kind_of_listing(uri, found), Listing(found)


def _kind_of(uri: str) -> str | None:
    """What a file of this name is taken for; None when the name alone does not say."""
    name = uri.lower()
    if name.endswith(TAR_SUFFIXES):
        return "webdataset"
    if name.endswith(PARQUET_SUFFIXES):
        return "parquet"
    return "files" if suffix_of(name) in IMAGE_SUFFIXES else None


def _kind_of_listing(uri: str, items: list[SourceItem]) -> str:
    examples: dict[str, str] = {}
    tars = {_stem(item.uri) for item in items if _kind_of(item.uri) == "webdataset"}
    for item in items:
        kind = _kind_of(item.uri)
        # img2dataset writes 00000.parquet next to 00000.tar: the table is the shard's own, and holds no image.
        if kind == "parquet" and _stem(item.uri) in tars:
            continue
        if kind or suffix_of(item.uri) not in SIDECAR_SUFFIXES:
            examples.setdefault(kind or "files", item.uri)
    if len(examples) > 1:
        found = ", ".join(f"{kind} ({example})" for kind, example in examples.items())
        raise SourceError(
            f"source {storage.redact(uri)}: found several kinds side by side: {storage.redact(found)}; "
            "expected one; set source.kind, or narrow the URI with a glob such as *.tar"
        )
    return next(iter(examples), "files")


def _stem(uri: str) -> str:
    folder, slash, base = uri.rpartition("/")
    return folder + slash + base.partition(".")[0]
