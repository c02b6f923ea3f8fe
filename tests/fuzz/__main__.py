"""Coverage-guided fuzzing of the readers, with atheris.

    python -m tests.fuzz --seconds 600                  every target, ten minutes each; ends with a table
    python -m tests.fuzz --target payload --runs 2000
    python -m tests.fuzz --target image --replay FILE   one input again, as the fuzzer left it

What it finds lies in tests/fuzz/found, from where `tests/fuzz/test_fuzz.py` replays it for ever.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.conditions import conditions, table
from tests.fuzz import targets

FOUND = Path(__file__).parent / "found"
TIMEOUT_S, MAX_BYTES = 20, 1 << 16
PATIENCE_S, FINISHED = 120, "stat::number_of_executed_units"
"""What a process may take beside fuzzing, and what it says at its end."""
NAMES = tuple(targets.TARGETS)


@dataclass(frozen=True)
class Result:
    """One target: what libFuzzer says at its end."""

    target: str
    seconds: float
    runs: int
    coverage: int
    found: str

    def row(self) -> dict[str, str]:
        return {"target": self.target, "seconds": f"{self.seconds:.0f}", "inputs": f"{self.runs:,}"} | {
            "edges covered": str(self.coverage),
            "found": self.found or "nothing",
        }


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__, formatter_class=_AS_IT_IS)
    parser.add_argument("--target", action="append", choices=NAMES, help="may be given several times; all when not")
    parser.add_argument("--seconds", type=int, default=0)
    parser.add_argument("--runs", type=int, default=-1)
    parser.add_argument("--replay", type=Path)
    options = parser.parse_args(words)
    if options.replay:
        targets.TARGETS[options.target[0]](options.replay.read_bytes())
        return 0
    if not options.seconds and options.runs < 0:
        parser.error("say for how long: --seconds or --runs")
    results = [fuzz(name, options.seconds, options.runs) for name in options.target or NAMES]
    print(table(result.row() for result in results))
    print(f"\n{conditions('tests.fuzz', words, '1', 'inputs made in tests/fuzz/targets.py')}")
    return int(any(result.found for result in results))


_AS_IT_IS = argparse.RawDescriptionHelpFormatter


def fuzz(name: str, seconds: int, runs: int) -> Result:
    """One target in a process of its own, which may die of what it finds."""
    FOUND.mkdir(exist_ok=True)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as corpus:
        for at, seed in enumerate(targets.seeds(name)):
            (Path(corpus) / f"seed-{at}").write_bytes(seed)
        limits = [f"-timeout={TIMEOUT_S}", f"-rss_limit_mb={targets.MEMORY_MB}", f"-max_len={MAX_BYTES}"]
        limits += [f"-max_total_time={seconds}", f"-runs={runs}", "-print_final_stats=1", "-close_fd_mask=1"]
        # A process counts the memory of the one it was forked from, here perhaps a large pytest: a shell lies between.
        shell = ["sh", "-c", '"$@"; exit $?', "sh"]
        command = [*shell, sys.executable, "-m", "tests.fuzz.inside", name, corpus, *limits]
        prefix = f"-artifact_prefix={FOUND}/{name}-"
        code, said = ended([*command, prefix], seconds + PATIENCE_S)
    executed = re.findall(r"stat::number_of_executed_units:\s+(\d+)", said)
    covered = re.findall(r"cov: (\d+)", said)
    left = re.findall(r"Test unit written to (\S+)", said)
    found = Path(left[0]).name if left else ""
    if code and not found:
        found = " ".join(said.strip().splitlines()[-1:]) or f"exit code {code}"
    if found:
        print(said[-6000:], file=sys.stderr)
    runs_done = int(executed[-1]) if executed else 0
    return Result(name, time.monotonic() - started, runs_done, int(covered[-1]) if covered else 0, found)


def ended(command: list[str], within_s: float) -> tuple[int, str]:
    """Exit code and stderr of a command, which is killed where it takes longer.

    One that has said what it did is done: libFuzzer exits with the interpreter locked, and Arrow's threads, which are
    waited for then, may want that lock to let go of a buffer.
    """
    run = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True
    )
    try:
        said = run.communicate(timeout=within_s)[1]
        return run.returncode, said
    except subprocess.TimeoutExpired:
        os.killpg(run.pid, signal.SIGKILL)
        said = run.communicate()[1]
        return 0 if FINISHED in said else run.returncode, said


if __name__ == "__main__":
    raise SystemExit(main())
