"""The pages of infra/: every command is run, or at least linted where it needs a cluster."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.documents import run_document

INFRA = Path(__file__).parents[2] / "infra"
BIN = Path(sys.executable).parent


@pytest.mark.ray
def test_every_command_of_the_operations_page_runs(tmp_path, photos, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{BIN}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "photos").mkdir()
    shutil.copy(photos[2], tmp_path / "photos")
    command = [BIN / "shardpress", "recompress", "--source", "photos", "--archive", "archive", "codec.name=webp", "-q"]
    subprocess.run(command, check=True)
    assert run_document(INFRA / "OPERATIONS.md", tmp_path, lambda: None, {}) >= 6


@pytest.mark.parametrize("page", sorted(INFRA.glob("*.md")), ids=lambda page: page.name)
def test_every_command_is_clean(page):
    blocks = re.findall(r"^```bash\n(.*?)^```$", page.read_text(), re.M | re.S)
    for block in blocks:
        done = subprocess.run([BIN / "shellcheck", "-s", "bash", "-"], input=block, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("page", sorted(INFRA.glob("*.md")), ids=lambda page: page.name)
def test_what_a_page_names_is_there(page):
    named = re.findall(r"`((?:local|docker|compose|kuberay|aws|prometheus|grafana)/[\w./-]*)`", page.read_text())
    named += re.findall(r"\]\(([\w./-]+)\)", page.read_text())
    assert all((INFRA / name).exists() for name in named), named
