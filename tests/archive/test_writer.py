"""The commit, and what of it survives a crash."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import storage
from pipeline.archive import Archive, PartMeta, audit, create_or_open, plan
from pipeline.errors import ArchiveError
from pipeline.records import KEPT_ORIGINAL, REJECTED, SourceItem
from tests.archive.made import SPEC, Crash, MemoryStore, commit_files, items, outcome, source


@pytest.fixture
def archive(root: str) -> Archive:
    return create_or_open(storage.join(root, "archive"))


def test_a_part_is_one_data_file_and_one_metrics_file_with_rows_in_the_same_order(archive: Archive) -> None:
    [unit] = plan(archive, items(5), SPEC)
    summary = commit_files(archive, unit)
    names = [item.uri[len(archive.uri) :] for item in storage.list_files(archive.uri)]
    part = summary.part
    assert names == ["/archive.json", f"/data/part-{part}.parquet", f"/metrics/part-{part}.parquet"]
    with storage.open_read(archive.uri + names[1]) as data:
        ids = pq.read_table(data, columns=["image_id"])["image_id"].to_pylist()
    assert ids == archive.part_metrics(part)["image_id"].to_pylist()
    assert (summary.images, summary.by_status, summary.already) == (5, {"encoded": 5}, False)


def test_a_second_commit_returns_at_once_and_changes_nothing(archive: Archive) -> None:
    [unit] = plan(archive, items(3), SPEC)
    first = commit_files(archive, unit)
    before = archive.metrics()
    again = commit_files(archive, unit)
    assert again == replace(first, already=True)
    assert archive.metrics() == before


def test_rejected_images_have_a_metrics_row_and_no_data(archive: Archive) -> None:
    [unit] = plan(archive, items(2), SPEC)
    summary = commit_files(archive, unit, REJECTED)
    assert not storage.exists(f"{archive.uri}/data/part-{summary.part}.parquet")
    rows = archive.metrics().to_pylist()
    assert {row["reason"] for row in rows} == {"unreadable: gone"}
    assert {row["payload_bytes"] for row in rows} == {None}


def test_an_image_that_comes_twice_is_refused_and_nothing_is_written(archive: Archive) -> None:
    meta = PartMeta.of(items(1), 0, True, SPEC)
    rows = [outcome(source("/src/0000.jpg"))] * 2
    with pytest.raises(ArchiveError, match=r"/src/0000.jpg: image_id .* comes twice"):
        archive.commit(meta.part_id, rows, meta, "run")
    assert not archive.is_committed(meta.part_id)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"status": "lost"}, "status is 'lost'"),
        ({"payload": None}, "without payload or codec"),
        ({"status": REJECTED, "reason": None}, "has no reason"),
    ],
)
def test_rows_that_break_a_promise_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    archive, meta = create_or_open(str(tmp_path)), PartMeta.of(items(1), 0, True, SPEC)
    with pytest.raises(ArchiveError, match=message):
        archive.commit(meta.part_id, [replace(outcome(source("/src/0000.jpg")), **changes)], meta, "run")


def test_a_part_id_that_is_not_that_of_its_metadata_is_refused(tmp_path: Path) -> None:
    archive, meta = create_or_open(str(tmp_path)), PartMeta.of(items(1), 0, True, SPEC)
    with pytest.raises(ArchiveError, match="expected the same id"):
        archive.commit("0" * 32, [], meta, "run")


def test_row_groups_are_small_enough_to_fetch_one_picture(tmp_path: Path) -> None:
    archive, meta = create_or_open(str(tmp_path)), PartMeta.of(items(12), 0, True, SPEC)
    rows = [outcome(source(item.uri), payload=bytes(300_000)) for item in items(12)]
    archive.commit(meta.part_id, rows, meta, "run")
    file = pq.ParquetFile(tmp_path / "data" / f"part-{meta.part_id}.parquet")
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [3, 3, 3, 3]


@settings(max_examples=40, deadline=None)
@given(
    crashes=st.lists(st.tuples(st.integers(1, 6), st.booleans()), max_size=6),
    counts=st.lists(st.integers(1, 5), min_size=1, max_size=3),
)
def test_whatever_crashes_in_between_every_image_ends_with_one_row(
    crashes: list[tuple[int, bool]], counts: list[int]
) -> None:
    store = MemoryStore()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(storage._STORES, "mem", store)
        listed = [item for i, n in enumerate(counts) for item in items(n, size_bytes=9 << 20, prefix=f"/{i}")]
        deaths: list[tuple[int | None, bool]] = [*crashes, (None, False)]
        for dies_in, after in deaths:
            store.dies_in, store.after = dies_in, after
            try:
                _run(listed)
            except Crash:
                store.dies_in = None
            if "mem://a/archive.json" in store.files:
                _check(Archive("mem://a"), listed)
        rows = Archive("mem://a").metrics(newest=False)
        assert sorted(rows["source_uri"].to_pylist()) == [item.uri for item in listed]


def _run(listed: list[SourceItem]) -> None:
    archive = create_or_open("mem://a")
    archive.add_spec(SPEC)
    for number, unit in enumerate(plan(archive, listed, SPEC)):
        commit_files(archive, unit, (KEPT_ORIGINAL, REJECTED)[number % 2])


def _check(archive: Archive, listed: list[SourceItem]) -> None:
    """At every moment: no row twice, every committed payload readable, nothing worse than litter."""
    rows = archive.metrics(newest=False).to_pylist()
    assert len({row["image_id"] for row in rows}) == len(rows)
    kept = {row["image_id"] for row in rows if row["status"] == KEPT_ORIGINAL}
    assert {stored.image_id for stored in archive.iter_payloads()} == kept
    assert {finding.kind for finding in audit(archive)} <= {"litter"}
    planned = [item for unit in plan(archive, listed, SPEC) for item in unit.items]
    assert len(planned) + len(rows) == len(listed)
