"""What the gateway counts, in the text format of Prometheus."""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.serve.renders import Renders

_PREFIX = "shardpress_gateway_"


class Counters:
    """Thread-safe sums by name and by status of answers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sums: Counter[str] = Counter()

    def add(self, name: str, value: float = 1) -> None:
        with self._lock:
            self._sums[name] += value  # type: ignore[assignment]  # Counter holds floats as well

    def answered(self, status: int, seconds: float) -> None:
        self.add(f'requests_total{{status="{status}"}}')
        self.add("request_seconds_total", seconds)

    def text(self, renders: Renders) -> str:
        with self._lock:
            found: dict[str, float] = dict(self._sums)
        found |= {
            "pictures": len(renders.pictures),
            "cache_bytes": renders.cached_bytes,
            "cache_hits_total": renders.hits,
            "cache_misses_total": renders.misses,
            "render_seconds_total": renders.render_s,
        }
        lines, seen = [], set()
        for name, value in sorted(found.items()):
            family = name.partition("{")[0]
            if family not in seen:
                seen.add(family)
                lines.append(f"# TYPE {_PREFIX}{family} {'counter' if family.endswith('_total') else 'gauge'}")
            lines.append(f"{_PREFIX}{name} {value:g}" if isinstance(value, float) else f"{_PREFIX}{name} {value}")
        return "\n".join(lines) + "\n"
