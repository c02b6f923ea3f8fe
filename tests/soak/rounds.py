"""One round: new photos, a run that is killed at some step, a run that goes on, and a look at everything there is."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from jobs.verifying import verify_all
from pipeline import storage
from pipeline.archive import open_archive, sweep
from pipeline.archive.audit import litter
from pipeline.errors import PipelineError
from pipeline.execution.recompression import new_run_id
from tests.benchmarks.watch import tree_of
from tests.end_to_end.conftest import small_photo
from tests.faulty_proxy import Proxy

HOOK = Path(__file__).parent / "hook"
ROOT = Path(__file__).resolve().parents[2]
STEPS = {
    "list": "pipeline.sources.files:FilesSource.list_items",
    "lock": "pipeline.archive.lock:RunLock._write",
    "plan": "pipeline.archive.plan:plan",
    "read": "pipeline.sources.files:FilesSource._read",
    "decode": "pipeline.imaging.decode:decode",
    "analyse": "pipeline.stages.analyse:Analyse._batch",
    "encode": "pipeline.stages.encode:Encode.__call__",
    "commit": "pipeline.archive.writer:commit",
    "data part": "pipeline.storage:write_atomic@/data/",
    "metrics part": "pipeline.storage:write_atomic@/metrics/",
}
ON_DRIVER = ("list", "lock", "plan")
# What a worker is where it dies, be it an actor's process or a task's.
WORKERS = {"encode": "entropy worker"} | dict.fromkeys(("commit", "data part", "metrics part"), "write task")
LIMIT_S, TRIES = 600.0, 4


@dataclass(frozen=True)
class Fault:
    """Who is killed where: `victim` is driver, actor, task or node; after `lives` calls of `step`, or at `at_s`.

    Or `victim` is store, which answers nothing but the proxy's fault `outage` from `lives` requests on.
    """

    victim: str
    step: str
    when: str = "before"
    codec: str = "webp"
    lives: int = 1
    at_s: float | None = None
    outage: str = ""

    @property
    def kind(self) -> str:
        """The victim by what it was doing."""
        by_step = self.victim in ("actor", "task") and self.at_s is None
        return WORKERS.get(self.step, self.victim) if by_step else self.victim

    @property
    def name(self) -> str:
        where = f"at {self.at_s:.0f} s" if self.at_s is not None else f"{self.when} {self.step}"
        where = f"{self.outage} after {self.lives} requests" if self.outage else where
        return f"{self.kind} {where} ({self.codec})"


@dataclass
class Found:
    """What a round did and what it left. Anything in the last five breaks a promise."""

    fault: Fault
    killed: bool
    images: int
    runs: int
    seconds: float
    spoilt: Counter[str] = field(default_factory=Counter)
    missing: int = 0
    doubled: int = 0
    harmful: int = 0
    litter: int = 0
    failed: str = ""

    @property
    def line(self) -> str:
        """For whoever watches."""
        hit = "hit" if self.killed else "missed"
        if self.failed:
            return f"{self.fault.name}: {hit}; {self.failed}"
        left = f"{self.missing} missing, {self.doubled} doubled, {self.harmful} harmful, {self.litter} litter"
        return f"{self.fault.name}: {hit}, {self.runs} runs, {self.seconds:.0f} s; {left}"

    @property
    def broken(self) -> bool:
        return bool(self.missing or self.doubled or self.harmful or self.litter or self.failed)


def play(root: str, fault: Fault, number: int, images: int = 3, proxy: Proxy | None = None) -> Found:
    """Adds `images` to `root`/in, archives it to `root`/archive under `fault`, then without, and checks it all.

    What goes wrong with that is in what it gives, lest the table of a long night be lost.
    """
    started, found = time.monotonic(), Found(fault, False, images, 1, 0.0)
    try:
        for n in range(images):
            storage.write_atomic(f"{root}/in/{number:05}-{n}.jpg", small_photo(number * images + n, 64))
        found.killed = _spoilt(root, fault, proxy) if fault.outage else _run(root, fault)
        _go_on(root, found)
        look(root, found)
    except (PipelineError, subprocess.TimeoutExpired) as error:
        found.failed = " ".join(str(error).split())
    found.seconds = time.monotonic() - started
    return found


def _go_on(root: str, found: Found) -> None:
    """Runs without a fault until one ends well; requests may still be spoilt at random. Raises PipelineError."""
    while (done := _finished(root, found.fault.codec)).returncode != 0:
        found.runs += 1
        if found.runs >= TRIES:
            raise PipelineError(f"exit code {done.returncode} without a fault: {done.stderr[-2000:]!r}")
    found.runs += 1


def look(root: str, found: Found) -> None:
    """Every source has one row, everything stored decodes to what its row says, and nothing is left over."""
    archive = open_archive(f"{root}/archive")
    sources = [item.uri for item in storage.list_files(f"{root}/in")]
    rows = archive.metrics(["source_uri"], newest=False)["source_uri"].to_pylist()
    found.missing = len(set(sources) - set(rows))
    found.doubled = len(rows) - len(set(rows))
    sweep(archive, new_run_id(), grace_s=0)
    found.litter = len(litter(archive))
    done = verify_all(archive.uri, None, False)
    found.harmful = len(done.harmful) + len(sources) - done.compared


def _spoilt(root: str, fault: Fault, proxy: Proxy | None) -> bool:
    """Whether the outage met the job, which must end with a sentence. Raises PipelineError when it does not."""
    assert proxy is not None, "only a store behind a proxy can fail"
    before = proxy.injected[fault.outage]
    proxy.after(fault.lives, fault.outage)
    done = _finished(root, fault.codec)
    proxy.heal()
    if done.returncode > 1 or b"Traceback" in done.stderr:
        raise PipelineError(f"exit code {done.returncode} in an outage: {done.stderr[-2000:]!r}")
    return proxy.injected[fault.outage] > before


def _run(root: str, fault: Fault) -> bool:
    """Whether the fault came to pass."""
    if fault.at_s is not None:
        return _killed_in_time(root, fault)
    with tempfile.TemporaryDirectory() as lives:
        for n in range(fault.lives):
            Path(lives, f"life-{n}").touch()
        who = {"driver": "driver", "node": "node"}.get(fault.victim, "self")
        hook = {"SOAK_STEP": STEPS[fault.step], "SOAK_WHEN": fault.when, "SOAK_VICTIM": who, "SOAK_LIVES": lives}
        path = os.pathsep.join([str(HOOK), str(ROOT)])
        _job(root, fault.codec, hook | {"PYTHONPATH": path}).wait(LIMIT_S)
        return any(Path(lives).glob("killed-*"))


def _killed_in_time(root: str, fault: Fault) -> bool:
    job = _job(root, fault.codec, {})
    with contextlib.suppress(subprocess.TimeoutExpired):
        job.wait(fault.at_s)
    chosen, killed = _victims(job.pid, fault.victim), False
    with contextlib.suppress(ProcessLookupError):  # it may have ended since it was seen
        for pid in random.sample(chosen, min(1, len(chosen))):
            os.kill(pid, signal.SIGKILL)
            killed = True
    job.wait(LIMIT_S)
    return killed


def _victims(driver: int, kind: str) -> list[int]:
    marks: dict[str, Callable[[str], bool]] = {
        "driver": lambda command: False,
        "actor": lambda command: "ray::" in command and "MapWorker" in command,
        "task": lambda command: "ray::" in command and "MapWorker" not in command,
        "node": lambda command: "raylet/raylet" in command,
    }
    if kind == "driver":
        return [driver] if Path(f"/proc/{driver}").exists() else []
    return [pid for pid in tree_of(driver) if marks[kind](_command(pid))]


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _job(root: str, codec: str, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    nowhere = subprocess.DEVNULL
    return subprocess.Popen(
        _command_of(root, codec), cwd=ROOT, env=os.environ | environment, stdout=nowhere, stderr=nowhere
    )


def _finished(root: str, codec: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(_command_of(root, codec), check=False, cwd=ROOT, capture_output=True, timeout=LIMIT_S)


def _command_of(root: str, codec: str) -> list[str]:
    command = [sys.executable, "-m", "jobs", "recompress", "--source", f"{root}/in", "--archive", f"{root}/archive"]
    return [*command, f"codec.name={codec}", "floor.psnr_db=0", "resources.cpus=2", "resources.object_store_mb=100"]
