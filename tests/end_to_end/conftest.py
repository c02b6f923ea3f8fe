"""One Ray for all scenarios that run in this process, and small pictures for them to chew on."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

PHOTOS = sorted((Path(__file__).parents[1] / "data" / "photos").glob("*.jpg"))


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """A local Ray with four logical CPUs; jobs started in this process join it."""
    import ray

    if ray.is_initialized():  # another folder of tests has this fixture, too
        yield
        return
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    options = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
    ray.init(address="local", num_cpus=4, object_store_memory=200 << 20, **options)
    yield
    ray.shutdown()


def small_photo(number: int, side: int = 240) -> bytes:
    """A shipped photo at thumbnail size, as JPEG; a different one for every `number`."""
    sink = io.BytesIO()
    with Image.open(PHOTOS[number % len(PHOTOS)]) as image:
        image.thumbnail((side - number // len(PHOTOS), side))
        image.save(sink, "JPEG", quality=92)
    return sink.getvalue()


@pytest.fixture
def fill(tmp_path: Path) -> Callable[..., Path]:
    """fill(folder, numbers): writes small photos; returns the folder."""

    def write(name: str, numbers: range) -> Path:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        for number in numbers:
            (folder / f"{number:04d}.jpg").write_bytes(small_photo(number))
        return folder

    return write
