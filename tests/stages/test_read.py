from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from pipeline.archive import CHUNK_BYTES, CHUNK_IMAGES, Unit
from pipeline.errors import SourceError
from pipeline.records import SourceItem
from pipeline.stages.decode import Decode
from pipeline.stages.read import chunked, read_unit
from tests.stages.pictures import file_of, smooth, source_of


def images(*sizes: int) -> Iterator:
    return (source_of(bytes(size), f"{n}.png") for n, size in enumerate(sizes))


def sizes_of(chunks) -> list[list[int]]:
    return [[len(image.data or b"") for image in chunk.images] for chunk in chunks]


def test_chunks_are_cut_by_count():
    chunks = list(chunked(images(*[1] * (CHUNK_IMAGES + 1))))
    assert [len(chunk.images) for chunk in chunks] == [CHUNK_IMAGES, 1]
    assert [(chunk.number, chunk.last) for chunk in chunks] == [(0, False), (1, True)]


def test_chunks_are_cut_by_bytes_and_a_giant_goes_alone():
    third = CHUNK_BYTES // 3
    assert sizes_of(chunked(images(third, third, third, third))) == [[third] * 3, [third]]
    assert sizes_of(chunked(images(1, CHUNK_BYTES + 1, 1))) == [[1], [CHUNK_BYTES + 1], [1]]


def test_an_empty_shard_is_one_empty_last_chunk():
    (chunk,) = chunked(images())
    assert (chunk.images, chunk.last) == ([], True)


UNIT = Unit((SourceItem("/photos/s.tar", "v1", 10),))


class Broken:
    kind: ClassVar[str] = "webdataset"
    items_are_shards: ClassVar[bool] = True

    def images(self, items):
        yield source_of(b"first", "s.tar#1")
        raise SourceError("/photos/s.tar: damaged")


def test_a_shard_that_breaks_off_keeps_its_first_images_and_gets_a_row():
    (chunk,) = read_unit(Broken(), UNIT)
    first, broken = chunk.images
    assert first.data == b"first"
    assert broken.source_uri == "/photos/s.tar"
    assert "damaged" in (broken.error or "")


def test_decode_says_why_not():
    decode = Decode()
    assert decode(source_of(file_of(smooth()))).picture is not None
    for source in (source_of(b""), source_of(b"<html></html>"), source_of(None, error="unreadable: gone")):
        work = decode(source)
        assert work.picture is None
        assert work.outcome is not None
        assert work.outcome.status == "rejected"
        assert work.outcome.reason


def test_a_decoder_with_a_bug_costs_one_row():
    def buggy(data: bytes):
        raise IndexError("list index out of range")

    work = Decode(hook=buggy)(source_of(b"x"))
    assert work.outcome is not None
    assert "IndexError" in (work.outcome.reason or "")


def test_images_to_skip_still_count_where_chunks_are_cut():
    class Shard(Broken):
        def images(self, items):
            return images(*[1] * (CHUNK_IMAGES + 1))

    first = next(images(1)).image_id
    chunks = list(read_unit(Shard(), Unit(UNIT.items, skip=frozenset({first}))))
    assert [len(chunk.images) for chunk in chunks] == [CHUNK_IMAGES - 1, 1]
