"""The picture of a page for the README: python -m tests.report.screenshot report.html report.webp [width height]"""

from __future__ import annotations

import base64
import io
import sys
from pathlib import Path

from PIL import Image

from tests.report.browser import opened


def main(page: str, out: str, width: str = "1200", height: str = "1500") -> None:
    size = {"x": 0, "y": 0, "width": int(width), "height": int(height), "scale": 1}
    with opened(Path(page).resolve(), int(width), int(height)) as browser:
        shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": size})
    with Image.open(io.BytesIO(base64.b64decode(shot["data"]))) as image:
        image.convert("RGB").save(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
