"""Where the CPU time of one picture goes: stage by stage, part by part, and which operators of torch take most of it.

    python -m tests.benchmarks.breakdown [--images FOLDER] [--limit N] [--quality Q] [--effort E] [--operators N]

What a pipeline does with a picture (decode the source, analyse, measure, entropy-code, verify), in one process with
one thread, in milliseconds of CPU a megapixel, each the least of several rounds. Time counts for the innermost part.
"""

from __future__ import annotations

import functools
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch.profiler import ProfilerActivity, profile

from pipeline.codecs.learned import hyperprior
from pipeline.codecs.learned.hyperprior import DEFAULT_EFFORT, Hyperprior
from pipeline.codecs.learned.networks import Networks
from pipeline.entropy.coder import SymbolDecoder, SymbolEncoder
from pipeline.imaging.decode import decode
from pipeline.nn.integer import IntegerHyperSynthesis
from pipeline.records import Rate
from tests.benchmarks import conditions

OTHER = "everything else"
PARTS: dict[str, tuple[tuple[Any, str], ...]] = {
    "g_a": ((Networks, "_latents"),),
    "h_a": ((Networks, "_hyper_latents"),),
    "h_s": ((IntegerHyperSynthesis, "__call__"), (IntegerHyperSynthesis, "scales")),
    "choosing symbols": ((Networks, "_settle"),),
    "errors and slopes": ((Networks, "_slope"),),
    "g_s": ((Networks, "picture"),),
    "metrics": ((hyperprior, "measure"),),
    "entropy coder": (
        (SymbolEncoder, "encode"),
        (SymbolEncoder, "encode_trellis"),
        (SymbolDecoder, "decode"),
        (SymbolDecoder, "decode_trellis"),
    ),
}
ENTROPY_STAGE = ("entropy coding", "verification")


class Clock:
    """CPU seconds by (stage, part), each counted for the innermost part that runs."""

    def __init__(self) -> None:
        self.cpu_s = Counter[tuple[str, str]]()
        self._running = list[tuple[str, str]]()
        self._since = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        with self._timed((name, OTHER)):
            yield

    def timing(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*words: Any, **named: Any) -> Any:
            stage = self._running[-1][0] if self._running else OTHER
            with self._timed((stage, part)):
                return function(*words, **named)

        return timed

    @contextmanager
    def _timed(self, key: tuple[str, str]) -> Iterator[None]:
        self._settle()
        self._running.append(key)
        try:
            yield
        finally:
            self._settle()
            self._running.pop()

    def _settle(self) -> None:
        """Give the time since the last change to what has run since."""
        now = time.process_time()
        if self._running:
            self.cpu_s[self._running[-1]] += now - self._since
        self._since = now


@contextmanager
def clocked() -> Iterator[Clock]:
    """A clock that runs whenever one of PARTS does."""
    clock, patches = Clock(), list[Any]()
    for part, places in PARTS.items():
        for owner, name in places:
            patches.append(patch.object(owner, name, clock.timing(part, getattr(owner, name))))
    for each in patches:
        each.start()
    try:
        yield clock
    finally:
        for each in patches:
            each.stop()


def pass_over(codec: Hyperprior, sources: Sequence[bytes], clock: Clock) -> None:
    """Every stage of a pipeline, for each of `sources`."""
    for source in sources:
        with clock.stage("decoding the source"):
            picture = decode(source)
        with clock.stage("analysis"):
            (analysis,) = codec.analyse([picture])
        with clock.stage(ENTROPY_STAGE[0]):
            payload = codec.entropy_encode(analysis.symbols)
        with clock.stage(ENTROPY_STAGE[1]):
            codec.entropy_decode(payload)


def measured(codec: Hyperprior, sources: Sequence[bytes], rounds: int) -> dict[tuple[str, str], float]:
    """(stage, part) to the least CPU seconds of `rounds` passes, after one that loads everything."""
    pass_over(codec, sources, Clock())
    found = list[Counter[tuple[str, str]]]()
    for _ in range(rounds):
        with clocked() as clock:
            pass_over(codec, sources, clock)
        found.append(clock.cpu_s)
    return {key: min(one[key] for one in found) for key in found[0]}


def parts_table(cpu_s: dict[tuple[str, str], float], mpx: float) -> str:
    total = sum(cpu_s.values())
    entropy_s = sum(s for (stage, _), s in cpu_s.items() if stage in ENTROPY_STAGE)
    rows = [*cpu_s.items(), (("entropy stage, both ways", ""), entropy_s), (("all", ""), total)]
    return conditions.table(
        {"stage": stage, "part": part, "ms CPU a MPix": f"{1e3 * s / mpx:.1f}", "share": f"{100 * s / total:.1f} %"}
        for (stage, part), s in rows
    )


def operators_table(codec: Hyperprior, sources: Sequence[bytes], count: int, mpx: float) -> str:
    """The operators of torch that take most of their own time, in analysis and in decoding."""
    pictures = [decode(source) for source in sources]
    payloads = [codec.encode(picture).payload for picture in pictures]
    rows = []
    for name, run in (
        ("encode", lambda: [codec.encode(picture) for picture in pictures]),
        ("decode", lambda: [codec.decode(payload) for payload in payloads]),
    ):
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            run()
        events = sorted(profiled.key_averages(), key=lambda event: -event.self_cpu_time_total)
        total = sum(event.self_cpu_time_total for event in events)
        rows += [
            {
                "": name,
                "operator": event.key,
                "calls": event.count,
                "ms a MPix": f"{event.self_cpu_time_total / 1e3 / mpx:.1f}",
                "share of torch": f"{100 * event.self_cpu_time_total / total:.0f} %",
            }
            for event in events[:count]
        ]
    return conditions.table(rows)


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    parser = conditions.parser_of("tests.benchmarks.breakdown", __doc__)
    parser.add_argument("--images", type=Path, default=conditions.PHOTOS)
    parser.add_argument("--limit", type=int, default=4)
    parser.add_argument("--quality", type=float, default=60.0)
    parser.add_argument("--effort", type=int, default=DEFAULT_EFFORT)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--operators", type=int, default=8, help="how many a side")
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    images = conditions.images_in(options.images, options.limit)
    sources = [path.read_bytes() for path in images]
    mpx = sum(decode(source).rgb.size for source in sources) / 3e6
    codec = Hyperprior(Rate(quality=options.quality), device="cpu", effort=options.effort)
    print(f"Model {codec.model_id}, quality {options.quality:g}, effort {options.effort}, {mpx:.1f} MPix\n")
    print(parts_table(measured(codec, sources, options.rounds), mpx))
    print(f"\n{operators_table(codec, sources, options.operators, mpx)}")
    print(f"\n{conditions.conditions('tests.benchmarks.breakdown', words, '1', conditions.data_set(images))}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
