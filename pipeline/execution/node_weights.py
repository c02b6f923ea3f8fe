"""Weights once per node: a folder that all workers of a node share, filled from the archive, addressed by SHA-256.

A ticket names its model; the bytes rest in the archive before the first worker starts. The first worker of a node
fetches them, the others wait for its rename. `SHARDPRESS_CACHE` says where the folder is (~/.cache/shardpress).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import uuid
from pathlib import Path

from pipeline.archive import Archive


def model_bytes(archive: Archive, model_id: str) -> bytes:
    """The weights file whose SHA-256 starts with `model_id`. Raises ArchiveError when the archive lacks it."""
    folder = _folder()
    folder.mkdir(parents=True, exist_ok=True)
    cached = folder / f"{model_id}.safetensors"
    with open(folder / f"{model_id}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if cached.exists() and _is_of(data := cached.read_bytes(), model_id):
            return data
        data = archive.weights(model_id)
        _write(cached, data)
        return data


def _folder() -> Path:
    above = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("SHARDPRESS_CACHE") or Path(above) / "shardpress")


def _is_of(data: bytes, model_id: str) -> bool:
    return hashlib.sha256(data).hexdigest().startswith(model_id)


def _write(path: Path, data: bytes) -> None:
    scratch = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    scratch.write_bytes(data)
    os.replace(scratch, path)
