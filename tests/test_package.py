"""What `pip install shardpress-*.whl` gives: a command on PATH, weights inside, types, extras."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from email import message_from_bytes
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

ROOT = Path(__file__).parents[1]
_MISSING = [name for name in ("build", "setuptools") if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(_MISSING), reason=f"not installed: {', '.join(_MISSING)} (extra [dev])")


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the sdist, and the wheel built from it."""
    out = tmp_path_factory.mktemp("dist")
    real = tmp_path_factory.mktemp("tree") / "shardpress"  # a build writes beside its sources
    for name in ("pipeline", "jobs"):  # other tests compile modules meanwhile
        shutil.copytree(ROOT / name, real / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, real)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(real)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return out


@pytest.fixture(scope="module")
def installed(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bin/ of a fresh environment with the wheel; its dependencies are seen where the tests have theirs."""
    venv = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    [site] = venv.glob("lib/python*/site-packages")
    wheel = next(dist.glob("*.whl"))
    pip = [sys.executable, "-m", "pip", "--python", str(venv / "bin" / "python"), "install", "-q", "--no-deps"]
    subprocess.run([*pip, "--no-index", str(wheel)], check=True)
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return venv / "bin"


def test_the_wheel_holds_weights_documents_and_types_and_no_tests(dist: Path) -> None:
    with zipfile.ZipFile(next(dist.glob("*.whl"))) as wheel:
        names = wheel.namelist()
    assert any(name.endswith(".safetensors") for name in names)
    for name in ("pipeline/py.typed", "pipeline/codecs/learned/weights/DEFAULT", "pipeline/archive/LAYOUT.md"):
        assert name in names
    assert not [name for name in names if name.startswith("tests")]
    with tarfile.open(next(dist.glob("*.tar.gz"))) as sdist:
        assert any(name.endswith("pyproject.toml") for name in sdist.getnames())


def test_the_metadata_names_pythons_and_extras(dist: Path) -> None:
    with zipfile.ZipFile(next(dist.glob("*.whl"))) as wheel:
        name = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        found = message_from_bytes(wheel.read(name))
    assert found["Requires-Python"] == ">=3.11"
    assert {"gpu", "report", "train", "serve"} <= set(found.get_all("Provides-Extra") or [])
    classifiers = found.get_all("Classifier") or []
    assert {f"Programming Language :: Python :: 3.{minor}" for minor in (11, 12, 13)} <= set(classifiers)


def test_constraints_pin_every_named_dependency_to_what_the_tests_run_with() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = [*project["dependencies"], *(each for extra in project["optional-dependencies"].values() for each in extra)]
    wanted = {canonicalize_name(Requirement(each).name) for each in named} - {"triton"}  # Linux with CUDA only
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}
    installed = {name: version(name).partition("+")[0] for name in wanted}
    assert {name: pinned.get(name) for name in wanted} == installed, "make constraints"


def test_the_installed_command_encodes_with_the_weights_inside(
    installed: Path, photos: list[Path], tmp_path: Path
) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*command: str) -> str:
        found = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert found.returncode == 0, found.stderr
        return found.stdout

    where = run(str(installed / "python"), "-c", "import pipeline, jobs; print(pipeline.__file__, jobs.__file__)")
    assert all(str(installed.parent) in path for path in where.split())
    Image.open(photos[2]).resize((160, 120)).save(tmp_path / "photo.jpg", quality=95)
    run(str(installed / "shardpress"), "encode", "photo.jpg", "out.spx", "--quality", "40")
    run(str(installed / "shardpress"), "decode", "out.spx", "out.png")
    assert (tmp_path / "out.spx").stat().st_size < (tmp_path / "photo.jpg").stat().st_size
    protocols = "import fsspec; print(fsspec.get_filesystem_class('shardpress').__module__)"
    assert run(str(installed / "python"), "-c", protocols).strip() == "pipeline.filesystem"
