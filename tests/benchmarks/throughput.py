"""How many pixels of many pictures one process encodes in a second with one GPU and all of its CPUs.

    python -m tests.benchmarks.throughput --images FOLDER [--count N] [--efforts 0,1] [--device cuda] [--out FILE]

Pictures in the memory of the CPU to payloads, in turns, best of several rounds, with `Hyperprior.encode_all`; the
pictures of the folder are repeated until there are enough. CompressAI's mbt2018-mean stands beside it where that is
installed (see `reference.py`): its own `compress`, a picture at a time and in batches of eight, which codes their bits
in one thread. A few of the payloads are decoded on the CPU and must be what was meant.
"""

from __future__ import annotations

import importlib.util
import itertools
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pipeline.codecs.learned.hyperprior import Hyperprior
from pipeline.metrics.distortion import mse, psnr_db
from pipeline.nn.hyperprior import pad_to
from pipeline.records import Picture
from tests.benchmarks import conditions, exactness, reference
from tests.benchmarks.gpu import settle

QUALITY, TOGETHER = 58.0, 8
"""As in `gpu.py`; pictures in a batch of theirs."""
DECODED, LEAST_DB = 3, 25.0


def batches(pictures: Sequence[np.ndarray], together: int) -> list[np.ndarray]:
    """(N, H, W, 3), N at most `together`, of pictures of one size each."""
    sizes: dict[tuple[int, ...], list[np.ndarray]] = {}
    for rgb in pictures:
        sizes.setdefault(rgb.shape, []).append(rgb)
    return [np.stack(same[k : k + together]) for same in sizes.values() for k in range(0, len(same), together)]


def theirs(model: Any, device: str, pictures: Sequence[np.ndarray], together: int) -> Callable[[], object]:
    @torch.inference_mode()
    def work() -> None:
        for batch in batches(pictures, together):
            x = torch.from_numpy(batch).to(device).permute(0, 3, 1, 2).float() / 255
            model.compress(pad_to(x, 64))

    return work


def wrong(codec: Hyperprior, pictures: Sequence[np.ndarray], payloads: Sequence[bytes]) -> list[str]:
    """What is not as it must be, of a few pictures: another decoder, a CPU's, against the one that encoded."""
    cpu, found = Hyperprior(device="cpu"), []
    for k in np.linspace(0, len(pictures) - 1, DECODED).round().astype(int):
        decoded, here = cpu.decode(payloads[k]), codec.decode(payloads[k])
        if not np.array_equal(decoded, here):
            found.append(f"picture {k}: {np.count_nonzero(decoded != here)} samples differ between devices")
        psnr = psnr_db(mse(pictures[k], decoded)) if decoded.shape == pictures[k].shape else 0.0
        if psnr < LEAST_DB:
            found.append(f"picture {k}: {psnr:.2f} dB is another picture")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    parser = conditions.parser_of("tests.benchmarks.throughput", __doc__)
    parser.add_argument("--images", type=Path, default=conditions.PHOTOS)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--count", type=int, default=192, help="pictures, those of the folder again and again")
    parser.add_argument("--efforts", default="0,1,2")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(words)
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        raise SystemExit(
            "tests.benchmarks.throughput: it needs a CUDA device and torch finds none; --device cpu rehearses it"
        )
    images = conditions.images_in(options.images, options.limit)
    files = [np.array(Image.open(path).convert("RGB")) for path in images]
    pictures = list(itertools.islice(itertools.cycle(files), options.count))
    base = Hyperprior(device=options.device)
    works: dict[str, Callable[[], object]] = {}
    complaints = []
    for effort in map(int, options.efforts.split(",")):
        codec = exactness.at(base, QUALITY, effort)
        payloads = [encoded.payload for encoded in codec.encode_all(map(Picture, pictures))]  # a warm-up as well
        complaints += [f"effort {effort}, {one}" for one in wrong(codec, pictures, payloads)]
        works[f"cnn, effort {effort}"] = lambda codec=codec: list(codec.encode_all(map(Picture, pictures)))
    few = pictures[: max(1, options.count // 4)]
    if importlib.util.find_spec("compressai"):
        model = reference.their_model(options.device, 5)
        label = f"mbt2018-mean, N {model.N}, M {model.M}, random weights"
        for together, how in ((1, "one at a time"), (TOGETHER, f"{TOGETHER} at a time")):
            works[f"{label}, {how}"] = theirs(model, options.device, few, together)
            theirs(model, options.device, few[:TOGETHER], together)()
    best = dict.fromkeys(works, np.inf)
    for _ in range(options.rounds):
        for name, work in works.items():
            settle()
            started = time.perf_counter()
            work()
            settle()
            best[name] = min(best[name], time.perf_counter() - started)
    mpx = {name: sum(x.size for x in (pictures if name.startswith("cnn") else few)) / 3e6 for name in works}
    speeds = {name: mpx[name] / best[name] for name in works}
    others = [speed for name, speed in speeds.items() if not name.startswith("cnn")]
    rows = (
        {"encoding": name, "pictures": len(pictures if name.startswith("cnn") else few), "MPix/s": f"{speed:.1f}"}
        | ({"times the faster of theirs": f"{speed / max(others):.1f}x"} if others else {})
        for name, speed in speeds.items()
    )
    table = conditions.table(rows)
    threads = f"{torch.get_num_threads()}, in turns, best of {options.rounds}, torch {torch.__version__}"
    told = conditions.conditions(
        "tests.benchmarks.throughput", words, threads + conditions.gpu(options.device), conditions.data_set(images)
    )
    print(f"{table}\n\n{told}")
    if options.out:
        options.out.write_text(f"{table}\n\n{told}\n")
    for complaint in complaints:
        print(f"throughput: {complaint}", file=sys.stderr)
    return int(bool(complaints))


if __name__ == "__main__":
    raise SystemExit(main())
