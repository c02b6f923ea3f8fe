"""One labelled archive for the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data_tools import made


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory, photos: list[Path]) -> Path:
    """Four Parquet shards of 24 labelled pictures each."""
    return made.labelled_shards(tmp_path_factory.mktemp("labelled") / "source", photos)


@pytest.fixture(scope="session")
def learned(shards: Path) -> str:
    """The shards as an archive of the learned codec."""
    return made.press(shards, shards.parent / "cnn", "cnn", 50).uri


@pytest.fixture(scope="session")
def classical(shards: Path) -> str:
    """The shards as an archive of WebP."""
    return made.press(shards, shards.parent / "webp", "webp", 70).uri
