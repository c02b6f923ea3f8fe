"""A gateway over a small archive."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.data_tools import made

pytest.importorskip("starlette", reason="the extra [serve] is not installed")


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory, photos: list[Path]) -> str:
    """Six pictures: photos as WebP, one with alpha, one whose name wants to be HTML."""
    folder = tmp_path_factory.mktemp("served") / "source"
    folder.mkdir()
    for number, photo in enumerate(photos[:5]):
        with Image.open(photo) as image:
            image.thumbnail((640, 640))
            image.save(folder / f"{photo.stem}.jpg", quality=90)
            if number == 0:
                cut = image.convert("RGB").resize((64, 48))
                cut.putalpha(Image.linear_gradient("L").resize(cut.size))
                cut.save(folder / "<img src=x onerror=alert(1)>.png")
    return made.press(folder, folder.parent / "archive", "webp", 70).uri


@pytest.fixture
def gateway(served: str) -> Callable:
    """gateway(token=..., hosts=..., **renders): a client of a new gateway."""
    from starlette.testclient import TestClient

    from pipeline.data.pictures import Pictures
    from pipeline.serve.app import app
    from pipeline.serve.renders import Renders

    def make(token: str | None = None, hosts: frozenset[str] = frozenset(), **how: object) -> TestClient:
        renders = Renders(Pictures(served, device="cpu"), **how)  # type: ignore[arg-type]
        return TestClient(app(renders, token, hosts), raise_server_exceptions=False)

    return make
