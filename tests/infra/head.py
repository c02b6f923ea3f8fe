"""A real Ray head on loopback, as `ray start --head` gives it: for tests that submit jobs."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
# A loaded machine may need more: TEST_PATIENCE=5 waits five times as long.
LIMIT_S = 120 * float(os.environ.get("TEST_PATIENCE", "1"))


@dataclass
class Head:
    """Its job server's address, its folder, and the environment in which its clients run."""

    address: str
    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def submit(self, *arguments: str, working_dir: Path = ROOT, wait: bool = True) -> subprocess.CompletedProcess[str]:
        """`ray job submit -- python -m ...` from the root of the checkout, as the README has it."""
        options = ["--address", self.address, "--working-dir", str(working_dir), "--log-style", "record"]
        command = [*options, *([] if wait else ["--no-wait"]), "--", "python", "-m", *arguments]
        return self.ray("job", "submit", *command)

    def ray(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [BIN / "ray", *arguments], cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=LIMIT_S
        )

    def status(self, job: str) -> str:
        with urllib.request.urlopen(f"{self.address}/api/jobs/{job}", timeout=30) as answer:
            return str(json.load(answer)["status"])

    def metrics(self) -> str:
        """What Prometheus would scrape right now, from every exporter of the head."""
        listed = json.loads((self.folder / "prom_metrics_service_discovery.json").read_text())
        texts = []
        for target in listed[0]["targets"]:
            with urllib.request.urlopen(f"http://{target}/metrics", timeout=30) as answer:
                texts.append(answer.read().decode())
        return "\n".join(texts)


@contextmanager
def running(cpus: int = 3) -> Iterator[Head]:
    """A head with `cpus` CPUs on a loopback address of its own; only what it started is stopped."""
    # Sockets must have short names, and pytest's folders are long.
    folder = Path(tempfile.mkdtemp(prefix="spx-", dir="/tmp"))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_metrics_report_interval_ms": "500",
        "RAY_worker_niceness": "0",
        # The defaults of these, and of the agent below, belong to whichever Ray of this machine was first. A second
        # one starts all the same: its agent takes no jobs, and its exporters are listed but do not answer.
        "AUTOSCALER_METRIC_PORT": str(_free_port()),
        "DASHBOARD_METRIC_PORT": str(_free_port()),
    }
    dashboard = _free_port()
    command = ["start", "--head", "--block", "--node-ip-address", "127.0.0.3", "--port", "0", "--num-cpus", str(cpus)]
    command += ["--dashboard-port", str(dashboard), "--temp-dir", str(folder), "--object-store-memory", "200000000"]
    command += ["--dashboard-agent-listen-port", str(_free_port())]
    process = subprocess.Popen(
        [BIN / "ray", *command], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    head = Head(f"http://127.0.0.1:{dashboard}", folder, environment)
    try:
        _wait_for_agent(head, process)
        yield head
    finally:
        process.terminate()  # --block: it ends the processes that it started
        process.wait(LIMIT_S)
        shutil.rmtree(folder, ignore_errors=True)


def json_of(output: str) -> dict[str, object]:
    """The summary in a job's output: the JSON object that starts a line of its own."""
    start = re.search(r"^\{$", output, re.M)
    assert start is not None, output
    found, _ = json.JSONDecoder().raw_decode(output[start.start() :])
    return dict(found)


def _wait_for_agent(head: Head, process: subprocess.Popen[bytes]) -> None:
    """Until jobs can be submitted: the dashboard answers, and the node's agent has told where it listens."""
    deadline = time.monotonic() + LIMIT_S
    while not _port_of_agent(head) or not _answers(head):
        assert process.poll() is None, "ray start ended"
        assert time.monotonic() < deadline, f"no Ray head after {LIMIT_S} s"
        time.sleep(0.3)


def _port_of_agent(head: Head) -> int:
    """0 before it listens. The agent that could not bind its port says -1, lives on, and every job is refused."""
    written = [path.read_text() for path in head.folder.glob("session_latest/dashboard_agent_listen_port_*")]
    port = int(written[0] or 0) if written else 0
    assert port >= 0, "the agent's port was taken by another process"
    return port


def _answers(head: Head) -> bool:
    try:
        with urllib.request.urlopen(f"{head.address}/api/jobs/", timeout=10) as answer:
            return int(answer.status) == 200
    except OSError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
