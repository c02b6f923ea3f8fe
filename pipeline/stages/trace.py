"""The trace of one chunk: how long each stage took and on which node, carried along with its data.

Counters live in the driver alone, which adds up what comes back with committed parts: a chunk that was tried twice
is counted once, and no worker has to be asked.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

READ, DECODE, ANALYSE, ENCODE, COMMIT = STAGES = ("read", "decode", "analyse", "encode", "commit")


@dataclass
class Trace:
    """Seconds by stage, and the node that worked on it last."""

    node: str = ""
    stage_s: dict[str, float] = field(default_factory=dict)
    nodes: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - started)

    def add(self, stage: str, seconds: float) -> None:
        self.stage_s[stage] = self.stage_s.get(stage, 0.0) + seconds
        self.nodes[stage] = self.node

    def to_json(self) -> str:
        return json.dumps({"stage_s": self.stage_s, "nodes": self.nodes})

    @classmethod
    def from_json(cls, text: str, node: str = "") -> Trace:
        return cls(node, **json.loads(text))
