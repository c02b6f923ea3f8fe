"""What is fuzzed: everything that reads bytes which somebody else may have written.

A target takes any bytes and returns, or raises an error that is no `Expected` of its reader, which is a bug; so is a
crash, a hang, or memory beyond `MEMORY_MB`. Pictures are held to `PIXELS`, lest the valid header of a giant stops the
search.
"""

from __future__ import annotations

import functools
import io
import os
import tarfile
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.archive import PartMeta, create_or_open, reader
from pipeline.bitstream import container
from pipeline.codecs.learned import superres, symbols, weights
from pipeline.codecs.registry import build
from pipeline.errors import ArchiveError, BitstreamError, ImageError
from pipeline.imaging.decode import decode
from pipeline.records import ENCODED, Distortion, Outcome, Picture, SourceImage, image_id_of
from pipeline.sources.tar import TarDamage, decompressed, members
from tests.fuzz import tiny

PIXELS, MEMORY_MB = 1 << 16, 2048
CLASSIC = ("jpeg", "webp", "avif", "jpeg2000", "jxl", "jxl-lossless")


def read_container(data: bytes) -> None:
    box = _unless(BitstreamError, container.unpack, data)
    if box is not None and container.unpack(container.pack(box)) != box:
        raise AssertionError("a container that was read is not the one that is written again")


def decode_payload(data: bytes) -> None:
    """As it is, and with a CRC that fits, or nothing behind that check would ever run."""
    for each in (data, sealed(data)):
        _entropy_decode(tiny.model(in_turns(each)), each)


def load_superres(data: bytes) -> None:
    if _unless(BitstreamError, superres.parse, data) is not None:
        _unless(BitstreamError, superres.built, data, "cpu")


def load_weights(data: bytes) -> None:
    model = _unless(BitstreamError, weights.parse, data)
    if model is not None:
        payload = tiny.payload(in_turns=model.z_context is not None)
        body = payload[:6] + bytes.fromhex(model.model_id) + payload[14:-4]
        _entropy_decode(model, body + zlib.crc32(body).to_bytes(4, "little"))


def read_metrics_part(data: bytes) -> None:
    path = _written(data, "metrics")
    _unless(ArchiveError, reader.read_part, path, reader.METRICS_SCHEMA.names)


def read_data_part(data: bytes) -> None:
    """Damage is told, row by row, and never raised."""
    _written(data, "data")
    rows = [{"image_id": image_id_of(f"/{n}.jpg"), "source_uri": f"/{n}.jpg", "status": ENCODED} for n in range(2)]
    for _ in reader.stored(str(_folder()), [row | {"part": "x"} for row in rows], lambda problem: None):
        pass


def read_image(data: bytes) -> None:
    _unless(ImageError, functools.partial(decode, pixel_limit=PIXELS), data)


def decode_classic(data: bytes) -> None:
    """Payloads of the codecs that are not ours; the first byte says which."""
    if data:
        _unless(BitstreamError, _codec(CLASSIC[data[0] % len(CLASSIC)]).decode, data[1:])


def read_tar(data: bytes) -> None:
    _unless(TarDamage, lambda: list(members(decompressed(io.BytesIO(data)), 1 << 20, lambda name: False)))


TARGETS: dict[str, Callable[[bytes], None]] = {
    "container": read_container,
    "payload": decode_payload,
    "weights": load_weights,
    "superres": load_superres,
    "metrics-part": read_metrics_part,
    "data-part": read_data_part,
    "image": read_image,
    "classic": decode_classic,
    "tar": read_tar,
}


def seeds(name: str) -> list[bytes]:
    """Small valid inputs of a target to start from."""
    if name in ("container", "payload"):
        return [
            tiny.payload(),
            tiny.payload(1, 1),
            tiny.payload(300, 20, 0, 3000),
            tiny.reduced(),
            tiny.payload(trellis=16),
            tiny.payload(trellis=128),
            tiny.payload(trellis=128, adaptive=40),
            tiny.filtered(),
            tiny.payload(in_turns=True),
            tiny.payload(700, 300, 0, trellis=128, in_turns=True),
        ]
    if name == "weights":
        return [tiny.file(), tiny.file_in_turns()]
    if name == "superres":
        return [tiny.superres_file()]
    if name in ("metrics-part", "data-part"):
        return [_part(name.removesuffix("-part"))]
    if name == "image":
        return [_picture(kind) for kind in ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "JPEG2000", "AVIF")]
    if name == "classic":
        picture = Picture(np.full((8, 12, 3), 99, np.uint8))
        return [bytes([at]) + _codec(each).encode(picture, b"").payload for at, each in enumerate(CLASSIC)]
    return [_tar()]


def sealed(data: bytes) -> bytes:
    """`data` under the head and the CRC of a payload of the tiny model."""
    model = tiny.model(in_turns(data))
    head = container.MAGIC + bytes([container.VERSION]) + data[5:6] + bytes.fromhex(model.model_id)
    body = head + data[14:-4]
    return body + zlib.crc32(body).to_bytes(4, "little")


def in_turns(data: bytes) -> bool:
    """What the flags of a payload say of its z."""
    return bool(data[5:6] and data[5] & 8)


def _entropy_decode(model: weights.FrozenModel, payload: bytes) -> None:
    before, symbols.PIXEL_LIMIT = symbols.PIXEL_LIMIT, PIXELS
    try:
        _unless(BitstreamError, symbols.entropy_decode, model, payload)
    finally:
        symbols.PIXEL_LIMIT = before


def _unless(expected: type[Exception], call: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return call(*arguments)
    except expected:
        return None


@functools.cache
def _codec(name: str) -> Any:
    return build(name)


@functools.cache
def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
    for room in ("metrics", "data"):
        (folder / room).mkdir()
    return folder


def _written(data: bytes, room: str) -> str:
    path = _folder() / room / "part-x.parquet"
    path.write_bytes(data)
    return str(path)


def _part(room: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        archive, meta = create_or_open(folder), PartMeta((("/0.jpg", "v"), ("/1.jpg", "v")), "spec")
        picture = Picture(np.zeros((6, 8, 3), np.uint8), exif=b"Exif", source_format="JPEG")
        rows = []
        for n in range(2):
            source = SourceImage(image_id_of(f"/{n}.jpg"), f"/{n}.jpg", "v", bytes(99), {"label": n})
            rows.append(
                Outcome(source, ENCODED, None, picture, "jpeg", None, 60.0, bytes(50), Distortion(4.0, 42.1), 1.0)
            )
        archive.commit(meta.part_id, rows, meta, "run")
        return next((Path(folder) / room).iterdir()).read_bytes()


def _picture(kind: str) -> bytes:
    sink = io.BytesIO()
    Image.linear_gradient("L").resize((12, 8)).convert("RGB").save(sink, kind)
    return sink.getvalue()


def _tar() -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in ("a.jpg", "long" * 40 + ".cls"):
            info = tarfile.TarInfo(name)
            info.size = 10
            tar.addfile(info, io.BytesIO(bytes(10)))
    return sink.getvalue()
