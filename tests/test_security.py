"""What an attacker who can write images, tables or archives must not be able to do, as far as a test can see."""

from __future__ import annotations

import ast
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data_tools.made import press
from tests.end_to_end.conftest import fill as fill
from tests.end_to_end.conftest import small_photo

ROOT = Path(__file__).resolve().parents[1]
RUNS_CODE = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "jsonpickle"}
# Code and settings on their way from a worker to its own child; never anything that was read.
ALLOWED = {
    "pipeline/execution/guard.py": {"pickle"},
    "pipeline/execution/ticket.py": {"cloudpickle"},
    "pipeline/nn/vision.py": {"pickle"},  # the name of an error of torch.load(weights_only=True)
}


def modules() -> Iterator[Path]:
    yield from sorted(path for room in ("pipeline", "jobs") for path in (ROOT / room).rglob("*.py"))


@pytest.mark.parametrize("path", list(modules()), ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_that_runs_code_is_imported_or_called(path: Path):
    tree, name = ast.parse(path.read_text()), str(path.relative_to(ROOT))
    imported = {
        alias.name.rpartition(".")[2]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    } | {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported & RUNS_CODE <= ALLOWED.get(name, set())
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        said = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        called = ast.unparse(call.func)
        assert called not in ("eval", "exec", "yaml.load", "os.system"), ast.unparse(call)
        assert called != "torch.load" or said.get("weights_only") == "True", ast.unparse(call)
        assert said.get("allow_pickle", "False") == "False", ast.unparse(call)
        assert said.get("shell", "False") == "False", ast.unparse(call)


WATCHED = """
import sys
import ray.data
seen = []
sys.addaudithook(lambda event, arguments: seen.append(arguments) if event == "pickle.find_class" else None)
from jobs.prune import main as prune
from jobs.restore import main as restore
from jobs.verify import main as verify
archive, out = sys.argv[1:]
assert verify(["--archive", archive, "--all", "--quiet"]) == 0
assert restore(["--archive", archive, "--out", out, "--quiet"]) == 0
assert prune(["--archive", archive, "--quiet"]) == 0
assert seen == [], seen
"""


def test_reading_an_archive_unpickles_nothing(tmp_path: Path, fill: Callable[..., Path]):
    """Python itself tells of every class that a pickle asks for."""
    archive = press(fill("in", range(2)), tmp_path / "archive", "webp")
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, archive.uri, str(tmp_path / "out")],
        capture_output=True,
        text=True,
        timeout=540,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr


class Deed:
    """What unpickling this does."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.path,)


def test_a_parquet_source_cannot_run_code(tmp_path: Path):
    from ray.data._internal.object_extensions.arrow import ArrowPythonObjectType

    deed, kind = tmp_path / "deed", ArrowPythonObjectType()
    evil = pa.ExtensionArray.from_storage(kind, pa.array([pickle.dumps(Deed(str(deed)))], pa.large_binary()))
    pq.write_table(pa.table({"image": [small_photo(0, 64)], "label": evil}), tmp_path / "evil.parquet")
    read = pq.read_table(tmp_path / "evil.parquet")
    assert read["label"].type == kind  # the type is known here, and looking at a value would unpickle it
    archive = press(tmp_path / "evil.parquet", tmp_path / "archive", "webp")
    assert not deed.exists()
    [row] = archive.metrics().to_pylist()
    assert (row["status"], "holds pickled Python objects" in row["reason"]) == ("rejected", True)


LISTENING = """
import json, os, sys
from pathlib import Path
from pipeline.execution import cluster
from tests.benchmarks.watch import tree_of
with cluster.connected(cluster.Resources(cpus=2, object_store_mb=80)):
    inodes = set()
    for pid in tree_of(os.getpid()):
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                target = os.readlink(link)
            except OSError:
                continue
            inodes |= {target[8:-1]} if target.startswith("socket:[") else set()
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and words[9] in inodes:
                found.append(words[1].partition(":")[0])
print(json.dumps(found))
"""
LOOPBACK = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}


@pytest.mark.ray
def test_a_ray_of_our_own_listens_on_loopback_alone(tmp_path: Path):
    import json

    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-c", LISTENING], capture_output=True, text=True, timeout=540, cwd=ROOT, env=environment
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found, "Ray listens somewhere"
    assert set(found) <= LOOPBACK
