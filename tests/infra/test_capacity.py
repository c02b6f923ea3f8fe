from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from infra import capacity
from infra.capacity import Assumptions, breaks, forecast
from pipeline.archive.parts import CHUNK_BYTES, CHUNK_IMAGES

ROOT = Path(__file__).parents[2]
COSTS = {
    "conditions": {"command": "made up"},
    "codec": "cnn",
    "stages": {
        "images": 10,
        "mpx": 10.0,
        "cpu_s": {"decode": 0.2, "analyse": 40.0, "encode": 1.0, "commit": 0.01},
        "source_bytes": 3_000_000,
        "payload_bytes": 1_000_000,
        "metrics_bytes": 5_000,
    },
    "requests": {"run": {"PUT": 7.0, "GET": 3.0}, "part": {"PUT": 2.0, "HEAD": 3.0}, "image": {"GET": 1.0}},
    "planning": {
        "rows": 1000,
        "objects": 1000,
        "plan, nothing new": {"elapsed_s": 1.0, "before_mib": 100.0, "peak_mib": 101.0},
        "list a bucket": {"elapsed_s": 0.5},
    },
}


def test_hours_are_those_of_the_slowest_pool():
    given = Assumptions(cores=10, accelerators=2, speedup=20)
    found = forecast(COSTS, 1_000_000, given)
    assert found.parts == 1_000_000 / 55 // 1 + 1  # 16 MiB hold 55 images of 300 kB
    assert found.bottleneck == "analyse on 2 accelerators"
    assert found.hours == pytest.approx(1e6 * 4.0 / 20 / 2 / 3600)
    assert forecast(COSTS, 1_000_000, Assumptions(cores=1, accelerators=99)).bottleneck == "encode on 1 cores"


def test_requests_add_up_over_run_parts_and_images():
    found = forecast(COSTS, 1_000_000, Assumptions(put_usd_per_1000=0.005, get_usd_per_1000=0.0004))
    assert found.requests == {"PUT": 7 + 2 * found.parts, "HEAD": 3 * found.parts, "GET": 3 + 1e6, "LIST": 1000}
    dear, cheap = found.requests["PUT"] + 1000, found.requests["HEAD"] + found.requests["GET"]
    assert found.requests_usd == pytest.approx((dear * 0.005 + cheap * 0.0004) / 1000)


def test_what_breaks_first_comes_first():
    given = Assumptions(driver_gib=16)
    assert breaks(forecast(COSTS, 1_000_000, given), given) == ["nothing"]
    assert "the plan of a night" in breaks(forecast(COSTS, 100_000_000, given), given)[0]
    tight = Assumptions(driver_gib=0.5)
    assert "the driver's memory" in breaks(forecast(COSTS, 1_000_000, tight), tight)[0]


def test_the_simulator_knows_how_parts_are_cut():
    assert (capacity.CHUNK_IMAGES, capacity.CHUNK_BYTES) == (CHUNK_IMAGES, CHUNK_BYTES)


def test_the_page_shows_what_the_command_prints():
    done = subprocess.run([sys.executable, "-m", "infra.capacity"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in (ROOT / "infra" / "CAPACITY.md").read_text(), "python -m infra.capacity --write"
