"""A run whose decoder dies of one file, as a process of its own: python -m tests.end_to_end.poisoned SOURCE ARCHIVE."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict

from pipeline.codecs.registry import build
from pipeline.execution.cluster import Resources
from pipeline.execution.recompression import Order, recompress
from pipeline.imaging.decode import decode
from pipeline.records import Picture, Rate
from pipeline.sources import open_source
from pipeline.stages.decode import Decode
from pipeline.stages.encode import Floor


def deadly(data: bytes) -> Picture:
    """A decoder that a certain file kills, and the process with it; workers leave a line in the file it names."""
    if data.startswith(b"POISON"):
        if not sys.argv[0].endswith("guard.py"):
            with open(data.split()[1], "a") as deaths:
                deaths.write(f"{os.getpid()}\n")
        os._exit(3)
    return decode(data)


def main(source: str, archive: str) -> None:
    order = Order(
        archive_uri=archive,
        source=open_source(source),
        chain=[build("cnn", Rate(quality=70)), build("original")],
        floor=Floor(psnr_db=20),
        decode=Decode(hook=deadly),
        decode_apart=True,
        resources=Resources(accelerator="accelerator", task_nodes={"pool": "cpu"}),
    )
    report = recompress(order, lambda total, images: None)
    print(json.dumps(asdict(report.total)))


if __name__ == "__main__":
    main(*sys.argv[1:3])
