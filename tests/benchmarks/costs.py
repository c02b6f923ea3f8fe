"""What one image and one part cost, stage by stage and request by request: the input of `infra.capacity`.

    python -m tests.benchmarks.costs [--codec cnn] [--rows 1000000] [--objects 100000] --out infra/costs.json

Stages are timed in one process with one thread, in seconds of CPU, so that neighbours count little. Requests are
counted by a real S3 server (moto) under two real jobs of different size: what is more in the larger one is what parts
and images cost, the rest is what a run costs. Planning and listing are those of `tests.benchmarks.planning`.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image

from pipeline import storage
from pipeline.archive import PartMeta, create_or_open
from pipeline.codecs.base import SplitCodec
from pipeline.codecs.registry import build
from pipeline.records import Rate, SourceImage, SourceItem, image_id_of
from pipeline.stages.analyse import Analyse
from pipeline.stages.commit import commit
from pipeline.stages.decode import Decode
from pipeline.stages.encode import Encode, Floor
from pipeline.stages.work import Work, has_pixels
from tests.benchmarks import planning
from tests.benchmarks.conditions import PHOTOS, conditions, data_set, images_in

IMAGES_OF_A_CHUNK = 64
_LINE = re.compile(r'"(GET|PUT|HEAD|POST|DELETE) (\S+) HTTP')


def stages(codec: str, photos: Sequence[Path]) -> dict[str, Any]:
    """CPU seconds of each stage over `photos`, once all code is loaded, and the bytes and pixels they had."""
    chain = [build(codec, Rate(quality=60)), build("jxl-lossless"), build("original")]
    decode = Decode()
    encode = Encode(chain, Floor(psnr_db=30), decode)
    sources = [SourceImage(image_id_of(str(path)), str(path), "1", path.read_bytes()) for path in photos]
    _one_pass(chain[0], decode, encode, sources[:1])
    return _one_pass(chain[0], decode, encode, sources)


def _one_pass(codec: Any, decode: Decode, encode: Encode, sources: Sequence[SourceImage]) -> dict[str, Any]:
    cpu_s, outcomes, mpx = Counter[str](), [], 0.0
    for source in sources:
        with _booked(cpu_s, "decode"):
            work: Work = decode(source)
        mpx += work.picture.width_px * work.picture.height_px / 1e6 if work.picture else 0
        if isinstance(codec, SplitCodec):
            with _booked(cpu_s, "analyse"):
                [work] = Analyse(codec)([work])
            if work.picture is None or has_pixels(work.picture):
                raise SystemExit(f"{source.source_uri}: was not analysed; give photos that decode")
        with _booked(cpu_s, "encode"):
            outcomes.append(encode(work))
    with tempfile.TemporaryDirectory() as folder:
        archive = create_or_open(folder)
        meta = PartMeta.of([SourceItem(each.source_uri, "1", 1) for each in sources], 0, True, {"name": codec.name})
        with archive.run_lock("run", {}), _booked(cpu_s, "commit"):
            total = commit(archive, meta, outcomes, "run")
        metrics_bytes = storage.size_of(storage.join(folder, "metrics", f"part-{meta.part_id}.parquet"))
    return {
        "images": len(sources),
        "mpx": mpx,
        "cpu_s": dict(cpu_s),
        "source_bytes": total.source_bytes,
        "payload_bytes": total.payload_bytes,
        "metrics_bytes": metrics_bytes,
    }


@contextmanager
def _booked(cpu_s: Counter[str], stage: str) -> Iterator[None]:
    started = time.process_time()
    yield
    cpu_s[stage] += time.process_time() - started  # type: ignore[assignment]  # Counter holds floats as well


def requests() -> dict[str, dict[str, float]]:
    """Requests by kind: of a run, of each part, of each image."""
    one, three = (_requests_of(IMAGES_OF_A_CHUNK * chunks) for chunks in (1, 3))
    kinds = sorted({*one, *three})
    images = {"GET": 1.0}  # every source is read once; known, so that two jobs are enough to tell the rest
    parts = {kind: (three[kind] - one[kind]) / 2 - IMAGES_OF_A_CHUNK * images.get(kind, 0) for kind in kinds}
    runs = {kind: one[kind] - parts[kind] - IMAGES_OF_A_CHUNK * images.get(kind, 0) for kind in kinds}
    return {"run": runs, "part": parts, "image": images}


def _requests_of(images: int) -> Counter[str]:
    """What a job over `images` small pictures asks of its bucket."""
    with tempfile.TemporaryDirectory() as folder, _moto(Path(folder) / "log") as environment:
        code = f"from tests.benchmarks.costs import _fill; _fill({images})"
        subprocess.run([sys.executable, "-c", code], env=environment, check=True)
        log = Path(folder) / "log"
        before = len(log.read_text())
        places = ["--source", "s3://photos/in/", "--archive", "s3://photos/archive"]
        command = [sys.executable, "-m", "jobs.recompress", *places, "codec.name=jpeg", "--quiet"]
        subprocess.run(command, env=environment, check=True)
        found = _LINE.findall(log.read_text()[before:])
    return Counter("LIST" if method == "GET" and "list-type=" in path else method for method, path in found)


@contextmanager
def _moto(log: Path) -> Iterator[dict[str, str]]:
    """A moto server that logs its requests, as the environment of its clients."""
    import os

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    keys = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}
    with log.open("w") as stream:
        server = subprocess.Popen(command, stdout=stream, stderr=stream)
        try:
            yield os.environ | keys | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
        finally:
            server.terminate()
            server.wait(30)


def _fill(images: int) -> None:
    import s3fs

    deadline = time.monotonic() + 60
    while True:
        try:
            s3fs.S3FileSystem(skip_instance_cache=True).mkdir("photos")
            break
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
    for n in range(images):
        sink = io.BytesIO()
        Image.new("RGB", (64, 64), (n % 256, n // 256, 99)).save(sink, "PNG")
        storage.write_atomic(f"s3://photos/in/{n:05d}.png", sink.getvalue())


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--codec", default="cnn")
    parser.add_argument("--images", type=Path, default=PHOTOS, help="a folder with photos")
    parser.add_argument("--rows", type=int, default=1_000_000, help="images of the archive that is planned against")
    parser.add_argument("--objects", type=int, default=100_000, help="files of the source that is listed")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args(argv)
    photos = images_in(arguments.images)
    stated = conditions("tests.benchmarks.costs", argv or sys.argv[1:], "1", data_set(photos))
    with tempfile.TemporaryDirectory() as folder:
        planned = planning.measure(arguments.rows, arguments.objects, Path(folder))
    found = {"conditions": asdict(stated), "codec": arguments.codec, "stages": stages(arguments.codec, photos)}
    found |= {"requests": requests(), "planning": {"rows": arguments.rows, "objects": arguments.objects} | planned}
    arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    print(f"{stated}\n\nwritten to {arguments.out.name}; now: python -m infra.capacity")


if __name__ == "__main__":
    main()
