"""A bounded run of every fuzzing target, what earlier runs found, and damage tried out exhaustively.

Longer runs: `python -m tests.fuzz --seconds 600`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.bitstream import container
from pipeline.errors import BitstreamError
from tests.fuzz import targets, tiny
from tests.fuzz.__main__ import FOUND, ended, fuzz
from tests.golden.add import FOLDER as GOLDEN

CRASHERS = sorted(path for path in FOUND.glob("*") if path.is_file())
RUNS = 1000


@pytest.mark.parametrize("name", targets.TARGETS)
def test_valid_inputs_are_read(name: str):
    for seed in targets.seeds(name):
        targets.TARGETS[name](seed)


@pytest.mark.parametrize("path", CRASHERS, ids=lambda path: path.name)
def test_what_was_found_once_stays_mended(path: Path):
    name = next(name for name in targets.TARGETS if path.name.startswith(f"{name}-"))
    targets.TARGETS[name](path.read_bytes())


@pytest.mark.parametrize("name", targets.TARGETS)
def test_arbitrary_bytes_crash_nothing(name: str):
    pytest.importorskip("atheris", reason="atheris has no wheel for this Python")
    result = fuzz(name, seconds=60, runs=RUNS)
    assert result.found == ""
    assert result.runs > 0
    assert result.coverage > 0


def test_a_process_that_does_not_end_is_ended_and_what_it_said_counts():
    stuck = "echo {} >&2; sleep 60 & wait"
    code, said = ended(["sh", "-c", stuck.format("stat::number_of_executed_units: 5")], 1)
    assert (code, said.strip()) == (0, "stat::number_of_executed_units: 5")
    code, said = ended(["sh", "-c", stuck.format("INFO: seed corpus")], 1)
    assert (code, said.strip()) == (-9, "INFO: seed corpus")
    assert ended(["sh", "-c", "exit 3"], 10) == (3, "")


SMALL = [path.read_bytes() for path in sorted(GOLDEN.glob("*-gray.spx"))]
SMALL += [tiny.payload(20, 20, trellis=trellis) for trellis in container.TRELLISES]
SMALL.append(tiny.payload(20, 20, in_turns=True))


@pytest.mark.parametrize("payload", SMALL, ids=len)
def test_every_truncation_of_a_payload_is_detected(payload: bytes):
    for length in range(len(payload)):
        with pytest.raises(BitstreamError):
            container.unpack(payload[:length])


@pytest.mark.parametrize("payload", SMALL, ids=len)
def test_every_single_byte_corruption_of_a_payload_is_detected(payload: bytes):
    undetected = []
    for at in range(len(payload)):
        damaged = bytearray(payload)
        for change in range(1, 256):
            damaged[at] = payload[at] ^ change
            try:
                container.unpack(bytes(damaged))
            except BitstreamError:
                continue
            undetected.append((at, change))
    assert undetected == []


def test_a_payload_that_claims_more_pixels_than_allowed_is_refused_before_anything_is_allocated():
    head = container.unpack(tiny.payload())
    giant = container.Container(head.model_id, 100_000, 100_000, head.quality_centi, False, head.sections)
    from pipeline.codecs.learned.symbols import entropy_decode

    with pytest.raises(BitstreamError, match="more than"):
        entropy_decode(tiny.model(), container.pack(giant))
