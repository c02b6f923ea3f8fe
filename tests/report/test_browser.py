"""The page in a real browser: it renders, the slider moves, hover shows values, a phone is wide enough."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.report.options import PageOptions
from pipeline.report.page import render
from pipeline.report.results_page import results_page
from tests.report.browser import opened


@pytest.fixture(scope="module")
def page(measured_folder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    options = PageOptions(price_per_gb_month=0.023, published=("vtm", "elic2022"), worst=3)
    path.write_text(render(results_page(measured_folder, options)), encoding="utf-8")
    return path


def test_a_desk_sees_it_whole(page):
    with opened(page) as browser:
        assert browser.get_log("browser") == []
        assert "Codecs compared" in browser.title
        assert browser.execute_script("return document.querySelectorAll('svg.chart').length") == 6
        broken = "return [...document.images].filter(i => !i.complete || !i.naturalWidth).length"
        assert browser.execute_script(broken) == 0
        _slider_moves(browser)
        _slider_is_dragged(browser)
        _hover_shows_values(browser)
        _arrow_keys_walk_the_points(browser)
        _legend_hides_a_curve(browser)
        assert browser.get_log("browser") == []


def _slider_moves(browser):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    slider = browser.find_element(By.CSS_SELECTOR, ".compare input")
    shown = "return getComputedStyle(document.querySelector('.compare .before')).clipPath"
    before = browser.execute_script(shown)
    slider.send_keys(Keys.HOME)
    assert browser.execute_script("return document.querySelector('.compare').style.getPropertyValue('--at')") == "0%"
    assert browser.execute_script(shown) != before
    for _ in range(3):
        slider.send_keys(Keys.ARROW_RIGHT)
    assert browser.execute_script("return document.querySelector('.compare').style.getPropertyValue('--at')") == "3%"
    outlined = "return getComputedStyle(document.activeElement.closest('.compare')).outlineStyle"
    assert browser.execute_script(outlined) == "solid"


def _slider_is_dragged(browser):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By

    slider = browser.find_element(By.CSS_SELECTOR, ".compare input")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", slider)
    ActionChains(browser).move_to_element(slider).click_and_hold().move_by_offset(60, 0).release().perform()
    at = browser.execute_script("return document.querySelector('.compare').style.getPropertyValue('--at')")
    assert 55 < float(at.rstrip("%")) < 95


def _hover_shows_values(browser):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By

    point = browser.find_element(By.CSS_SELECTOR, "svg.chart .curve:not(.published) .pt")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", point)
    ActionChains(browser).move_to_element(point).perform()
    tip = browser.find_element(By.ID, "tip")
    assert tip.is_displayed()
    assert "bpp" in tip.text
    assert browser.execute_script("return document.querySelectorAll('svg.single .curve.hot').length") == 1
    ActionChains(browser).move_to_element(browser.find_element(By.TAG_NAME, "h1")).perform()
    assert not tip.is_displayed()


def _arrow_keys_walk_the_points(browser):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    chart = browser.find_element(By.CSS_SELECTOR, "svg.chart")
    chart.send_keys(Keys.ARROW_RIGHT)
    first = browser.find_element(By.ID, "tip").text
    chart.send_keys(Keys.ARROW_RIGHT)
    assert first
    assert browser.find_element(By.ID, "tip").text != first


def _legend_hides_a_curve(browser):
    from selenium.webdriver.common.by import By

    button = browser.find_element(By.CSS_SELECTOR, ".legend button[data-name='jpeg']")
    hidden = "return document.querySelectorAll('.curve.off').length"
    browser.execute_script("arguments[0].click()", button)
    assert browser.execute_script(hidden) == 1
    assert button.get_attribute("aria-pressed") == "false"
    browser.execute_script("arguments[0].click()", button)
    assert browser.execute_script(hidden) == 0


def test_a_phone_needs_no_sideways_scrolling_in_the_dark(page):
    with opened(page, width=400, height=800, dark=True) as browser:
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 400
        table = browser.execute_script(
            "const s = document.querySelector('section > .scroll'); s.scrollLeft = 300;"
            "return [s.scrollWidth > s.clientWidth, s.querySelector('tbody td').getBoundingClientRect().left]"
        )
        assert table[0], "a table this wide needs its own scrolling"
        assert 0 <= table[1] < 20, "the names of codecs stay beside their numbers"
        background = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert background == "rgb(20, 23, 26)"
        smallest = "return Math.min(...[...document.querySelectorAll('svg.chart text')].map(t => t.getBBox().height))"
        scale = "const s = document.querySelector('svg.chart'); return s.clientWidth / s.viewBox.baseVal.width"
        assert browser.execute_script(smallest) * browser.execute_script(scale) > 12, "words in charts can be read"
        assert browser.get_log("browser") == []
