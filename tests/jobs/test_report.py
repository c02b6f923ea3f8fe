"""`jobs.report` from the command line."""

from __future__ import annotations

import json

import pytest

from jobs import report
from pipeline import storage
from pipeline.archive import create_or_open, results
from pipeline.archive.results import ResultMeta


@pytest.fixture
def few_results(root: str) -> str:
    """Two codecs on two images, once in a folder and once in a bucket."""
    rows = [
        {
            "image_id": image, "source_uri": f"/gone/{image}.png", "source_version": "1", "source_bytes": 10_000,
            "width": 100, "height": 100, "status": "encoded", "series": codec, "codec": codec, "quality": quality,
            "setting_id": f"{codec}-{quality}", "payload_bytes": int(size * factor), "bpp": size * factor * 8e-4,
            "mse": 10.0, "psnr_db": 30 + quality / 10, "ssim": 0.9, "ms_ssim": 0.95 + quality / 2000,
            "encode_ms": 5.0, "decode_ms": 2.0,
        }
        for image in "ab"
        for codec, factor in (("jpeg", 1.0), ("webp", 0.75))
        for quality, size in ((10.0, 1000), (30.0, 2000), (50.0, 3500), (70.0, 6000))
    ]  # fmt: skip
    folder = f"{root}/results"
    results.commit(folder, ResultMeta((("/gone/a.png", "1"),), ("s",)), rows, "run")
    return folder


def test_a_page_beside_the_results(few_results, capsys):
    assert report.main(["--results", few_results, "--price", "0.02"]) == 0
    assert capsys.readouterr().out == f"report: {few_results}/report.html\n"
    text = storage.read_bytes(f"{few_results}/report.html").decode()
    assert "-25.0 % (-25.0 to -25.0)" in text
    assert "no run record" in text.lower()


def test_results_in_a_bucket_say_what_is_done(few_results):
    assert results.done(few_results) == {("/gone/a.png", "1", None): {"s"}}
    assert len(results.read(few_results)) == 16


def test_a_page_of_an_archive_elsewhere(tmp_path, capsys):
    archive = create_or_open(str(tmp_path / "archive"))
    assert report.main(["--archive", archive.uri, "--out", str(tmp_path / "page.html"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"report": str(tmp_path / "page.html")}
    assert (tmp_path / "page.html").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "one of them"),
        (["--results", "a", "--archive", "b"], 2, "one of them"),
        (["--results", "nowhere"], 1, "found no part"),
        (["--archive", "nowhere"], 1, "not an archive"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(arguments, code, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert report.main(arguments) == code
    assert said in capsys.readouterr().err
