"""What a run leaves to read: a line of JSON a record, and the same numbers for TensorBoard."""

from __future__ import annotations

import contextlib
import json
import os
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Log = Callable[[dict[str, Any]], None]


@contextlib.contextmanager
def logging(out: Path, show: Log | None = None, **started: Any) -> Iterator[Log]:
    """A log that appends to OUT/log.jsonl and OUT/tensorboard, and hands each record to `show`.

    The first record says which process on which machine started or went on, with `started`.
    """
    import tensorboardX

    out.mkdir(parents=True, exist_ok=True)
    with (out / "log.jsonl").open("a") as file, tensorboardX.SummaryWriter(str(out / "tensorboard")) as board:

        def log(record: dict[str, Any]) -> None:
            file.write(json.dumps(record) + "\n")
            file.flush()
            for name, value in _scalars(record):
                board.add_scalar(name, value, record.get("step"))
            if show is not None:
                show(record)

        log({"started": {"pid": os.getpid(), "host": platform.node(), **started}})
        yield log


def _scalars(record: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Numbers worth a curve: a step's, and what a validation says of each quality, or of clean and coded pictures."""
    if "validation" in record:
        yield "validation/loss", record["validation"]["loss"]
        for k, (bpp, psnr_db) in enumerate(record["validation"].get("bpp_psnr", ())):
            yield f"validation/bpp_{k}", bpp
            yield f"validation/psnr_db_{k}", psnr_db
        for kind in ("clean", "coded"):
            for name, value in record["validation"].get(kind, {}).items():
                yield f"validation/{kind}_{name}", value
        return
    for name in ("loss", "bpp", "mse", "norm", "lr"):
        if name in record:
            yield f"training/{name}", record[name]
