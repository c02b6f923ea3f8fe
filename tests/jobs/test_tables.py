from __future__ import annotations

from jobs import tables
from pipeline.archive import PartMeta, create_or_open
from pipeline.execution.recompression import Report
from pipeline.records import SourceItem
from pipeline.stages.commit import commit
from tests.stages.test_commit import WebP, outcomes


def test_the_table_has_a_row_per_image_the_reasons_and_a_last_line_that_counts(tmp_path, capsys):
    archive = create_or_open(str(tmp_path))
    meta = PartMeta.of([SourceItem("/photos", "v1", 1)], 0, True, {"name": "webp"})
    with archive.run_lock("run", {}):
        total = commit(archive, meta, outcomes(WebP()), "run")
    tables.show(Report(archive, "run", total, (meta.part_id,), listed=5, planned=3, elapsed_s=1.5))
    told = capsys.readouterr().out
    assert "\x1b" not in told, "no colours where nobody sees them"
    lines = told.splitlines()
    assert [line.split()[0] for line in lines[:5]] == ["image", "a.png", "b.png", "c.png", "total"]
    assert "encoded (webp)" in lines[1]
    assert "rejected" in lines[2]
    assert any(line.startswith("  b.png: ") for line in lines)
    counts = f"{total.encoded} encoded, {total.kept_original} kept as original, 1 rejected"
    assert lines[-1] == f"3 images: {counts}; 2 were in the archive already; 1.5 s"
