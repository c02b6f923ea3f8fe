"""The gateway as a process of its own: its door, and its gallery in a real browser."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from jobs.serve import is_loopback, main

_FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


@contextmanager
def _serving(archive: str, *options: str, **environment: str) -> Iterator[str]:
    command = [sys.executable, "-m", "jobs.serve", "--archive", archive, "--port", "0", "--device", "cpu", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment})
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://\S+/", line)
        assert found, line
        yield found.group()
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(20)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    """Debian's chromium, driven by its chromedriver."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed (extra [dev])")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("chromium and chromium-driver are not installed (apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*_FLAGS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    opened = webdriver.Chrome(options, webdriver.ChromeService(driver))
    opened.set_page_load_timeout(30)
    yield opened
    opened.quit()


def test_a_person_looks_searches_and_opens_a_picture(browser: Any, served: str) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    def loaded(driver: Any) -> bool:
        script = "return [...document.images].every(i => i.complete && i.naturalWidth > 0)"
        return bool(driver.execute_script(script))

    with _serving(served) as url:
        browser.get(url)
        WebDriverWait(browser, 30).until(loaded)
        assert len(browser.find_elements(By.TAG_NAME, "img")) == 6
        assert browser.find_element(By.TAG_NAME, "h1").text == "6 of 6 pictures"
        box = browser.find_element(By.NAME, "q")
        box.send_keys("width > 100 and codec = 'webp'")
        box.submit()
        WebDriverWait(browser, 30).until(lambda d: "q=" in d.current_url)
        WebDriverWait(browser, 30).until(loaded)
        assert len(browser.find_elements(By.TAG_NAME, "img")) == 5
        browser.find_element(By.CSS_SELECTOR, "li a").click()
        WebDriverWait(browser, 30).until(lambda d: "/images/" in d.current_url and loaded(d))
        assert browser.execute_script("return document.images[0].naturalWidth") <= 640
        assert not [e for e in browser.get_log("browser") if e["level"] == "SEVERE"]


def test_the_process_answers_and_asks_for_its_token(served: str) -> None:
    with _serving(served, "--host", "0.0.0.0", SHARDPRESS_TOKEN="open sesame") as url:
        local = url.replace("0.0.0.0", "127.0.0.1")
        assert urllib.request.urlopen(local + "healthz", timeout=20).status == 200
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(local, timeout=20)
        asked = urllib.request.Request(local, headers={"Authorization": "Bearer open sesame"})
        assert urllib.request.urlopen(asked, timeout=20).status == 200


def test_others_may_not_reach_it_without_a_token(
    served: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SHARDPRESS_TOKEN", raising=False)
    assert main(["--archive", served, "--host", "0.0.0.0"]) == 2
    assert "token" in capsys.readouterr().err
    assert [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "10.0.0.1", "cold")] == [
        True, True, True, False, False, False,
    ]  # fmt: skip


def test_a_port_in_use_and_a_missing_archive_are_told(
    served: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with _serving(served) as url:
        port = url.rstrip("/").rpartition(":")[2]
        assert main(["--archive", served, "--port", port]) == 2
        assert "Address already in use" in capsys.readouterr().err
    assert main(["--archive", served, "--host", "nowhere.invalid", "--token", "t"]) == 2
    assert "--host nowhere.invalid: " in capsys.readouterr().err
    assert main(["--archive", str(tmp_path)]) == 1
    assert "archive.json" in capsys.readouterr().err
