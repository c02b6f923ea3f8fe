"""A night that ends with a page of its archive, and one whose page cannot be written."""

from __future__ import annotations

import json

import pytest

from jobs.recompress import main as recompress
from pipeline.archive import open_archive

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]


def test_a_night_ends_with_one_file_about_everything_in_the_archive(fill, tmp_path, capsys):
    archive, order = tmp_path / "archive", ["codec.name=webp", "report.price_per_gb_month=0.02", "report.worst=3"]
    for images, night in ((2, "first"), (3, "second")):
        source = fill("in", range(images))
        assert recompress(["--source", str(source), "--archive", str(archive), *order, "--json"]) == 0
        place = json.loads(capsys.readouterr().out)["report"]
        assert place == f"{archive}/report.html", night
        page = (archive / "report.html").read_text(encoding="utf-8")
        assert f"{images} images" in page
        assert page.count('class="compare"') == images
        assert 'src="http' not in page
    assert "a month" in page
    for said in ("python -m jobs.recompress", "cpus: ", "ray 2", "for learned codecs"):
        assert said in page


def test_a_page_goes_where_it_is_told_and_none_is_written_unasked(fill, tmp_path, capsys):
    places = ["--source", str(fill("in", range(1))), "--archive", str(tmp_path / "archive"), "codec.name=webp"]
    assert recompress([*places, f"report.out={tmp_path}/pages/night.html"]) == 0
    assert f"report: {tmp_path}/pages/night.html" in capsys.readouterr().out
    assert (tmp_path / "pages" / "night.html").exists()
    assert recompress(places) == 0
    assert not (tmp_path / "archive" / "report.html").exists()


def test_a_page_that_cannot_be_written_fails_the_job_and_keeps_its_work(fill, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    places = ["--source", str(fill("in", range(1))), "--archive", str(tmp_path / "archive"), "codec.name=webp"]
    assert recompress([*places, f"report.out={tmp_path}/file/night.html"]) == 1
    said = capsys.readouterr().err
    assert "the page could not be written" in said
    assert "python -m jobs.report --archive" in said
    assert len(open_archive(str(tmp_path / "archive")).metrics()) == 1
