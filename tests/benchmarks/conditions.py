"""What a result must state to be worth keeping: command, commit, hardware, threads, data set and date."""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import shlex
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PHOTOS = ROOT / "tests" / "data" / "photos"
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".ppm"}


@dataclass(frozen=True)
class Conditions:
    command: str
    commit: str
    hardware: str
    threads: str
    data_set: str
    date: str

    def __str__(self) -> str:
        return "\n".join(f"- {name.replace('_', ' ')}: {value}" for name, value in asdict(self).items())


def conditions(module: str, argv: Sequence[str], threads: str, data_set: str) -> Conditions:
    """Those of this moment; folders outside the repository are named by their last part only."""
    command = shlex.join(["python", "-m", module, *(_short(word) for word in argv)])
    return Conditions(command, commit(), hardware(), threads, data_set, f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC")


def parser_of(module: str, description: str | None) -> argparse.ArgumentParser:
    """Of the script `module`, whose docstring is shown as it is written."""
    return argparse.ArgumentParser(
        prog=f"python -m {module}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def images_in(folder: Path, limit: int | None = None) -> list[Path]:
    """The pictures of a folder, sorted by name. Raises SystemExit, a sentence, when there are none."""
    found = sorted(path for path in folder.glob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        raise SystemExit(f"{folder}: no images; expected a folder with files such as .png or .jpg, see --images")
    return found[:limit]


def data_set(images: Sequence[Path]) -> str:
    """Name, size and identity of a set of files, such as "kodak, 24 images, sha256 0123456789ab"."""
    digest = hashlib.sha256()
    for path in images:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return f"{images[0].parent.name}, {len(images)} images, sha256 {digest.hexdigest()[:12]}"


def commit() -> str:
    """Abbreviated commit, "+" when tracked files differ from it; "unknown" outside a clone."""
    try:
        head = _git("rev-parse", "--short=10", "HEAD")
        return head + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def hardware() -> str:
    """CPU model, how many CPUs this process may use, memory; a script that uses a GPU adds `gpu`."""
    return f"{_cpu_model()}, {usable_cpus()} of {os.cpu_count()} CPUs, {_memory_gib():.0f} GiB"


def gpu(device: str) -> str:
    """ " (NVIDIA ...)" for a CUDA device, nothing for the CPU."""
    if not device.startswith("cuda"):
        return ""
    import torch

    return f" ({torch.cuda.get_device_name(device)})"


def usable_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def table(rows: Iterable[Mapping[str, object]]) -> str:
    """A Markdown table; columns are the keys of the first row, numbers are aligned to the right."""
    listed = list(rows)
    heads = list(listed[0]) if listed else []
    cells = [[str(row.get(head, "")) for head in heads] for row in listed]
    widths = [max(len(head), *(len(row[k]) for row in cells), 3) for k, head in enumerate(heads)]
    rule = ["-" * width if k == 0 else "-" * (width - 1) + ":" for k, width in enumerate(widths)]
    return "\n".join(_line(line, widths) for line in [heads, rule, *cells])


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = (cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
    return f"| {' | '.join([first.strip().ljust(widths[0]), *others])} |"


def _short(word: str) -> str:
    path = Path(word)
    return path.name if path.is_absolute() and ROOT not in path.parents else word


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
