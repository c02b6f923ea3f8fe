"""The page of an evaluation and of an archive: one file, no network, and everything an operator asks for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipeline.archive import create_or_open
from pipeline.archive.parts import PartMeta
from pipeline.codecs.original import Original
from pipeline.codecs.pillow import WebP
from pipeline.errors import ArchiveError, ConfigError
from pipeline.records import Rate
from pipeline.report.archive_page import archive_page
from pipeline.report.options import PageOptions
from pipeline.report.page import Page, Section, render
from pipeline.report.results_page import results_page
from pipeline.report.study import Study
from pipeline.sources import open_source
from pipeline.stages.decode import Decode
from pipeline.stages.encode import Encode, Floor


@pytest.fixture(scope="module")
def html(measured_folder: str) -> str:
    return render(results_page(measured_folder, PageOptions(price_per_gb_month=0.02, published=("vtm",), worst=2)))


def test_it_is_one_file_that_asks_nobody(html):
    links = re.findall(r"""(?:src|href)=["'](?!data:|#)([^"']*)""", html)
    assert links == []
    assert "url(" not in html
    assert "default-src 'none'" in html
    assert len(html) < 2_000_000


@pytest.mark.parametrize(
    "said",
    [
        "BD-rate against jpeg", "5 images (1 more could not be coded by every codec)", "USD saved a month, per TB",
        "VTM (H.266)", "InterDigitalInc/CompressAI", "Worst by quality: cnn", "Bits per block of",
        "How much smaller", "Least saved: cnn", "Saved, and how fast", "1,000 GB", "Made by shardpress",
        "rejected", "python -m jobs.evaluate", "95 % bootstrap", "mean of per-image RGB PSNR", "MS-SSIM", "a processor",
    ],
)  # fmt: skip
def test_it_says_what_an_operator_asks(html, said):
    assert said in html


def test_bd_rates_come_with_intervals(html):
    assert re.search(r"[+-]\d+\.\d % \([+-]\d+\.\d to [+-]\d+\.\d\)", html)


def test_the_focus_is_the_learned_codec_unless_told(measured_folder):
    assert Study(measured_folder, PageOptions()).focus.name == "cnn"
    study = Study(measured_folder, PageOptions(focus="webp", psnr_db=33.0))
    assert (study.focus.name, study.psnr_db) == ("webp", 33.0)
    assert study.focus.qualities[study.focus_setting] in (10, 40, 70, 92)


def test_a_codec_without_entropy_model_has_no_bit_map(measured_folder):
    page = render(results_page(measured_folder, PageOptions(focus="webp", worst=1)))
    assert "Bits per block of" not in page
    assert "Error map of" in page


def test_an_unknown_curve_is_told(measured_folder):
    with pytest.raises(ConfigError, match=r"no curve 'avif'.*cnn, jpeg"):
        results_page(measured_folder, PageOptions(anchor="avif"))


def test_a_source_that_is_gone_leaves_its_reason(measured_folder, crops, monkeypatch):
    monkeypatch.setattr("pipeline.report.originals.source_bytes", _gone)
    page = render(results_page(measured_folder, PageOptions(worst=1)))
    assert "no such file" in page


def _gone(*arguments: object) -> bytes:
    raise ArchiveError("no such file")


def test_names_are_escaped():
    page = render(Page("<script>x</script>", "a & b", [Section("s", ["<b>"])]))
    assert "<script>x" not in page
    assert "a &amp; b" in page


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory, crops: Path) -> str:
    made = create_or_open(str(tmp_path_factory.mktemp("archive")))
    source, encode = open_source(str(crops)), Encode([WebP(Rate(quality=60.0)), Original()], Floor(20.0), Decode())
    items = source.list_items()
    with made.run_lock("run-1", {"source": {"uri": str(crops)}}):
        meta = PartMeta.of(items, 0, True, WebP().spec())
        outcomes = [encode(Decode()(image)) for image in source.images(items)]
        made.commit(meta.part_id, outcomes, meta, "run-1")
    return made.uri


def test_an_archive_has_a_page_too(archive):
    page = render(archive_page(archive, PageOptions(price_per_gb_month=0.02, worst=5)))
    for said in (
        "What the archive holds",
        "6 images",
        "webp",
        "PNG",
        "rejected",
        "run-1",
        "Worst by quality",
        "a month",
    ):
        assert said in page
    assert page.count('class="compare"') == 5, "each picture once, whichever list it is on"
    assert "Shown above already: " in page


def test_the_best_codec_comes_first_in_tables_and_bars(html):
    saved = [
        float(number) for number in re.findall(r"<td>(-?[\d.]+) % \(\d", html[html.index("Codec by codec</h2>") :])
    ]
    assert saved[:4] == sorted(saved[:4], reverse=True)
    bars = [float(number.replace(",", "")) for number in re.findall(r">([\d,]+) GB</text>", html)]
    assert bars[0] == 1000
    assert bars[1:] == sorted(bars[1:])


def test_an_empty_archive_has_a_page(tmp_path):
    page = render(archive_page(create_or_open(str(tmp_path / "new")).uri, PageOptions()))
    assert "0 images" in page


def test_no_archive_is_told(tmp_path):
    with pytest.raises(ArchiveError, match="not an archive"):
        archive_page(str(tmp_path), PageOptions())
