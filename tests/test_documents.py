"""Every command and snippet of the documents runs, in a folder of its own, as a reader would type it."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.data_tools import made
from tests.documents import blocks_of, run_document

ROOT = Path(__file__).parents[1]
DOCUMENTS = (
    "README.md",
    "jobs/README.md",
    "pipeline/data/README.md",
    "pipeline/serve/README.md",
    "pipeline/archive/LAYOUT.md",
    "infra/OPERATIONS.md",
)
_RUN_ELSEWHERE = {  # they take a Ray head of their own, and hours
    "infra/README.md": "tests/infra/test_ray_job.py",
    "infra/CAPACITY.md": "tests/infra/test_capacity.py",
}
_NEEDS = {
    "README.md": ("duckdb",),
    "pipeline/data/README.md": ("datasets", "polars", "pandas", "duckdb"),
    "pipeline/serve/README.md": ("starlette", "uvicorn"),
    "pipeline/archive/LAYOUT.md": ("duckdb",),
    "jobs/README.md": ("duckdb", "jinja2"),
    "infra/OPERATIONS.md": ("duckdb",),
}
_OWN_ARCHIVE = ("README.md", "jobs/README.md")  # they make it themselves


@pytest.fixture
def folder(tmp_path: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a document is run: four small photos (264 px), `configs`, and nothing of a reader's settings."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "photos").mkdir()
    for photo in photos[:4]:
        with Image.open(photo) as opened:
            scale = 264 / min(opened.size)  # training validates on crops of 256 px
            image = opened.resize((round(opened.width * scale), round(opened.height * scale)))
            image.save(tmp_path / "photos" / photo.name, quality=92)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("SHARDPRESS_TOKEN", raising=False)
    return tmp_path


@pytest.mark.ray
@pytest.mark.s3
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_block_runs(
    document: str, folder: Path, photos: list[Path], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = [name for name in _NEEDS.get(document, ()) if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)} (extras [dev], [serve], [report])")
    if document not in _OWN_ARCHIVE:
        made.press(made.labelled_shards(folder / "labelled", photos, shards=2), folder / "archive", "webp", 40)
    if "import ray" in (ROOT / document).read_text():
        request.getfixturevalue("small_ray")

    def start_s3() -> None:
        server = request.getfixturevalue("s3_server")
        for bucket in ("photos", "cold", "back"):
            server.bucket(bucket)
        from pipeline import storage

        for photo in sorted((folder / "photos").glob("*.jpg")):
            storage.write_atomic(f"s3://photos/2026/{photo.name}", photo.read_bytes())

    assert run_document(ROOT / document, folder, start_s3, {}) > 0


def test_every_document_with_commands_is_run_and_what_is_not_says_why() -> None:
    documents = {str(path.relative_to(ROOT)): path.read_text() for path in _documents()}
    assert {name for name, text in documents.items() if blocks_of(text)} == {*DOCUMENTS, *_RUN_ELSEWHERE}
    assert all((ROOT / test).exists() for test in _RUN_ELSEWHERE.values())
    for name, text in documents.items():
        reasons = re.findall(r"<!-- not run(.*?)-->", text, re.S)
        assert all(re.match(r": \w.{10,}", reason) for reason in reasons), name


def test_the_api_reference_covers_every_module() -> None:
    [code] = re.findall(r"^MODULES = (.*)$", (ROOT / "Makefile").read_text(), re.M)
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    files = [path.relative_to(ROOT).with_suffix("") for path in (ROOT / "pipeline").rglob("*.py")]
    names = {".".join(path.parts).removesuffix(".__init__") for path in files} - {"pipeline"}
    assert set(told.split()) == names


def test_links_and_names_lead_somewhere() -> None:
    for path in _documents():
        text = path.read_text()
        named = re.findall(r"`((?:pipeline|jobs|tests|configs|infra)/[\w./-]+)`", text)
        assert not [name for name in named if not (ROOT / name).exists()], path
        linked = re.findall(r"\]\(([\w./-]+)(?:#[\w-]+)?\)", text)
        assert not [name for name in linked if not (path.parent / name).exists()], path


def _documents() -> list[Path]:
    """Every Markdown file of the repository, whatever else lies in the checkout."""
    folders = ("configs", "infra", "jobs", "pipeline", "tests")
    return [*ROOT.glob("*.md"), *(path for folder in folders for path in (ROOT / folder).rglob("*.md"))]


def test_blocks_are_found_with_their_notes_and_lines() -> None:
    text = (
        "# A\n\n```bash\nls\n```\n\n<!-- not run: needs a cluster -->\n```bash\nrm\n```\n"
        "<!-- s3 -->\n```python\nx\n```\n```text\ny\n```\n"
    )
    assert [(each.kind, each.code, each.note, each.line) for each in blocks_of(text)] == [
        ("bash", "ls\n", "", 4),
        ("python", "x\n", "s3", 13),
    ]
