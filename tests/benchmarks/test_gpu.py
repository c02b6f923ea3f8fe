"""The comparison of devices runs on the CPU too, where nothing may differ, and says so when something does."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from pipeline.codecs.learned import tiles
from pipeline.codecs.learned.hyperprior import Hyperprior
from tests.benchmarks import exactness, gpu
from tests.contracts.codec import photo


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """`main` on the CPU over one small photo, and over that tiled."""
    Image.fromarray(photo(80, 112)).save(tmp_path / "small.png")
    monkeypatch.setattr(gpu, "LARGE_PX", (144, 160))
    monkeypatch.setattr(exactness, "QUALITIES", (58.0,))
    monkeypatch.setattr(gpu.importlib.util, "find_spec", lambda name: None)
    words = ["--images", str(tmp_path), "--device", "cpu", "--rounds", "1", "--out", str(tmp_path / "found.md")]
    return lambda *more: gpu.main([*words, *more])


def test_both_tables_are_printed_and_written(run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    out = capsys.readouterr().out
    assert "16 of 16 checks were made." in out
    assert "| cnn, effort 2" in out
    assert "160x144" in out
    assert "- hardware: " in out
    assert out.endswith((tmp_path / "found.md").read_text() + "\n")


def test_it_ends_when_its_time_is_over(run, capsys) -> None:
    assert run("--limit-s", "0") == 0
    out = capsys.readouterr().out
    assert "0 of 16 checks were made." in out
    assert out.count("No time was left") == 2


def test_a_symbol_that_differs_ends_in_one_sentence(run, monkeypatch, capsys) -> None:
    whole = Hyperprior.entropy_decode

    def damaged(codec: Hyperprior, payload: bytes):
        read = whole(codec, payload)
        y = read.y.copy()
        y[0, 0, 0] += 1
        return replace(read, y=y)

    monkeypatch.setattr(Hyperprior, "entropy_decode", damaged)
    assert run() == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert "noise at quality 58, effort 0, made on cpu and read on cpu: 1 of 36864 symbols of y differ" in said


def test_a_scale_index_that_differs_is_found(run, monkeypatch, capsys) -> None:
    derived, asked = exactness.tables, []

    def other(networks, symbols):
        asked.append(1)
        return derived(networks, symbols) + (len(asked) == 2)

    monkeypatch.setattr(exactness, "tables", other)
    assert run() == 1
    assert "36864 of 36864 scale indexes differ" in capsys.readouterr().err


def test_without_a_gpu_it_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="needs a CUDA device"):
        gpu.main([])


def test_flags_are_as_before_when_the_last_of_several_threads_is_done() -> None:
    before, inside, told = torch.backends.cudnn.allow_tf32, threading.Barrier(2, timeout=30), []

    def work(wait: bool) -> None:
        with tiles.without_tf32():
            inside.wait()
            if wait:
                first.join()
            told.append(torch.backends.cudnn.allow_tf32)

    first, second = threading.Thread(target=work, args=(False,)), threading.Thread(target=work, args=(True,))
    second.start()
    first.start()
    second.join()
    assert told == [False, False]
    assert torch.backends.cudnn.allow_tf32 == before


def test_flags_are_as_before_afterwards() -> None:
    before = torch.backends.cudnn.allow_tf32
    with tiles.without_tf32():
        assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32 == before
