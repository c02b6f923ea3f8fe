"""Adds golden payloads of each codec's default model: `python -m tests.golden.add`. Existing files are never touched.

Each is a payload, the hash of its symbols, and the picture it decoded to on the day it was made.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.bitstream import container
from pipeline.codecs import registry
from pipeline.codecs.base import Symbols
from pipeline.codecs.learned import superres, weights
from pipeline.codecs.learned.trellis import STATES
from pipeline.imaging.resize import resized
from pipeline.nn.spec import CODECS
from pipeline.records import Picture, Rate

FOLDER = Path(__file__).parent / "v1"
PHOTOS = Path(__file__).parents[1] / "data" / "photos"


def symbols_sha256(symbols: Symbols) -> str:
    """Of y, then z, as little-endian int16 in C order."""
    return hashlib.sha256(symbols.y.astype("<i2").tobytes() + symbols.z.astype("<i2").tobytes()).hexdigest()


def cases() -> Iterator[tuple[str, Picture, float]]:
    """(name, picture, quality): odd sizes, gray, both ends of the quality range, noise that needs escapes."""
    with Image.open(PHOTOS / "casa-mila.jpg") as image:
        photo = np.asarray(image.convert("RGB"))
    yield "photo-q60", Picture(photo[100:293, 200:457].copy()), 60.0
    yield "photo-q12.34", Picture(photo[300:557, 500:693].copy()), 12.34
    yield "photo-q100", Picture(photo[400:500, 300:400].copy()), 100.0
    yield "photo-q0", Picture(photo[:333, :222].copy()), 0.0
    yield "pixel", Picture(photo[:1, :1].copy()), 50.0
    yield "gray", Picture(np.repeat(photo[500:579, 10:131, 1:2], 3, axis=2), gray=True), 40.0
    noise = np.random.default_rng(1).integers(0, 256, (70, 66, 3), dtype=np.uint8)
    yield "noise-q100", Picture(noise), 100.0


def along(states: int) -> Iterator[tuple[str, Picture, float]]:
    """What models that had other trellises before have payloads for already: photo, gray, pixel, noise with escapes."""
    for name, picture, quality in cases():
        if name in ("photo-q60", "gray", "pixel", "noise-q100"):
            yield f"trellis-{states}-{name}", picture, quality


def codecs() -> Iterator[str]:
    """Learned codecs that this installation has weights for."""
    for codec in CODECS.values():
        if codec == "cnn" or (weights.FOLDER / f"DEFAULT.{codec}").is_file():
            yield codec


def main() -> None:
    for codec in codecs():
        add(codec, cases())
    add("cnn", [reduced_case()], reduced="auto")
    add("cnn", [tuned_case()], tune="ms-ssim")
    add("cnn", filtered_cases())
    add("cnn", along(STATES))


def reduced_case() -> tuple[str, Picture, float]:
    """A photo without fine detail, of odd sides, which is coded at half its size."""
    with Image.open(PHOTOS / "casa-mila.jpg") as image:
        photo = np.asarray(image.convert("RGB"))
    soft = resized(resized(photo[100:356, 200:456], 48, 48), 193, 257)
    return f"reduced-{superres.require_scale(2)}", Picture(soft), 5.0


def tuned_case() -> tuple[str, Picture, float]:
    """A photo of odd sides whose quality follows the picture."""
    with Image.open(PHOTOS / "casa-mila.jpg") as image:
        photo = np.asarray(image.convert("RGB"))
    return "tune-ms-ssim", Picture(photo[80:273, 150:407].copy()), 60.0


def filtered_cases() -> Iterator[tuple[str, Picture, float]]:
    """Photos of odd sides, in colours and gray, that come with a filter of their own."""
    with Image.open(PHOTOS / "casa-mila.jpg") as image:
        photo = np.asarray(image.convert("RGB"))
    yield "filter-clipped", Picture(photo[90:423, 210:567].copy()), 60.0
    yield "filter-clipped-gray", Picture(np.repeat(photo[90:423, 210:567, 1:2], 3, axis=2), gray=True), 80.0


def add(codec_name: str, chosen: Iterable[tuple[str, Picture, float]], **options: str) -> None:
    model_id = weights.default_model_id(codec_name)
    for name, picture, quality in chosen:
        path = FOLDER / f"{model_id}-{name}.spx"
        if path.exists():
            continue
        codec: Any = registry.build(codec_name, Rate(quality=quality), device="cpu", **options)
        payload = codec.encode(picture).payload
        if "reduced" in options and container.unpack(payload).reduced is None:
            raise SystemExit(f"{path}: full size won; choose a picture that is better reduced")
        if name.startswith("filter") and container.unpack(payload).sections.get(container.FILTER, b"\0")[0] < 16:
            raise SystemExit(f"{path}: no filter with limits pays; choose another picture")
        if name.startswith("trellis") and not name.startswith(f"trellis-{container.unpack(payload).trellis}-"):
            raise SystemExit(f"{path}: it is not coded along that trellis")
        path.write_bytes(payload)
        expected = {
            "codec": codec_name,
            "model_id": model_id,
            "symbols_sha256": symbols_sha256(codec.entropy_decode(payload)),
        }
        path.with_suffix(".json").write_text(json.dumps(expected, indent=1) + "\n")
        Image.fromarray(codec.decode(payload)).save(path.with_suffix(".png"), optimize=True)
        print(path)


if __name__ == "__main__":
    main()
