"""The one door: help, examples, completion, and words for wrong words."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from jobs import cli
from jobs.__main__ import JOBS, main
from jobs.completion import SHELLS, options_of
from jobs.examples import EXAMPLES
from tests.terminal import in_terminal


def test_help_fits_one_screen(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 100
    assert all(any(line.startswith(f"  {job} ") for line in lines) for job in JOBS)


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["encode", "--help"], ["completion", "bash"], ["models"]])
def test_a_reader_that_stops_early_is_no_error(words: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-m", "jobs", *words], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert done.stderr == ""
    assert done.returncode == 1


def test_help_of_a_job_is_asked_for_in_two_ways(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", "decode"]) == main(["decode", "--help"]) == 0
    first, second = capsys.readouterr().out.split("Usage: ")[1:]
    assert first == second


def test_a_misspelt_job_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recompres"]) == 2
    assert "did you mean recompress?" in capsys.readouterr().err


@pytest.mark.parametrize("job", [job for job in JOBS if job != "completion"])
def test_every_help_ends_with_examples_that_parse(job: str, capsys: pytest.CaptureFixture[str]) -> None:
    import importlib

    assert main([job, "--help"]) == 0
    shown = capsys.readouterr().out
    command = typer.main.get_command(cli.app_of(getattr(importlib.import_module(f"jobs.{job}"), job), job))
    for line in EXAMPLES[job]:
        assert f"  {line}\n" in shown
        program, name, *arguments = shlex.split(line)
        assert (program, name) == ("shardpress", job)
        command.make_context(job, arguments)  # raises for an option that the job does not have


def test_completion_in_a_real_bash() -> None:
    script, bash = _script("bash"), shutil.which("bash")
    assert bash is not None

    def completed(*words: str) -> list[str]:
        given = " ".join(shlex.quote(word) for word in words)
        ask = f'COMP_WORDS=({given}); COMP_CWORD={len(words) - 1}; _shardpress; echo "${{COMPREPLY[@]}}"'
        done = subprocess.run([bash, "-c", script + ask], capture_output=True, check=True, text=True)
        return done.stdout.split()

    assert completed("shardpress", "re") == ["recompress", "restore", "report"]
    assert completed("shardpress", "restore", "--w") == ["--where"]
    assert "--quality" in completed("shardpress", "encode", "--")
    assert "pyproject.toml" in completed("shardpress", "encode", "pypro") or not Path("pyproject.toml").exists()


def test_completion_in_a_real_fish() -> None:
    fish = shutil.which("fish")
    if fish is None:
        pytest.skip("fish is not installed (apt-get install fish)")

    def completed(line: str) -> dict[str, str]:
        asked = f"{_script('fish')}\ncomplete -C {shlex.quote(line)}"
        done = subprocess.run([fish, "--no-config", "-c", asked], capture_output=True, check=True, text=True)
        assert done.stderr == ""
        return dict(each.partition("\t")[::2] for each in done.stdout.splitlines())

    found = completed("shardpress re")
    assert list(found) == ["recompress", "report", "restore"]
    assert found["restore"] == JOBS["restore"]
    assert list(completed("shardpress restore --w")) == ["--where"]
    assert "--quality" in completed("shardpress encode --")
    assert "--archive" not in completed("shardpress encode --")


def test_completion_in_a_real_zsh_as_somebody_types(tmp_path: Path) -> None:
    zsh = shutil.which("zsh")
    if zsh is None:
        pytest.skip("zsh is not installed (apt-get install zsh)")
    (tmp_path / "completion.zsh").write_text(_script("zsh"))
    (tmp_path / "one-photo.jpg").touch()
    typed = (
        "shardpress() { print -r -- received:$* }\n"
        "source completion.zsh\n"
        "shardpress recom\t\n"
        "shardpress restore --w\t\n"
        "shardpress encode one-p\t\n"
        "exit\n"
    )
    told = in_terminal([zsh, "-f", "-i"], tmp_path, typed)
    received = [line.strip().removeprefix("received:") for line in told.splitlines() if line.startswith("received:")]
    assert received == ["recompress", "restore --where", "encode one-photo.jpg"], told


def _script(shell: str) -> str:
    command = [sys.executable, "-m", "jobs.completion", shell]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_scripts_know_every_job(shell: str) -> None:
    script = _script(shell)
    assert all(job in script for job in JOBS)
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed (apt-get install {shell})")
    subprocess.run([program, "-n"], input=script, text=True, check=True)


def test_options_come_from_the_jobs_themselves() -> None:
    assert {"--archive", "--where", "--quiet", "--help"} <= options_of("restore").keys()


def test_an_unknown_shell_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "tcsh"]) == 2
    assert "bash, zsh, fish" in capsys.readouterr().err
