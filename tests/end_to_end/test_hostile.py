"""Images that are out to hang, exhaust or kill whoever opens them: each costs its own row and no other."""

from __future__ import annotations

import io
import os
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs.recompress import main as recompress
from pipeline.archive import open_archive
from pipeline.codecs.registry import build
from pipeline.execution.limits import Limits
from pipeline.execution.recompression import Order
from pipeline.execution.recompression import recompress as run
from pipeline.imaging.decode import decode
from pipeline.records import Picture, Rate
from pipeline.sources import open_source
from pipeline.stages.decode import Decode
from pipeline.stages.encode import Floor
from tests.end_to_end.conftest import small_photo

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *chunks: bytes) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + chunk(b"IEND", b"")


def inflating(megabytes: int) -> bytes:
    """A deflate stream a thousandth as long as what comes out."""
    squeeze = zlib.compressobj(9)
    return b"".join([*(squeeze.compress(bytes(1 << 20)) for _ in range(megabytes)), squeeze.flush()])


def endless_gif(frames: int) -> bytes:
    sink = io.BytesIO()
    Image.new("P", (8, 8)).save(sink, "GIF")
    first = sink.getvalue()
    body = first[first.index(b",") : -1]
    return first[:-1] + (b"!\xf9\x04\0\1\0\0\0" + body) * frames  # and no trailer


def bombs() -> dict[str, bytes]:
    photo = small_photo(3)
    return {
        "idat-bomb.png": png(64, 64, chunk(b"IDAT", inflating(300))),
        "ztxt-bomb.png": png(
            8, 8, chunk(b"zTXt", b"a\0\0" + inflating(300)), chunk(b"IDAT", zlib.compress(bytes(200)))
        ),
        "iccp-bomb.png": png(
            8, 8, chunk(b"iCCP", b"a\0\0" + inflating(300)), chunk(b"IDAT", zlib.compress(bytes(200)))
        ),
        "huge-header.png": png(60_000, 60_000, chunk(b"IDAT", zlib.compress(bytes(100)))),
        "huge-header.bmp": b"BM"
        + struct.pack("<IHHIIiiHHIIiiII", 70, 0, 0, 54, 40, 2**31 - 1, 2**30, 1, 24, 0, 0, 0, 0, 0, 0),
        "endless.gif": endless_gif(20_000),
        "scans.jpg": photo[:-2] + photo[photo.index(b"\xff\xda") :] * 3,
        "nothing.jpg": b"",
        "noise.jpg": os.urandom(5000),
    }


@pytest.mark.parametrize("codec", ["webp", "cnn"])
def test_bombs_cost_their_own_rows(codec: str, tmp_path: Path):
    source = tmp_path / "in"
    source.mkdir()
    for name, data in bombs().items():
        (source / name).write_bytes(data)
    for n in range(2):
        (source / f"photo{n}.jpg").write_bytes(small_photo(n, 100))
    places = ["--source", str(source), "--archive", str(tmp_path / "archive")]
    assert recompress([*places, f"codec.name={codec}", "floor.psnr_db=20"]) == 0
    rows = open_archive(str(tmp_path / "archive")).metrics(newest=False).to_pylist()
    assert sorted(Path(row["source_uri"]).name for row in rows) == sorted([*bombs(), "photo0.jpg", "photo1.jpg"])
    ends = {Path(row["source_uri"]).name: row for row in rows}
    assert all(ends[f"photo{n}.jpg"]["status"] == "encoded" for n in range(2))
    assert all(ends[name]["reason"] for name in bombs() if ends[name]["status"] != "encoded")
    assert ends["huge-header.png"]["status"] == "rejected"


def sleepy(data: bytes) -> Picture:
    if data.startswith(b"SLEEPY"):
        time.sleep(3600)
    return decode(data)


@pytest.mark.parametrize("codec", ["webp", "cnn"])
def test_an_image_that_takes_for_ever_costs_one_row(codec: str, tmp_path: Path):
    source = tmp_path / "in"
    source.mkdir()
    for n in range(2):
        (source / f"{n}.jpg").write_bytes(small_photo(n, 100))
    (source / "0-sleepy.jpg").write_bytes(b"SLEEPY")
    order = Order(
        archive_uri=str(tmp_path / "archive"),
        source=open_source(str(source)),
        chain=[build(codec, Rate(quality=70)), build("original")],
        floor=Floor(psnr_db=20),
        decode=Decode(hook=sleepy),
        limits=Limits(seconds=20),
    )
    report = run(order, lambda total, images: None)
    assert (report.total.encoded, report.total.rejected) == (2, 1)
    [reason] = [row["reason"] for row in report.rows() if row["status"] == "rejected"]
    assert reason == "decoding this image took longer than limits.seconds=20"


def test_an_image_that_wants_too_much_memory_costs_one_row(tmp_path: Path):
    source = tmp_path / "in"
    source.mkdir()
    (source / "small.jpg").write_bytes(small_photo(0, 100))
    Image.fromarray(np.zeros((9000, 9000), np.uint8)).convert("RGB").save(source / "large.png")
    places = ["--source", str(source), "--archive", str(tmp_path / "archive"), "codec.name=webp", "floor.psnr_db=20"]
    assert recompress([*places, "limits.memory_mb=128"]) == 0
    rows = {Path(row["source_uri"]).name: row for row in open_archive(str(tmp_path / "archive")).metrics().to_pylist()}
    assert rows["small.jpg"]["status"] == "encoded"
    assert rows["large.png"]["status"] == "rejected"
    assert "memory" in rows["large.png"]["reason"]
