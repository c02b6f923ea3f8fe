"""A few rounds of the soak: SIGKILL of each kind of process, at steps where most could go wrong.

All of them, at random times too: `make soak`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import S3Server
from tests.soak.rounds import Fault, play

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1200)]

FAULTS = [
    Fault("driver", "data part", "after"),
    Fault("task", "metrics part", "after"),
    Fault("node", "encode", "before", lives=2),
    Fault("actor", "analyse", "before", codec="cnn"),
    Fault("task", "encode", "before", codec="cnn"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_after_a_kill_every_image_has_one_row_and_nothing_is_left_over(fault: Fault, tmp_path: Path):
    found = play(str(tmp_path), fault, number=0)
    assert found.killed
    assert not found.broken, found.line


@pytest.mark.s3
def test_and_so_it_is_on_s3(s3_server: S3Server, tmp_path: Path):
    found = play(f"{s3_server.bucket('crashes')}/{tmp_path.name}", Fault("task", "data part", "after"), number=0)
    assert found.killed
    assert not found.broken, found.line
