"""The picture of a page for the README: python -m tests.report.screenshot report.html report.webp [width]

The head of the page with its first section, and below it the first row of the worst images.
"""

from __future__ import annotations

import base64
import io
import sys
from pathlib import Path
from typing import Any

from PIL import Image

from tests.report.browser import opened

# [top, bottom] in px of each part; a row of the gallery ends where its first picture's figure does.
_PARTS = """
const of = (element) => ["top", "bottom"].map((side) => element.getBoundingClientRect()[side] + scrollY);
const head = [0, of(document.querySelector("main section"))[1] + 14];
const row = document.querySelector(".exhibit");
return row ? [head, [of(row.closest("section"))[0] + 1, of(row)[1] + 20]] : [head];
"""


def main(page: str, out: str, width: str = "1200") -> None:
    with opened(Path(page).resolve(), int(width), 900) as browser:
        parts = [_shot(browser, int(width), top, bottom) for top, bottom in browser.execute_script(_PARTS)]
    whole = Image.new("RGB", (int(width), sum(part.height for part in parts)))
    top = 0
    for part in parts:
        whole.paste(part, (0, top))
        top += part.height
    whole.save(out)


def _shot(browser: Any, width: int, top: float, bottom: float) -> Image.Image:
    clip = {"x": 0, "y": top, "width": width, "height": bottom - top, "scale": 1}
    shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
    with Image.open(io.BytesIO(base64.b64decode(shot["data"]))) as image:
        return image.convert("RGB")


if __name__ == "__main__":
    main(*sys.argv[1:])
