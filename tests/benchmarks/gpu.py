"""What a GPU changes: nothing that is read from a payload, and how many pixels go by in a second.

    python -m tests.benchmarks.gpu --images FOLDER [--limit N] [--out FILE] [--limit-s 90]

First `exactness`: payloads made on the CPU and on the GPU are read by the other, and anything but equal symbols ends in
exit code 1. Then speed, of each part, in turns, best of several rounds: from pixels in the memory of the CPU to bytes,
and back. CompressAI's mbt2018-mean stands beside it where that is installed (see `reference.py`).
"""

from __future__ import annotations

import functools
import importlib.util
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pipeline.codecs.learned.hyperprior import Hyperprior
from pipeline.nn.hyperprior import pad_to
from pipeline.records import Picture
from tests.benchmarks import conditions, exactness, reference

TIMED_QUALITY, TIMED_EFFORTS = 58.0, (0, 1, 2)
LARGE_PX = (2448, 3264)
PARTS = ("analysis", "encoding", "entropy coding", "decoding", "entropy decoding", "synthesis")
Works = dict[tuple[str, str], Callable[[], object]]


def ours(rgb: np.ndarray, codec: Hyperprior, label: str) -> Works:
    networks, centi, picture = codec.networks, round(100 * TIMED_QUALITY), Picture(rgb)
    made = networks.symbols_of(rgb, centi, False, codec.effort)
    payload = codec.entropy_encode(made)
    y_hat = networks.latents_sent(rgb, centi, codec.effort)[0].cpu().numpy()
    works: dict[str, Callable[[], object]] = {
        "analysis": lambda: networks.symbols_of(rgb, centi, False, codec.effort),
        "encoding": lambda: codec.encode(picture),
        "entropy coding": lambda: codec.entropy_encode(made),
        "decoding": lambda: codec.decode(payload),
        "entropy decoding": lambda: codec.entropy_decode(payload),
        "synthesis": lambda: networks.synthesise(made, y_hat),
    }
    return {(label, part): work for part, work in works.items()}


def theirs(rgb: np.ndarray, model: Any, device: str, label: str) -> Works:
    """CompressAI's; "analysis" is g_a, h_a and h_s alone, since the weights are random and so is the number of bits."""
    encode, decode = reference.coded_by(model, device)
    coded = functools.cache(lambda: encode(rgb))
    y_hat = torch.zeros(1, model.M, -(-rgb.shape[0] // 64) * 4, -(-rgb.shape[1] // 64) * 4, device=device)

    @torch.inference_mode()
    def analysis() -> None:
        x = torch.from_numpy(rgb).to(device).permute(2, 0, 1)[None].float() / 255
        y = model.g_a(pad_to(x, 64))
        model.h_s(model.h_a(y).round())

    @torch.inference_mode()
    def synthesis() -> object:
        return model.g_s(y_hat).mul(255).round().clamp(0, 255).byte().cpu()

    works: dict[str, Callable[[], object]] = {"analysis": analysis, "synthesis": synthesis}
    works |= {"encoding": lambda: encode(rgb), "decoding": lambda: decode(coded())}
    return {(label, part): work for part, work in works.items()}


def in_turns(works: Works, rounds: int, until_s: float) -> dict[tuple[str, str], float]:
    """Seconds of each at its fastest; the device is idle before and after. No new one is begun after `until_s`."""
    best: dict[tuple[str, str], float] = {}
    for _ in range(rounds):
        for key, work in works.items():
            if time.monotonic() > until_s:
                return best
            settle()
            started = time.perf_counter()
            work()
            settle()
            best[key] = min(best.get(key, np.inf), time.perf_counter() - started)
    return best


def settle() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def speed_rows(rgb: np.ndarray, best: Mapping[tuple[str, str], float]) -> Iterator[dict[str, str]]:
    mpx = rgb.shape[0] * rgb.shape[1] / 1e6
    for label in dict.fromkeys(label for label, _ in best):
        cells = {part: f"{mpx / best[label, part]:.1f}" if (label, part) in best else "" for part in PARTS}
        yield {"MPix/s": label, "picture": f"{rgb.shape[1]}x{rgb.shape[0]}"} | cells


def timed(rgb: np.ndarray, codec: Hyperprior, model: Any, rounds: int, until_s: float) -> list[dict[str, str]]:
    works: Works = {}
    for effort in TIMED_EFFORTS if time.monotonic() < until_s else ():
        works |= ours(rgb, exactness.at(codec, TIMED_QUALITY, effort), f"cnn, effort {effort}")
    if model is not None and works:
        works |= theirs(rgb, model, codec.device, f"mbt2018-mean, N {model.N}, M {model.M}, random weights")
    return list(speed_rows(rgb, in_turns(works, rounds, until_s)))


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    parser = conditions.parser_of("tests.benchmarks.gpu", __doc__)
    parser.add_argument("--images", type=Path, default=conditions.PHOTOS)
    parser.add_argument("--limit", type=int, default=4)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--limit-s", type=float, default=90.0, help="about: 40 % for exactness, the rest for speed")
    parser.add_argument("--no-large", action="store_true", help="leave out the picture of 8 MPix")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(words)
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        raise SystemExit("tests.benchmarks.gpu: it needs a CUDA device and torch finds none; --device cpu rehearses it")
    end_s = time.monotonic() + options.limit_s
    images = conditions.images_in(options.images, options.limit)
    pictures = {path.name: np.array(Image.open(path).convert("RGB")) for path in images}
    codecs = [Hyperprior(device="cpu"), Hyperprior(device=options.device)]
    found = exactness.checked(pictures, codecs, end_s - 0.6 * options.limit_s)
    blocks = [_said(conditions.table(exactness.check_rows(found)))] if found else []
    small = next(iter(pictures.values()))
    repeats = [-(-side // here) for side, here in zip(LARGE_PX, small.shape, strict=False)]
    large = [] if options.no_large else [np.tile(small, (*repeats, 1))[: LARGE_PX[0], : LARGE_PX[1]]]
    model = reference.their_model(options.device, 5) if importlib.util.find_spec("compressai") else None
    for share, rgb in zip((0.4, 0.0), [small, *large], strict=False):
        until_s = end_s - share * options.limit_s
        rows = timed(np.ascontiguousarray(rgb), codecs[1], model, options.rounds, until_s)
        blocks.append(_said(conditions.table(rows) if rows else "No time was left to measure speed; see --limit-s."))
    threads = f"{torch.get_num_threads()}, in turns, best of {options.rounds}, torch {torch.__version__}"
    told = conditions.conditions(
        "tests.benchmarks.gpu", words, threads + conditions.gpu(options.device), conditions.data_set(images)
    )
    blocks.append(_said(str(told)))
    if options.out:
        options.out.write_text("\n\n".join(blocks) + "\n")
    wrong = [sentence for one in found for sentence in one.wrong]
    if wrong:
        print(f"gpu: {len(wrong)} differences, the first of them: {wrong[0]}", file=sys.stderr)
    return int(bool(wrong))


def _said(block: str) -> str:
    """Printed at once: what is found is not lost with what fails later."""
    print(f"{block}\n", flush=True)
    return block


if __name__ == "__main__":
    raise SystemExit(main())
