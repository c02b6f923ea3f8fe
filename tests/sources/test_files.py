from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path

import pytest

from pipeline import storage
from pipeline.errors import SourceError
from pipeline.records import SourceItem
from pipeline.sources import open_source
from pipeline.sources.files import FilesSource
from tests.contracts.source import SourceContract, read_all

JPEG = b"\xff\xd8\xff not really"
ODD_NAMES = [
    "a b.jpg",
    "ä ö.JPG",
    "100%.png",
    "a#b.jpg",
    "what?.jpg",
    "a%20b.jpg",
    "日本.webp",
    "a&b=c+d.jpg",
    "[x].jpg",
]


class TestFiles(SourceContract):
    kind = "files"

    def put(self, root: str, number: int, images: Mapping[str, bytes]) -> list[str]:
        uris = [storage.join(root, f"folder {number}", name) for name in images]
        for uri, data in zip(uris, images.values(), strict=True):
            storage.write_atomic(uri, data)
        return uris

    def test_reads_names_with_spaces_signs_and_unicode(self, root: str) -> None:
        written = {storage.join(root, "sub dir", name): JPEG + name.encode() for name in ODD_NAMES}
        for uri, data in written.items():
            storage.write_atomic(uri, data)
        assert {image.source_uri: image.data for image in read_all(FilesSource(root))} == written

    def test_passes_over_hidden_files_and_sidecars_and_nothing_else(self, root: str) -> None:
        for name in ["a.jpg", "b.JPEG", "page.jpg", "noextension", "film.mp4", "deep/er/c.png"]:
            storage.write_atomic(storage.join(root, name), b"<html>")
        for name in [".hidden.jpg", ".git/x.jpg", "a.json", "b.TXT", "labels.csv", "metadata.parquet"]:
            storage.write_atomic(storage.join(root, name), b"{}")
        names = [item.uri.rpartition("/")[2] for item in FilesSource(root).list_items()]
        assert sorted(names) == ["a.jpg", "b.JPEG", "c.png", "film.mp4", "noextension", "page.jpg"]

    def test_an_empty_file_is_an_image_too(self, root: str) -> None:
        storage.write_atomic(storage.join(root, "empty.jpg"), b"")
        assert [(image.data, image.error) for image in read_all(FilesSource(root))] == [(b"", None)]

    def test_a_single_file_is_taken_whatever_its_suffix(self, root: str) -> None:
        uri = storage.join(root, "photo.txt")
        storage.write_atomic(uri, JPEG)
        assert [image.data for image in read_all(open_source(uri))] == [JPEG]

    def test_a_glob_takes_what_it_matches(self, root: str) -> None:
        self.put(root, 1, {"a.jpg": b"1", "b.png": b"2"})
        assert [image.data for image in read_all(open_source(storage.join(root, "*", "*.png")))] == [b"2"]

    def test_sidecars_alone_are_nothing(self, root: str) -> None:
        storage.write_atomic(storage.join(root, "labels.csv"), b"a,b")
        with pytest.raises(SourceError, match="found 1 other file; expected image files"):
            FilesSource(root).list_items()


def test_a_file_over_the_limit_is_a_row_and_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "big.jpg").write_bytes(JPEG * 10)
    (image,) = read_all(FilesSource(str(tmp_path), member_limit_bytes=50))
    assert image.data is None
    assert image.error == (
        "too large: 140 bytes is over the limit of 50 bytes for one image; raise source.member_limit_bytes"
    )


def test_a_file_that_changes_size_after_listing_is_a_row_of_its_old_version(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(JPEG)
    source = FilesSource(str(tmp_path))
    items = source.list_items()
    (tmp_path / "a.jpg").write_bytes(JPEG * 2)
    (image,) = source.images(items)
    assert (image.source_version, image.data) == (items[0].version, None)
    assert "it changed in between" in (image.error or "")


@pytest.fixture
def nobody() -> Iterator[None]:
    """Not root, who reads everything, while the test runs."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


def test_a_file_without_permission_is_a_row(nobody: None) -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are closed to others than root
        (Path(folder) / "a.jpg").write_bytes(JPEG)
        (Path(folder) / "a.jpg").chmod(0)
        (image,) = read_all(FilesSource(folder))
    assert (image.error or "").startswith("unreadable: ")


def test_a_name_that_is_not_utf8_is_read_and_becomes_printable(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg")).write_bytes(JPEG)
    (image,) = read_all(FilesSource(str(tmp_path)))
    assert image.data == JPEG
    assert image.source_uri.encode("utf-8").endswith(b"/caf\\xe9.jpg")


def test_reading_ahead_is_bounded_and_ends_when_the_reader_stops(tmp_path: Path) -> None:
    for number in range(100):
        (tmp_path / f"{number:03}.jpg").write_bytes(JPEG)
    source = FilesSource(str(tmp_path), readers=4)
    images = source.images(_CountedItems(source.list_items()))
    assert isinstance(images, Generator)
    next(images)
    assert _CountedItems.taken <= 5
    images.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("source-files")]


class _CountedItems(list[SourceItem]):
    taken = 0

    def __iter__(self):  # type: ignore[no-untyped-def]
        for item in super().__iter__():
            _CountedItems.taken += 1
            yield item
