"""How much faster `cnn` is than CompressAI's mbt2018-mean, that library's own code, on the same machine and threads.

    pip install --no-deps --target FOLDER compressai torch_geometric psutil xxhash pyparsing tqdm einops \
        pytorch-msssim torchmetrics lightning-utilities matplotlib contourpy cycler kiwisolver pandas scipy
    PYTHONPATH=$PYTHONPATH:FOLDER python -m tests.benchmarks.reference [--images FOLDER] [--limit N] [--device cuda]

Its weights are untrained, which does not matter to the speed of its networks and makes its entropy coder's work
lighter, not heavier. Both sides start from pixels in memory and end with bytes, and the other way round; in turns,
best of several rounds. Quality 60 here, `quality=4` (the smaller networks) there.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pipeline.codecs.learned.hyperprior import Hyperprior
from pipeline.nn.hyperprior import pad_to
from pipeline.nn.vision import torchvision
from pipeline.records import Picture, Rate
from tests.benchmarks import conditions

Codec = tuple[Callable[[np.ndarray], Any], Callable[[Any], object]]


def ours(device: str, effort: int, precision: str = "fp32") -> Codec:
    codec = Hyperprior(Rate(quality=60.0), device=device, effort=effort)
    codec.precision = precision
    return lambda rgb: codec.encode(Picture(rgb)).payload, codec.decode


def their_model(device: str, quality: int = 4) -> Any:
    """CompressAI's mbt2018-mean, untrained; from quality 5 on with its larger networks.

    Raises SystemExit, a sentence, where CompressAI is not installed.
    """
    torchvision()  # CompressAI imports it, and with a CPU build of torch that only works through this door
    try:
        from compressai.zoo import mbt2018_mean
    except ImportError as error:
        raise SystemExit(
            f"compressai: {error}; install it as the docstring of tests/benchmarks/reference.py says"
        ) from error
    model = mbt2018_mean(quality, pretrained=False).eval().to(device)
    model.update()
    return model


def coded_by(model: Any, device: str) -> Codec:
    @torch.inference_mode()
    def encode(rgb: np.ndarray) -> Any:
        x = torch.from_numpy(rgb).to(device).permute(2, 0, 1)[None].float() / 255
        return model.compress(pad_to(x, 64))

    @torch.inference_mode()
    def decode(found: Any) -> object:
        return model.decompress(found["strings"], found["shape"])["x_hat"].mul(255).round().byte().cpu()

    return encode, decode


def seconds(codec: Codec, rgb: np.ndarray) -> tuple[float, float]:
    """To encode and to decode one picture."""
    encode, decode = codec
    start = time.perf_counter()
    coded = encode(rgb)
    middle = time.perf_counter()
    decode(coded)
    return middle - start, time.perf_counter() - middle


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.reference")
    parser.add_argument("--images", type=Path, default=conditions.PHOTOS)
    parser.add_argument("--limit", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(words)
    torch.set_num_threads(options.threads)
    images = conditions.images_in(options.images, options.limit)
    pictures = [np.array(Image.open(path).convert("RGB")) for path in images]
    codecs = {f"cnn, effort {effort}": ours(options.device, effort) for effort in (0, 1)}
    codecs["cnn, effort 0, decoded in bf16"] = ours(options.device, 0, "bf16")
    codecs["compressai mbt2018-mean"] = coded_by(their_model(options.device), options.device)
    times = {(name, k): list[tuple[float, float]]() for name in codecs for k in range(len(pictures))}
    for _ in range(options.rounds):
        for k, rgb in enumerate(pictures):
            for name, codec in codecs.items():
                times[name, k].append(seconds(codec, rgb))
    mpx = sum(rgb.size for rgb in pictures) / 3e6
    rows = []
    for name in codecs:
        of_one = [times[name, k] for k in range(len(pictures))]
        encode, decode = (mpx / sum(min(t[side] for t in of) for of in of_one) for side in (0, 1))
        rows.append((name, encode, decode))
    _, *reference = rows[-1]
    print(
        conditions.table(
            {"codec": name, "encode MPix/s": f"{e:.2f}", "times": f"{e / reference[0]:.1f}x"}
            | {"decode MPix/s": f"{d:.2f}", "times as fast": f"{d / reference[1]:.1f}x"}
            for name, e, d in rows
        )
    )
    threads = f"{options.threads}, in turns, best of {options.rounds} rounds{conditions.gpu(options.device)}"
    print(f"\n{conditions.conditions('tests.benchmarks.reference', words, threads, conditions.data_set(images))}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
