"""The loop that anyone would write: read, decode, encode, one photo after the other, nothing verified or kept.

    python -m tests.benchmarks.bare FOLDER --codec cnn --quality 60 [--checked]

This is what `jobs.recompress` is held against. With `--checked` it also does what the pipeline promises of each
payload: decodes it again and measures the result. It prints JSON; the first photo loads libraries and networks, and
is not counted.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

from pipeline.codecs import registry
from pipeline.codecs.base import Codec, SplitCodec
from pipeline.imaging.decode import decode
from pipeline.metrics.distortion import measure
from pipeline.records import Picture, Rate
from tests.benchmarks.conditions import images_in


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.bare", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--codec", default="cnn")
    parser.add_argument("--quality", type=float, default=60.0)
    parser.add_argument("--checked", action="store_true")
    options = parser.parse_args(argv)
    device = {"device": "cpu"} if options.codec == "cnn" else {}
    codec = registry.build(options.codec, Rate(quality=options.quality), **device)
    code = _checked if options.checked else _encoded
    first, *counted = images_in(options.folder)
    code(codec, decode(first.read_bytes()))
    started, cpu_started, pixels = time.monotonic(), time.process_time(), 0
    for path in counted:
        picture = decode(path.read_bytes())
        code(codec, picture)
        pixels += picture.width_px * picture.height_px
    seconds = {"loop_s": time.monotonic() - started, "loop_cpu_s": time.process_time() - cpu_started}
    print(json.dumps({"images": len(counted), "mpx": pixels / 1e6, **seconds}))
    return 0


def _encoded(codec: Codec, picture: Picture) -> bytes:
    return codec.encode(picture, b"").payload


def _checked(codec: Codec, picture: Picture) -> bytes:
    """As `stages.encode` does it: a learned codec knows its picture from analysis and decodes symbols only."""
    if isinstance(codec, SplitCodec):
        (analysis,) = codec.analyse([picture])
        payload = codec.entropy_encode(analysis.symbols)
        codec.entropy_decode(payload)
        return payload
    payload = _encoded(codec, picture)
    measure(picture.rgb, codec.decode(payload))
    return payload


if __name__ == "__main__":
    raise SystemExit(main())
