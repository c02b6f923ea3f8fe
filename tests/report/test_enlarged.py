"""Super-resolution on the page of an evaluation: source, bicubic and restored."""

from __future__ import annotations

import numpy as np
from PIL import Image

from jobs import report
from pipeline.codecs.learned import superres
from pipeline.imaging.resize import resized
from pipeline.metrics.luma import psnr_and_ssim
from pipeline.report import enlarged, pictures
from pipeline.report.options import PageOptions
from pipeline.report.page import Page, render
from pipeline.report.results_page import results_page
from tests.report.browser import opened


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


def test_the_page_of_jobs_report_shows_bicubic_and_restored_under_a_slider_and_the_source_below(
    measured_folder, tmp_path
):
    path = tmp_path / "page.html"
    assert report.main(["--results", measured_folder, "--out", str(path), "--worst", "0", "--superres", "1"]) == 0
    with opened(path) as browser:
        _is_shown(browser)
        assert browser.get_log("browser") == []


def _is_shown(browser):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    exhibit = browser.find_element(By.CSS_SELECTOR, ".exhibit")
    assert [tag.text for tag in exhibit.find_elements(By.CSS_SELECTOR, ".tag")] == ["bicubic", "restored"]
    shown = exhibit.find_elements(By.TAG_NAME, "img")
    assert [image.get_attribute("alt").rpartition(", ")[2] for image in shown] == ["restored", "bicubic", "source"]
    assert all(int(image.get_attribute("naturalWidth")) == 256 for image in shown)
    restored, bicubic, source = (image.rect for image in shown)
    assert (restored["x"], restored["y"]) == (bicubic["x"], bicubic["y"])
    assert (source["width"], source["height"]) == (restored["width"], restored["height"])
    assert source["y"] >= restored["y"] + restored["height"]
    for key, hidden in ((Keys.HOME, "100%"), (Keys.END, "0%")):
        exhibit.find_element(By.TAG_NAME, "input").send_keys(key)
        assert shown[1].value_of_css_property("clip-path").split()[1] == hidden


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
