from __future__ import annotations

from dataclasses import replace

from pipeline.archive import PartMeta, create_or_open
from pipeline.codecs.jxl import JXLLossless
from pipeline.codecs.original import Original
from pipeline.codecs.pillow import WebP
from pipeline.records import Rate, SourceItem
from pipeline.stages.commit import Tally, commit
from pipeline.stages.decode import Decode
from pipeline.stages.encode import Encode, Floor
from tests.stages.pictures import file_of, smooth, source_of

FILES = {"a.png": file_of(smooth()), "b.png": b"<html>", "c.png": file_of(smooth(2, 2))}


def outcomes(*chain) -> list:
    decode = Decode()
    encode = Encode([*chain, Original()], Floor(psnr_db=20), decode)
    return [encode(decode(source_of(data, name))) for name, data in FILES.items()]


def test_a_commit_tells_what_the_archive_then_says(tmp_path):
    archive = create_or_open(str(tmp_path))
    meta = PartMeta.of([SourceItem("/photos", "v1", 1)], 0, True, {"name": "webp"})
    with archive.run_lock("run", {}):
        told = commit(archive, meta, outcomes(WebP(Rate(quality=80))), "run")
        again = commit(archive, meta, outcomes(JXLLossless()), "run")
    assert (told.images, told.rejected, told.parts) == (3, 1, 1)
    assert told.encoded + told.kept_original == 2
    assert told.reasons == {"encoded/as_asked": 1, "kept_original/below_floor": 1, "rejected/undecodable": 1}
    assert told.stage_s.keys() == {"commit"}
    assert replace(told, stage_s={}, nodes={}) == again == replace(Tally.of_part(archive, meta.part_id, "run"), units=1)
    assert Tally.of_part(archive, meta.part_id, "another run") == Tally()


def test_tallies_add_up():
    one = Tally(parts=1, images=2, encoded=1, rejected=1, source_bytes=300, rejected_bytes=100, payload_bytes=50)
    total = one + one
    assert (total.images, total.parts, total.saved_pct) == (4, 2, 75.0)
    assert Tally().saved_pct == 0
    assert Tally().summary()["psnr_db"] is None


def test_the_mean_psnr_is_that_of_the_mean_error():
    exact, rough = Tally(encoded=1, mse_sum=0.0), Tally(encoded=1, mse_sum=2.0)
    assert round((exact + rough).psnr_db or 0, 2) == 48.13
    assert exact.summary()["psnr_db"] is None
