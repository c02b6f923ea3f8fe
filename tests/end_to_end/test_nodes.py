"""Several nodes on one machine: which stage runs where, a node that comes, one that goes, poison for all of them."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.end_to_end.conftest import small_photo

pytestmark = pytest.mark.ray
ROOT = Path(__file__).parents[2]
SHARDS, IMAGES_EACH = 48, 8
# A loaded machine may need more: TEST_PATIENCE=5 waits five times as long.
LIMIT_S = 120 * float(os.environ.get("TEST_PATIENCE", "1"))


@dataclass
class Nodes:
    """A cluster without CPUs in its head; each node has a cache for weights of its own."""

    cluster: Any
    caches: Path
    environment: dict[str, str]
    tasks: list[tuple[Any, str]] = field(default_factory=list)
    accelerator: str = ""

    def add(self, pool: str, cpus: int, **resources: float) -> tuple[Any, str]:
        """Starts a node; gives it and its id."""
        before = self.ids()
        cache = {"SHARDPRESS_CACHE": str(self.caches / f"{pool}-{len(before)}")}
        options = {"resources": resources, "labels": {"pool": pool}, "env_vars": cache}
        node = None
        try:
            node = self.cluster.add_node(num_cpus=cpus, object_store_memory=100 << 20, **options)
        except Exception as slow:  # Ray raises nothing more special
            # It gives a node 30 s to register. A loaded machine may need more, and the node joins all the same.
            if "timed out during startup" not in str(slow):
                raise
        _until(lambda: self.ids() - before, "the node joined")
        [found] = self.ids() - before
        return node, found

    def ids(self) -> set[str]:
        from ray._private.state import GlobalState
        from ray._raylet import GcsClientOptions

        state = GlobalState()
        state._initialize_global_state(
            GcsClientOptions.create(self.cluster.address, None, allow_cluster_id_nil=True, fetch_cluster_id_if_nil=True)
        )
        return {node["NodeID"] for node in state.node_table() if node["Alive"]}


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """Two nodes for tasks and one with an accelerator."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_worker_niceness", "0")
        patch.setenv("PYTHONPATH", str(ROOT))
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        found = Nodes(cluster, tmp_path_factory.mktemp("caches"), os.environ | {"RAY_ADDRESS": cluster.address})
        found.tasks = [found.add("cpu", 1), found.add("cpu", 1)]
        found.accelerator = found.add("accelerator", 1, accelerator=1)[1]
        yield found
        cluster.shutdown()


def _until(found: Callable[[], Any], what: str, limit_s: float = LIMIT_S) -> None:
    deadline = time.monotonic() + limit_s
    while not found():
        assert time.monotonic() < deadline, f"not in {limit_s} s: {what}"
        time.sleep(0.1)


def shards(folder: Path) -> Path:
    folder.mkdir()
    for shard in range(SHARDS):
        with tarfile.open(folder / f"{shard:03d}.tar", "w") as archive:
            for n in range(IMAGES_EACH):
                data = small_photo(shard * IMAGES_EACH + n, 120)
                member = tarfile.TarInfo(f"{n}.jpg")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return folder


class Run:
    """`jobs.recompress` inside the cluster, and the lines that it has written so far."""

    def __init__(self, nodes: Nodes, folder: Path, *arguments: str) -> None:
        self._log = folder / "run.jsonl"
        command = [sys.executable, "-m", "jobs.recompress", *arguments, "log=parts", "--json"]
        self.process = subprocess.Popen(
            command, env=nodes.environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=self._log.open("w"), text=True
        )

    def parts(self) -> list[dict[str, Any]]:
        lines = [line for line in self._log.read_text().splitlines() if line.startswith("{") and line.endswith("}")]
        return [each for each in map(json.loads, lines) if each["event"] == "part committed"]

    def until(self, found: Callable[[list[dict[str, Any]]], Any], what: str) -> None:
        def seen() -> bool:
            done = bool(found(self.parts()))
            assert done or self.process.poll() is None, f"the run ended first: {what}\n{self._log.read_text()[-3000:]}"
            return done

        _until(seen, what)

    def ended(self) -> str:
        stdout, _ = self.process.communicate(timeout=LIMIT_S)
        assert self.process.returncode == 0, self._log.read_text()[-3000:]
        return stdout


def test_one_poison_image_kills_one_worker_of_all_nodes(nodes, tmp_path):
    source, deaths = tmp_path / "in", tmp_path / "deaths"
    source.mkdir()
    for n in range(3):
        (source / f"{n}.jpg").write_bytes(small_photo(n, 100))
    (source / "1-poison.jpg").write_bytes(b"POISON " + str(deaths).encode())
    done = subprocess.run(
        [sys.executable, "-m", "tests.end_to_end.poisoned", str(source), str(tmp_path / "archive")],
        env=nodes.environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    total = json.loads(done.stdout.splitlines()[-1])  # Ray tells of the dead worker before
    assert (total["encoded"], total["rejected"], total["reasons"]["rejected/crashed"]) == (3, 1, 1)
    assert len(deaths.read_text().splitlines()) == 1


def test_stages_run_where_they_belong_and_nodes_come_and_go(nodes, tmp_path):
    source, archive = shards(tmp_path / "in"), tmp_path / "archive"
    where = ["resources.accelerator=accelerator", "resources.decode=tasks", "resources.task_nodes={pool: cpu}"]
    run = Run(nodes, tmp_path, "--source", str(source), "--archive", str(archive), "floor.psnr_db=10", *where)

    run.until(lambda parts: parts, "a part was committed")
    _, added = nodes.add("cpu", 1)
    run.until(lambda parts: any(added in part["nodes"].values() for part in parts), "the new node is used")
    nodes.cluster.remove_node(nodes.tasks[0][0], allow_graceful=False)
    kept = {path: path.stat().st_mtime_ns for path in (archive / "metrics").glob("*.parquet")}
    summary = json.loads(run.ended())

    assert (summary["images"], summary["encoded"]) == (SHARDS * IMAGES_EACH,) * 2
    counted = f"select count(*), count(distinct image_id) from '{archive}/metrics/*.parquet'"
    assert duckdb.sql(counted).fetchall() == [(SHARDS * IMAGES_EACH,) * 2]
    assert 0 < len(kept) < SHARDS
    assert {path: path.stat().st_mtime_ns for path in kept} == kept

    places: dict[str, set[str]] = {}
    for part in run.parts():
        for stage, node in part["nodes"].items():
            places.setdefault(stage, set()).add(node)
    assert places["analyse"] == {nodes.accelerator}
    for stage in ("read", "decode", "encode", "commit"):
        assert places[stage] <= {added, *(name for _, name in nodes.tasks)}, stage
    weights = {path.name: len(list(path.glob("*.safetensors"))) for path in nodes.caches.iterdir()}
    assert set(weights.values()) == {1}
