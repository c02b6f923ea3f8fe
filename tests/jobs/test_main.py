"""The one door: help, examples, completion, and words for wrong words."""

from __future__ import annotations

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


def test_help_fits_one_screen(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 100
    assert all(any(line.startswith(f"  {job} ") for line in lines) for job in JOBS)


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
    script = subprocess.run(
        [sys.executable, "-m", "jobs.completion", "bash"], capture_output=True, check=True, text=True
    )
    bash = shutil.which("bash")
    assert bash is not None

    def completed(*words: str) -> list[str]:
        given = " ".join(shlex.quote(word) for word in words)
        ask = f'COMP_WORDS=({given}); COMP_CWORD={len(words) - 1}; _shardpress; echo "${{COMPREPLY[@]}}"'
        done = subprocess.run([bash, "-c", script.stdout + ask], capture_output=True, check=True, text=True)
        return done.stdout.split()

    assert completed("shardpress", "re") == ["recompress", "restore", "report"]
    assert completed("shardpress", "restore", "--w") == ["--where"]
    assert "--quality" in completed("shardpress", "encode", "--")
    assert "pyproject.toml" in completed("shardpress", "encode", "pypro") or not Path("pyproject.toml").exists()


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_scripts_are_well_formed(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(job in script for job in JOBS)
    program = shutil.which(shell)
    if program:
        subprocess.run([program, "-n"], input=script, text=True, check=True)


def test_options_come_from_the_jobs_themselves() -> None:
    assert {"--archive", "--where", "--quiet", "--help"} <= options_of("restore").keys()


def test_an_unknown_shell_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "tcsh"]) == 2
    assert "bash, zsh, fish" in capsys.readouterr().err
