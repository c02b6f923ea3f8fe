"""The benchmark of many pictures at once runs on the CPU too, and says so when a payload is of another picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from pipeline.codecs.learned.hyperprior import Hyperprior
from tests.benchmarks import throughput
from tests.contracts.codec import photo


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """`main` on the CPU over two small photos."""
    for k, size in enumerate([(80, 112), (64, 64)]):
        Image.fromarray(photo(*size)).save(tmp_path / f"{k}.png")
    monkeypatch.setattr(throughput.importlib.util, "find_spec", lambda name: None)
    words = ["--images", str(tmp_path), "--device", "cpu", "--rounds", "1", "--count", "5", "--efforts", "0,1"]
    return lambda *more: throughput.main([*words, "--out", str(tmp_path / "found.md"), *more])


def test_a_row_for_each_effort_is_printed_and_written(run, tmp_path: Path, capsys) -> None:
    assert run() == 0
    out = capsys.readouterr().out
    assert [line.split("|")[1].strip() for line in out.splitlines() if "cnn" in line] == [
        "cnn, effort 0",
        "cnn, effort 1",
    ]
    assert "- data set: " in out
    assert out == (tmp_path / "found.md").read_text()


def test_a_payload_of_another_picture_ends_in_a_sentence(run, monkeypatch, capsys) -> None:
    whole = Hyperprior.encode_all

    def shuffled(codec: Hyperprior, pictures):
        return reversed(list(whole(codec, pictures)))

    monkeypatch.setattr(Hyperprior, "encode_all", shuffled)
    assert run("--count", "4") == 1
    assert "another picture" in capsys.readouterr().err


def test_theirs_are_batched_by_size() -> None:
    pictures = [photo(64, 64), photo(80, 112), photo(64, 64), photo(64, 64)]
    assert [batch.shape for batch in throughput.batches(pictures, 2)] == [
        (2, 64, 64, 3),
        (1, 64, 64, 3),
        (1, 80, 112, 3),
    ]


def test_without_a_gpu_it_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="needs a CUDA device"):
        throughput.main([])
