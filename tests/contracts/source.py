"""What every source must do, whatever it reads and wherever that lies; one test class per source inherits it.

A subclass says how its images are laid down: `put` writes one item (a file, or a shard) that holds `images` by name.
`root` (of tests/conftest.py) is once a local folder and once a prefix in a bucket.
"""

from __future__ import annotations

import pickle
import random
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import pytest

from pipeline import storage
from pipeline.errors import SourceError
from pipeline.records import SourceImage
from pipeline.sources import Source, open_source

FIRST = {f"{name}.jpg": b"\xff\xd8\xff first " + name.encode() for name in ("a", "b", "c", "d")}
SECOND = {f"{name}.jpg": b"\xff\xd8\xff second " + name.encode() for name in ("p", "q", "r")}


def read_all(source: Source) -> list[SourceImage]:
    return list(source.images(source.list_items()))


class SourceContract(ABC):
    kind: ClassVar[str]

    @abstractmethod
    def put(self, root: str, number: int, images: Mapping[str, bytes]) -> list[str]:
        """Write `images` below `root`, apart from those of another `number`; the URIs written."""

    @pytest.fixture
    def source(self, root: str) -> Source:
        self.put(root, 1, FIRST)
        self.put(root, 2, SECOND)
        return open_source(root, self.kind)

    def test_is_a_source_found_by_its_kind_and_by_auto(self, root: str, source: Source) -> None:
        assert isinstance(source, Source)
        assert source.kind == open_source(root).kind == self.kind

    def test_lists_sorted_items_with_versions_and_sizes(self, source: Source) -> None:
        items = source.list_items()
        assert items == sorted(items, key=lambda item: item.uri)
        assert all(item.version and item.size_bytes > 0 for item in items)

    def test_gives_every_image_exactly_once(self, source: Source) -> None:
        images = read_all(source)
        assert sorted(image.data or b"" for image in images) == sorted([*FIRST.values(), *SECOND.values()])
        assert len({image.image_id for image in images}) == len(images)
        assert not any(image.error for image in images)

    def test_gives_the_same_images_in_the_same_order_again(self, source: Source) -> None:
        items = source.list_items()
        assert list(source.images(items)) == list(source.images(items))

    def test_image_ids_do_not_depend_on_the_neighbours(self, root: str) -> None:
        self.put(root, 2, SECOND)
        before = {image.data: image.image_id for image in read_all(open_source(root, self.kind))}
        self.put(root, 1, FIRST)
        after = {image.data: image.image_id for image in read_all(open_source(root, self.kind))}
        assert before.items() < after.items()

    def test_image_ids_do_not_depend_on_the_selection_of_items(self, source: Source) -> None:
        items = source.list_items()
        one_by_one = [image for item in reversed(items) for image in source.images([item])]
        assert {i.image_id: i.data for i in one_by_one} == {i.image_id: i.data for i in source.images(items)}

    def test_images_carry_uri_and_version_of_their_item(self, source: Source) -> None:
        for item in source.list_items():
            for image in source.images([item]):
                assert image.source_version == item.version
                assert image.source_uri == item.uri or image.source_uri.startswith(item.uri + "#")

    def test_a_new_content_is_a_new_version_of_the_same_ids(self, root: str) -> None:
        self.put(root, 1, FIRST)
        before = read_all(open_source(root, self.kind))
        self.put(root, 1, {name: data + b" changed" for name, data in FIRST.items()})
        after = read_all(open_source(root, self.kind))
        assert [image.image_id for image in before] == [image.image_id for image in after]
        assert not {image.source_version for image in before} & {image.source_version for image in after}

    def test_an_item_that_vanishes_after_listing_is_one_row_and_the_others_come_out(self, root: str) -> None:
        gone = self.put(root, 1, {"a.jpg": b"\xff\xd8\xff gone"})
        self.put(root, 2, SECOND)
        source = open_source(root, self.kind)
        items = source.list_items()
        storage.remove(gone[0])
        images = list(source.images(items))
        assert [image.data for image in images if not image.error] == list(SECOND.values())
        assert [image.source_uri for image in images if image.data is None] == gone
        assert all((image.error or "unreadable: ").startswith("unreadable: ") for image in images)

    def test_damage_anywhere_never_raises_and_never_repeats_an_id(self, root: str) -> None:
        chance = random.Random(7)
        (uri, *_) = self.put(root, 1, FIRST)
        whole = storage.read_bytes(uri)
        for _ in range(20):
            data = bytearray(whole)
            for _ in range(chance.choice([1, 3, 30])):
                data[chance.randrange(len(data))] = chance.randrange(256)
            storage.write_atomic(uri, bytes(data[: chance.choice([len(data), chance.randrange(len(data))])]))
            images = read_all(open_source(uri, self.kind))
            assert len({image.image_id for image in images}) == len(images)
            assert all((image.data is None) == (image.error is not None) for image in images)

    def test_pickles_small_and_reads_the_same_elsewhere(self, source: Source) -> None:
        pickled = pickle.dumps(source)
        assert len(pickled) < 1000
        assert read_all(pickle.loads(pickled)) == read_all(source)

    def test_nothing_there_is_an_error_that_says_what_was_looked_for(self, root: str) -> None:
        storage.write_atomic(storage.join(root, "readme.md"), b"no images here")
        with pytest.raises(SourceError, match=r"found 1 other file; expected .*; check the path"):
            open_source(root, self.kind).list_items()
