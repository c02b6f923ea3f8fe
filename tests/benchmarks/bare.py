"""The loop that anyone would write: read, decode, encode, one photo after the other, nothing verified or kept.

    python -m tests.benchmarks.bare FOLDER --codec cnn --quality 60

This is what `jobs.recompress` is held against. It prints JSON; the first photo loads libraries and networks, and
is not counted.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

from pipeline.codecs import registry
from pipeline.imaging.decode import decode
from pipeline.records import Rate
from tests.benchmarks.conditions import images_in


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.bare", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--codec", default="cnn")
    parser.add_argument("--quality", type=float, default=60.0)
    options = parser.parse_args(argv)
    codec = registry.build(options.codec, Rate(quality=options.quality))
    pixels = payload_bytes = 0
    first, *counted = images_in(options.folder)
    codec.encode(decode(first.read_bytes()), b"")
    started, cpu_started = time.monotonic(), time.process_time()
    for path in counted:
        data = path.read_bytes()
        picture = decode(data)
        payload_bytes += len(codec.encode(picture, data).payload)
        pixels += picture.width_px * picture.height_px
    seconds = {"loop_s": time.monotonic() - started, "loop_cpu_s": time.process_time() - cpu_started}
    print(json.dumps({"images": len(counted), "mpx": pixels / 1e6, "payload_bytes": payload_bytes, **seconds}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
