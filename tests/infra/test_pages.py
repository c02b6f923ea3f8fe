"""The pages of infra/: what they name is there, and commands that need a cluster are at least linted.

The others are run by tests/test_documents.py and tests/infra/test_ray_job.py.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

INFRA = Path(__file__).parents[2] / "infra"
BIN = Path(sys.executable).parent


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
    named += re.findall(r"(?<!tests/)\binfra/([\w./-]+\w)", page.read_text())  # in commands, too
    assert all((INFRA / name).exists() for name in named), named
