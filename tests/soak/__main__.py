"""Faults for minutes or hours, and a table of what was injected and what was found.

    python -m tests.soak --minutes 60 [--store local|s3] [--seed 1]                    (make soak)

Rounds share one archive, which grows: new photos, a run with a fault, a run without, then all of it is checked. Faults
are SIGKILLs of driver, actor, entropy worker, write task and node at every step and at random times, and on S3 also
what a proxy does to requests, one at a time or all of them from some moment on. It ends with exit code 1 when a source
has no row or two, a payload does not fit its row, litter stays, or a run fails without a fault; Ctrl-C ends it early,
with the table.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import random
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests import faulty_proxy
from tests.benchmarks.conditions import conditions, table
from tests.conftest import ACCESS_KEY, SECRET_KEY, rclone
from tests.soak.rounds import ON_DRIVER, STEPS, Fault, Found, play


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--store", choices=("local", "s3"), action="append", help="both when not given")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(words)
    found: dict[str, list[Found]] = {store: [] for store in options.store or ["local", "s3"]}
    with contextlib.suppress(KeyboardInterrupt):
        for store, ended in found.items():
            rounds(store, 60 * options.minutes / len(found), options.seed, ended)
    print(report(found))
    print(f"\n{conditions('tests.soak', words, '1', 'sample photos at 64 px')}")
    return int(any(each.broken for ended in found.values() for each in ended))


def report(found: Mapping[str, Sequence[Found]]) -> str:
    """Markdown: a table of what was injected and found, the sum of it, and what broke a promise."""
    every = [each for ended in found.values() for each in ended]
    rows = table(row for store, ended in found.items() for row in summary(store, ended))
    return "\n\n".join([rows, total(every), *(f"BROKEN: {each.line}" for each in every if each.broken)])


def rounds(store: str, limit_s: float, seed: int, ended: list[Found]) -> None:
    """Adds rounds to `ended` until time is up or a promise is broken, at least one."""
    dice, until = random.Random(seed), time.monotonic() + limit_s
    with tempfile.TemporaryDirectory(prefix="soak-") as folder, _place(store, Path(folder)) as (root, proxy):
        for number, fault in enumerate(faults(dice, proxy is not None)):
            before = Counter(proxy.injected) if proxy is not None else Counter[str]()
            if proxy is not None:
                proxy.at_random(faulty_proxy.TRANSIENT, dice.choice([0.0, 0.02, 0.1]), number)
            ended.append(play(root, fault, number, proxy=proxy))
            if proxy is not None:
                ended[-1].spoilt = proxy.injected - before
            print(f"{store} {number}: {ended[-1].line}", file=sys.stderr, flush=True)
            if time.monotonic() > until or ended[-1].broken:
                return


def faults(dice: random.Random, outages: bool) -> Iterator[Fault]:
    """Every victim at every step once, in random order, then at random times; and so on for ever."""
    matrix = [Fault("driver", step, when) for step in STEPS if step != "analyse" for when in ("before", "after")]
    for codec, victim in (("webp", "task"), ("cnn", "actor"), ("webp", "node"), ("cnn", "node")):
        steps = [step for step in STEPS if step not in ON_DRIVER and (step != "analyse" or codec == "cnn")]
        matrix += [Fault(victim, step, when, codec) for step in steps for when in ("before", "after")]
    if outages:
        matrix += [Fault("store", "", lives=n, outage=kind) for kind in faulty_proxy.OUTAGES for n in (5, 20, 60)]
    for _ in itertools.count():
        yield from dice.sample(matrix, len(matrix))
        for _ in range(10):
            victim, codec = dice.choice(["driver", "actor", "task", "node"]), dice.choice(["webp", "cnn"])
            yield Fault(victim, "", codec=codec, at_s=dice.uniform(1, 40))


def summary(store: str, ended: Sequence[Found]) -> Iterator[dict[str, str]]:
    """A row for each kind of victim."""
    by_victim = defaultdict[str, list[Found]](list)
    for each in ended:
        by_victim[each.fault.kind].append(each)
    for victim, those in sorted(by_victim.items()):
        yield {
            "store": store,
            "fault": "outage" if victim == "store" else f"SIGKILL of {victim}",
            "rounds": str(len(those)),
            "hit": str(sum(each.killed for each in those)),
            "spoilt requests": str(sum(each.spoilt.total() for each in those)),
            "images": str(sum(each.images for each in those)),
            "without a row": str(sum(each.missing for each in those)),
            "with two": str(sum(each.doubled for each in those)),
            "damaged": str(sum(each.harmful for each in those)),
            "litter": str(sum(each.litter for each in those)),
            "failed": str(sum(bool(each.failed) for each in those)),
        }


def total(ended: Sequence[Found]) -> str:
    images, losses = sum(each.images for each in ended), sum(each.missing + each.harmful for each in ended)
    outages = sum(each.killed for each in ended if each.fault.outage)
    kills, spoilt = sum(each.killed for each in ended) - outages, sum((each.spoilt for each in ended), Counter())
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(spoilt.items())) or "none"
    said = f"{kills} kills, {outages} outages and {spoilt.total()} spoilt requests ({kinds}) in {len(ended)} rounds"
    return f"{said}, {sum(bool(each.failed) for each in ended)} of them failed; {images} images, {losses} losses"


@contextlib.contextmanager
def _place(store: str, folder: Path) -> Iterator[tuple[str, faulty_proxy.Proxy | None]]:
    """An empty root; on S3 behind a proxy whose address is in the environment of what is started."""
    if store == "local":
        yield str(folder), None
        return
    with rclone(folder) as server, faulty_proxy.before(server.endpoint) as proxy:
        os.environ |= {"AWS_ENDPOINT_URL": proxy.endpoint, "AWS_DEFAULT_REGION": "us-east-1"}
        os.environ |= {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
        yield f"{server.bucket('soak')}/root", proxy


if __name__ == "__main__":
    raise SystemExit(main())
