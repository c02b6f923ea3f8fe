"""Every query of the READMEs is run on an archive and on results made here, and means what its question asks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pipeline.archive import create_or_open, results
from pipeline.archive.parts import PartMeta
from pipeline.archive.results import ResultMeta
from pipeline.codecs.original import Original
from pipeline.codecs.pillow import WebP
from pipeline.records import Rate, SourceItem
from pipeline.stages.decode import Decode
from pipeline.stages.encode import Encode, Floor
from tests.stages.pictures import file_of, noise, smooth, source_of

ROOT = Path(__file__).parents[1]
OF_ARCHIVES, OF_RESULTS = (
    re.findall(r"^-- ([A-Z][^\n]*)\n(SELECT [^\n]*;)$", (ROOT / name).read_text(encoding="utf-8"), flags=re.MULTILINE)
    for name in ("README.md", "jobs/README.md")
)
QUERIES = OF_ARCHIVES + OF_RESULTS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four images: one encoded twice, one encoded, one that is kept, one that is rejected; and a few results."""
    root = tmp_path_factory.mktemp("recipes")
    archive, spec = create_or_open(str(root / "archive")), WebP().spec()
    encode = Encode([WebP(Rate(quality=60.0)), Original()], Floor(20.0), Decode())
    images = [
        source_of(file_of(smooth()), "a.png"),
        source_of(file_of(smooth(640, 640)), "b.png"),
        source_of(file_of(noise(), "JPEG", quality=30), "noise.jpg"),
        source_of(b"no image", "broken.png"),
    ]
    for run, chosen in (("night-1", images), ("night-2", images[:1])):
        items = [SourceItem(image.source_uri, run, 1) for image in chosen]
        with archive.run_lock(run, {}):
            meta = PartMeta.of(items, 0, True, spec)
            archive.commit(meta.part_id, [encode(Decode()(image)) for image in chosen], meta, run)
    rows = [
        {"image_id": i, "series": s, "quality": 50.0, "status": "encoded", "payload_bytes": b, "bpp": 1.0, "psnr_db": p}
        for i, s, b, p in (
            ("x", "jpeg", 100, 33.0), ("x", "webp", 80, 34.0), ("y", "jpeg", 50, 35.0), ("y", "webp", 40, 31.0),
        )
    ]  # fmt: skip
    results.commit(str(root / "results"), ResultMeta((("/in", "1"),), ("s",)), rows, "run")
    return root


def asked(folder: Path, question: str) -> list[dict[str, Any]]:
    duckdb = pytest.importorskip("duckdb")
    (query,) = [sql for words, sql in QUERIES if question in words]
    for name in ("archive", "results"):
        query = query.replace(f"'{name}/", f"'{folder}/{name}/")
    answer = duckdb.sql(query)
    return [dict(zip(answer.columns, row, strict=True)) for row in answer.fetchall()]


def test_there_are_ten_for_an_archive():
    assert len(OF_ARCHIVES) == 10
    assert len(OF_RESULTS) == 2


@pytest.mark.parametrize("question", [words for words, _ in QUERIES], ids=range(1, len(QUERIES) + 1))
def test_every_query_runs(folder, question):
    assert asked(folder, question)


def test_savings_are_those_of_the_rows(folder):
    (row,) = asked(folder, "How much do we save")
    assert row["images"] == 4
    assert 0 < row["saved_pct"] < 100
    assert row["stored_gb"] < row["source_gb"]


def test_statuses_and_reasons_are_counted(folder):
    by_status = {row["status"]: row["images"] for row in asked(folder, "by status and codec")}
    assert by_status == {"encoded": 3, "kept_original": 1, "rejected": 1}
    reasons = asked(folder, "Why were images rejected")
    assert {row["example"].rsplit("/", 1)[-1] for row in reasons} == {"noise.jpg", "broken.png"}


def test_the_worst_come_first(folder):
    psnr = [row["psnr_db"] for row in asked(folder, "lost most")]
    assert psnr == sorted(psnr)
    saved = [row["saved_pct"] for row in asked(folder, "save least")]
    assert saved == sorted(saved)
    assert len(saved) == 3


def test_nights_and_repetitions_are_told(folder):
    assert [(row["run_id"], row["images"]) for row in asked(folder, "each night")] == [("night-1", 4), ("night-2", 1)]
    (again,) = asked(folder, "more than once")
    assert again["source_uri"] == "/photos/a.png"
    assert again["times"] == 2


def test_nothing_is_missing(folder):
    (row,) = asked(folder, "really there")
    assert (row["images"], row["found"], row["missing"]) == (4, 4, 0)


def test_the_smallest_codec_at_a_quality_is_counted_per_image(folder):
    assert sorted((row["series"], row["images"]) for row in asked(folder, "at least 32 dB")) == [
        ("jpeg", 1),
        ("webp", 1),
    ]
