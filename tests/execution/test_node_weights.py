from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.archive import Archive, create_or_open
from pipeline.errors import ArchiveError
from pipeline.execution.node_weights import model_bytes

DATA = b"weights" * 1000
SHA256 = hashlib.sha256(DATA).hexdigest()
MODEL = SHA256[:16]


@pytest.fixture
def archive(tmp_path, monkeypatch) -> Archive:
    monkeypatch.setenv("SHARDPRESS_CACHE", str(tmp_path / "node"))
    made = create_or_open(str(tmp_path / "archive"))
    made.add_weights(SHA256, DATA)
    return made


def test_many_workers_of_a_node_fetch_weights_once(archive, tmp_path, monkeypatch):
    fetched = []
    real = Archive.weights
    monkeypatch.setattr(Archive, "weights", lambda self, model: fetched.append(model) or real(self, model))
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: model_bytes(archive, MODEL), range(8))) == {DATA}
    assert fetched == [MODEL]
    assert sorted(path.name for path in (tmp_path / "node").iterdir()) == [f"{MODEL}.lock", f"{MODEL}.safetensors"]


def test_a_damaged_copy_is_fetched_again(archive, tmp_path):
    model_bytes(archive, MODEL)
    (tmp_path / "node" / f"{MODEL}.safetensors").write_bytes(DATA[:-1])
    assert model_bytes(archive, MODEL) == DATA


def test_a_model_that_the_archive_lacks_is_an_error(archive):
    with pytest.raises(ArchiveError, match="found 0 weights files for model 'ffff'"):
        model_bytes(archive, "ffff")
