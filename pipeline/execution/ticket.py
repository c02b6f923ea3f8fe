"""What travels to the workers: one small, plain ticket, from which each process builds its stages once."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from pipeline.archive import Archive
from pipeline.codecs import registry
from pipeline.codecs.base import Codec, SplitCodec
from pipeline.codecs.original import Original
from pipeline.errors import ConfigError
from pipeline.execution import node_weights
from pipeline.execution.guard import Probe
from pipeline.execution.limits import Limits, bounded
from pipeline.records import Outcome
from pipeline.sources import Source
from pipeline.stages.analyse import Analyse
from pipeline.stages.decode import Decode, rejected
from pipeline.stages.encode import Encode, Floor
from pipeline.stages.trace import ANALYSE, DECODE, ENCODE, Trace
from pipeline.stages.work import Work, has_pixels, shell_of


@dataclass(frozen=True)
class Ticket:
    """Everything a worker must know about a run.

    spec     what part ids are made of: codec, fallback, floor and limits, as JSON text.
    chain    codec specs as JSON texts, the run's own codec first and `original` last.
    split    the first codec is learned: its accelerator half runs in the actor pool.
    apart    decoding is not done by that pool but by tasks before it, on nodes of their own.
    threads  of the accelerator half, on a CPU.
    limits   of time and memory for one image.
    """

    archive_uri: str
    run_id: str
    source: Source
    spec: str
    chain: tuple[str, ...]
    split: bool
    decode: Decode
    floor: Floor
    batch_mpx: float = 2.0
    threads: int = 1
    apart: bool = False
    limits: Limits = field(default_factory=Limits)


class Steps:
    """The stages of one ticket in one process; codecs are built when first needed."""

    def __init__(self, ticket: Ticket) -> None:
        self.ticket = ticket
        self.decode = ticket.decode
        self.archive = Archive(ticket.archive_uri)

    @functools.cached_property
    def encode(self) -> Encode:
        # OpenMP reads its thread count once, when torch is imported, and Ray has set it to the CPUs of the task.
        os.environ["OMP_NUM_THREADS"] = str(self.ticket.threads)
        weights = functools.partial(node_weights.model_bytes, self.archive)
        chain: list[Codec] = [registry.from_spec(json.loads(text), weights) for text in self.ticket.chain]
        return Encode(chain, self.ticket.floor, self.decode)

    @functools.cached_property
    def analyse(self) -> Analyse:
        codec = self.encode.chain[0]
        if not isinstance(codec, SplitCodec):
            raise ConfigError(f"codec {codec.name}: it has no accelerator half to run in an actor pool")
        return Analyse(codec, self.ticket.batch_mpx)

    def decoded(self, work: Work, trace: Trace) -> Work:
        """`work` with its pixels or its outcome; nothing to do where it came with them."""
        if work.outcome is not None or (work.picture is not None and has_pixels(work.picture)):
            return work
        with trace.timed(DECODE), bounded(self.ticket.limits):
            return self.decode(work.source)

    def analysed(self, works: Iterable[Work], trace: Trace) -> Iterator[Work]:
        stream = self.analyse(self.decoded(work, trace) for work in works)
        while True:
            with bounded(self.ticket.limits):
                work = next(stream, None)
            if work is None:
                return
            trace.add(ANALYSE, work.analyse_ms / 1e3)
            yield work

    def outcome(self, work: Work, trace: Trace) -> Outcome:
        work = work if work.picture else self.decoded(work, trace)
        with trace.timed(ENCODE), bounded(self.ticket.limits):
            return self.encode(work)

    def kept(self, work: Work, reason: str) -> Outcome:
        """The original, because coding this image kills whoever tries."""
        decoded = work if work.picture else self.decode(work.source)
        keep = Encode([Original()], self.ticket.floor, self.decode)
        return replace(keep(decoded), reason=reason)


@functools.lru_cache(maxsize=2)
def steps_of(ticket: Ticket) -> Steps:
    """Built once per process and ticket."""
    return Steps(ticket)


class CarefulSteps:
    """`Steps` for a chunk whose last attempt died: each image is tried in a child process first."""

    def __init__(self, ticket: Ticket) -> None:
        self._steps = steps_of(ticket)
        self._probes = {name: Probe(_pickled(ticket, name)) for name in ("decode", "analysed", "outcome")}

    def decoded(self, work: Work, trace: Trace) -> Work:
        if (deadly := self._cause("decode", work)) is not None:
            return rejected(work.source, self._crash("decoding", deadly))
        return self._steps.decoded(work, trace)

    def analysed(self, works: Iterable[Work], trace: Trace) -> Iterator[Work]:
        for work in works:
            if work.outcome is not None or (cause := self._cause("analysed", work)) is None:
                yield from self._steps.analysed([work], trace)
                continue
            decoded = self.decoded(work, trace)
            shell = shell_of(decoded.picture) if decoded.picture else None
            yield decoded if decoded.outcome else replace(decoded, picture=shell, note=self._crash("analysis", cause))

    def outcome(self, work: Work, trace: Trace) -> Outcome:
        if work.outcome is not None or (cause := self._cause("outcome", work)) is None:
            return self._steps.outcome(work, trace)
        if (deadly := self._cause("decode", work)) is not None:
            return self._steps.outcome(rejected(work.source, self._crash("decoding", deadly)), trace)
        return self._steps.kept(work, self._crash("coding", cause) + "; original used")

    def close(self) -> None:
        for probe in self._probes.values():
            probe.close()

    def _cause(self, step: str, work: Work) -> str | None:
        return self._probes[step].cause_of_death(work)

    def _crash(self, doing: str, cause: str) -> str:
        if "SIGALRM" in cause:
            return f"{doing} this image took longer than limits.seconds={self._steps.ticket.limits.seconds:g}"
        return f"{doing} this image crashed the process ({cause})"


def _pickled(ticket: Ticket, step: str) -> bytes:
    from ray import cloudpickle

    return bytes(cloudpickle.dumps(functools.partial(try_step, ticket, step)))


def try_step(ticket: Ticket, step: str, work: Work) -> None:
    """What the probe's child runs; only whether it survives matters."""
    steps = steps_of(ticket)
    if step == "decode":
        steps.decoded(Work(work.source), Trace())
    elif step == "analysed":
        list(steps.analysed([work], Trace()))
    else:
        steps.outcome(work, Trace())
