"""Super-resolution on the page of an evaluation: source, bicubic and restored."""

from __future__ import annotations

import numpy as np
from PIL import Image

from pipeline.codecs.learned import superres
from pipeline.imaging.resize import resized
from pipeline.metrics.luma import psnr_and_ssim
from pipeline.report import enlarged, pictures
from pipeline.report.options import PageOptions
from pipeline.report.page import Page, render
from pipeline.report.results_page import results_page


def test_a_page_shows_source_bicubic_and_restored(measured_folder):
    page = results_page(measured_folder, PageOptions(worst=0, superres=2))
    (section,) = [each for each in page.sections if each.title == "Restored at twice the size"]
    assert len(section.exhibits) == 2
    html = render(Page("one", "", [section]))
    for tag in ("bicubic", "restored"):
        assert f">{tag}</span>" in html
    for one in section.exhibits:
        assert one.problem is None
        for picture in (one.before, one.after, one.beside):
            assert picture.startswith("data:image/webp")
            assert picture in html
    none = results_page(measured_folder, PageOptions(worst=0, superres=0))
    assert not [each for each in none.sections if each.title.startswith("Restored")]


def test_the_window_is_that_of_the_whole_picture_restored(photos, monkeypatch):
    rgb = np.asarray(Image.open(photos[-2]).convert("RGB"))[:901, :1203]
    seen = []
    monkeypatch.setattr(pictures, "photo", lambda part, limit: seen.append(part) or "data:")
    one = enlarged.shown("name", rgb)
    assert (one.width, one.height) == (480, 360)
    before, after, source = seen
    even = rgb[:900, :1202]
    small = resized(even, 450, 601)
    whole = {"bicubic": resized(small, 900, 1202), "restored": superres.restore(small, device="cpu")}
    top, left, height, width = pictures.worst_window(pictures.error_of(even, whole["bicubic"]))
    window = np.s_[top : top + height, left : left + width]
    assert np.array_equal(source, even[window])
    assert np.array_equal(before, whole["bicubic"][window])
    assert np.abs(after.astype(int) - whole["restored"][window]).max() <= 1
    assert psnr_and_ssim(source, after, 2)[0] > psnr_and_ssim(source, before, 2)[0]


def test_a_picture_too_small_to_reduce_says_so():
    assert "too few" in str(enlarged.shown("dot", np.zeros((9, 40, 3), np.uint8)).problem)


def test_options_travel_from_the_config():
    from jobs.report import _options
    from pipeline.config import ReportSection

    assert _options(ReportSection(superres=5)).superres == 5
