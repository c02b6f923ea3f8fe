"""Planning: new, changed, unfinished and asked-for sources, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest

from pipeline.archive import CHUNK_BYTES, Archive, PartMeta, Unit, create_or_open, plan
from pipeline.records import ENCODED, REJECTED, SourceImage, SourceItem, image_id_of
from tests.archive.made import SPEC, commit, commit_files, items, source

OTHER_SPEC = {"name": "webp", "quality": 30}


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return create_or_open(str(tmp_path / "archive"))


def planned(archive: Archive, listed: list[SourceItem], retry: Collection[str] = ()) -> list[str]:
    return [item.uri for unit in plan(archive, listed, SPEC, retry) for item in unit.items]


class TestFiles:
    def test_units_hold_at_most_64_files_and_16_mib_in_order_of_their_names(self, archive: Archive) -> None:
        units = plan(archive, items(130)[::-1], SPEC)
        assert [len(unit.items) for unit in units] == [64, 64, 2]
        assert [item for unit in units for item in unit.items] == items(130)
        big = plan(archive, items(3, size_bytes=CHUNK_BYTES // 2) + items(1, size_bytes=1 << 30, prefix="/z"), SPEC)
        assert [len(unit.items) for unit in big] == [2, 1, 1]

    def test_tomorrow_only_new_and_changed_files_are_planned_however_they_group(self, archive: Archive) -> None:
        for unit in plan(archive, items(70), SPEC):
            commit_files(archive, unit)
        assert planned(archive, items(70)) == []
        changed = [*items(70)[1:], SourceItem("/src/0000.jpg", "v2", 1000), SourceItem("/src/0003b.jpg", "v1", 9)]
        assert planned(archive, changed) == ["/src/0000.jpg", "/src/0003b.jpg"]

    def test_a_file_that_is_gone_keeps_its_row(self, archive: Archive) -> None:
        [unit] = plan(archive, items(3), SPEC)
        commit_files(archive, unit)
        assert planned(archive, items(1)) == []
        assert len(archive.metrics()) == 3

    def test_another_quality_does_not_redo_what_is_archived(self, archive: Archive) -> None:
        [unit] = plan(archive, items(3), SPEC)
        commit_files(archive, unit)
        assert plan(archive, items(3), OTHER_SPEC) == []
        [redone] = plan(archive, items(3), OTHER_SPEC, retry={"encoded"})
        assert redone.attempt == 1

    def test_rejected_files_wait_until_they_are_asked_for_and_get_another_part(self, archive: Archive) -> None:
        [unit] = plan(archive, items(2), SPEC)
        first = commit_files(archive, unit, REJECTED)
        assert planned(archive, items(2)) == []
        [again] = plan(archive, items(2), SPEC, retry={"rejected"})
        second = commit_files(archive, again)
        assert second.part != first.part
        assert archive.metrics()["status"].to_pylist() == [ENCODED] * 2
        assert plan(archive, items(2), SPEC, retry={"rejected"}) == []

    def test_retry_takes_the_first_word_of_a_reason_too(self, archive: Archive) -> None:
        [unit] = plan(archive, items(1), SPEC)
        commit_files(archive, unit, REJECTED)
        assert planned(archive, items(1), retry={"damaged"}) == []
        assert planned(archive, items(1), retry={"unreadable"}) == ["/src/0000.jpg"]

    def test_a_version_that_comes_back_is_written_again_so_that_the_newest_row_is_right(self, archive: Archive) -> None:
        for version in ("v1", "v2", "v1"):
            [unit] = plan(archive, items(1, version), SPEC)
            commit_files(archive, unit)
        assert archive.metrics()["source_version"].to_pylist() == ["v1"]
        assert len(archive.metrics(newest=False)) == 3
        assert planned(archive, items(1, "v1")) == []

    def test_names_that_are_not_utf8_are_planned_once(self, archive: Archive) -> None:
        item = SourceItem("/src/caf\udce9.jpg", "v1", 10)
        [unit] = plan(archive, [item], SPEC)
        image = SourceImage(image_id_of(item.uri), r"/src/caf\xe9.jpg", "v1", b"abc")
        commit(archive, Unit.from_json(unit.to_json()), [image])
        assert plan(archive, [item], SPEC) == []

    def test_a_hundred_thousand_rows_are_planned_in_seconds(self, archive: Archive) -> None:
        listed = items(16 * 64)
        for unit in plan(archive, listed, SPEC):
            commit_files(archive, unit, REJECTED)
        taken = []
        for _ in range(3):  # of which the fastest had the machine for itself
            start = time.monotonic()
            assert plan(archive, listed, SPEC) == []
            taken.append(time.monotonic() - start)
        assert min(taken) * 100 < 60  # 16 parts here, about 1600 there


class TestShards:
    shard = SourceItem("/src/a.tar", "v1", 5 << 20)

    def images(self, chunk: int, version: str = "v1") -> list[SourceImage]:
        return [source(f"/src/a.tar#{chunk}-{i}.jpg", version) for i in range(3)]

    def unit(self, archive: Archive, item: SourceItem = shard, spec: dict[str, Any] = SPEC) -> Unit:
        [unit] = plan(archive, [item], spec, shards=True)
        return unit

    def done(self, archive: Archive, item: SourceItem = shard, retry: Collection[str] = ()) -> bool:
        return plan(archive, [item], SPEC, retry, shards=True) == []

    def finish(self, archive: Archive, unit: Unit, status: str = ENCODED, spec: dict[str, Any] = SPEC) -> None:
        for chunk in range(3):
            version = unit.items[0].version
            commit(archive, unit, self.images(chunk, version), status, chunk=chunk, last=chunk == 2, spec=spec)

    def test_a_shard_is_planned_until_its_last_chunk_is_there(self, archive: Archive) -> None:
        for chunk in (0, 2, 1):
            unit = self.unit(archive)
            assert unit == Unit((self.shard,))
            commit(archive, unit, self.images(chunk), chunk=chunk, last=chunk == 2)
        assert self.done(archive)

    def test_a_changed_shard_is_planned_anew(self, archive: Archive) -> None:
        self.finish(archive, self.unit(archive))
        changed = SourceItem(self.shard.uri, "v2", 6 << 20)
        self.finish(archive, self.unit(archive, changed))
        assert self.done(archive, changed)
        assert set(archive.metrics()["source_version"].to_pylist()) == {"v2"}
        self.finish(archive, self.unit(archive))
        assert set(archive.metrics()["source_version"].to_pylist()) == {"v1"}
        assert self.done(archive)

    def test_a_codec_changed_in_the_middle_of_a_shard_codes_no_image_twice(self, archive: Archive) -> None:
        commit(archive, self.unit(archive), self.images(0), chunk=0, last=False)
        unit = self.unit(archive, spec=OTHER_SPEC)
        assert unit.skip == {image.image_id for image in self.images(0)}
        self.finish(archive, unit, spec=OTHER_SPEC)
        assert self.done(archive)
        assert len(archive.metrics(newest=False)) == 9

    def test_retry_takes_up_only_the_images_asked_for(self, archive: Archive) -> None:
        unit = self.unit(archive)
        for chunk in range(3):
            status = REJECTED if chunk == 1 else ENCODED
            commit(archive, unit, self.images(chunk), status, chunk=chunk, last=chunk == 2)
        assert self.done(archive)
        [again] = plan(archive, [self.shard], SPEC, {"rejected"}, shards=True)
        assert (again.partial, again.attempt) == (True, 1)
        self.finish(archive, again)
        assert set(archive.metrics()["status"].to_pylist()) == {ENCODED}
        assert len(archive.metrics(newest=False)) == 12
        assert self.done(archive, retry={"rejected"})

    def test_an_empty_shard_is_done_after_its_one_empty_part(self, archive: Archive) -> None:
        commit(archive, self.unit(archive), [])
        assert self.done(archive)


def test_units_and_part_metadata_survive_the_way_to_a_worker() -> None:
    unit = Unit(tuple(items(3)), 2, True, frozenset({"b", "a"}))
    assert Unit.from_json(unit.to_json()) == unit
    meta = unit.meta(4, False, SPEC)
    assert PartMeta.from_json(meta.to_json()) == meta


def test_the_part_id_depends_on_what_goes_in_and_on_nothing_else() -> None:
    unit = Unit(tuple(items(3)))
    part = unit.meta(0, True, SPEC).part_id
    assert Unit(unit.items[::-1]).meta(0, False, {"quality": 60.0, "name": "jpeg"}).part_id == part
    others = [unit.meta(1, True, SPEC), unit.meta(0, True, OTHER_SPEC), Unit(unit.items, 1).meta(0, True, SPEC)]
    others.append(Unit(tuple(items(3, "v2"))).meta(0, True, SPEC))
    assert len({part, *(meta.part_id for meta in others)}) == 5
    assert part == "a62868b3e8fc60f644472218ad4ddfd0"  # frozen: a part id of version 1 never changes
