"""What a run tells while it runs: metrics for Prometheus by way of Ray, and JSON lines for whoever collects logs.

Everything comes from the tallies of committed parts, in the driver: what is counted is what is committed, once.
Ray puts `ray_` before the names and `_total` behind counters. With `log: parts` each committed part is one line of
JSON on stderr, with `log: images` each image as well, from the part as it was committed.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from pipeline.archive import Archive
from pipeline.stages.commit import Tally

OFF, PARTS, IMAGES = LOGS = ("off", "parts", "images")
# Ray's exporter forgets a gauge that nobody has set for 20 s, and a run that stalls must not look like one that ended.
REFRESH_S = 5.0
_BUCKETS_S = [0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300]
_IMAGE_COLUMNS = ("image_id", "source_uri", "status", "reason", "codec", "payload_bytes", "psnr_db", "encode_ms")


class Telemetry:
    """Of one run with `units` units of work and a pool of `actors`. Metrics begin when Ray is there."""

    def __init__(self, archive: Archive, run_id: str, units: int, actors: int, log: str = OFF) -> None:
        self._archive, self._run_id, self._units, self._actors, self._log = archive, run_id, units, actors, log
        self._metrics: dict[str, Any] | None = None
        self._left, self._lock = units, threading.Lock()

    @contextmanager
    def fresh(self) -> Iterator[None]:
        """Keeps gauges set while the block runs, from the moment that Ray is there."""
        ended = threading.Event()

        def refresh() -> None:
            while not ended.wait(REFRESH_S):
                if _ray_is_there():
                    self._set_gauges()

        thread = threading.Thread(target=refresh, name="gauges", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def part(self, tally: Tally, total: Tally) -> None:
        """Tells of one committed part; `total` includes it."""
        self._count(tally, total)
        if tally.part is None or self._log == OFF:
            return
        self._line("part committed", _of_part(tally))
        if self._log == IMAGES:
            for row in self._archive.part_metrics(tally.part).to_pylist():
                self._line("image committed", {"part": tally.part} | {name: row[name] for name in _IMAGE_COLUMNS})

    def event(self, name: str, **values: Any) -> None:
        """A line about the run itself."""
        if self._log != OFF:
            self._line(name, values)

    def _count(self, tally: Tally, total: Tally) -> None:
        self._left = max(0, self._units - total.units)
        metrics = self._set_gauges()
        for name, images in tally.reasons.items():
            status, _, reason = name.partition("/")
            metrics["images"].inc(images, {"status": status, "reason": reason})
        for name, value in _amounts(tally).items():
            if value:
                metrics[name].inc(value)
        for stage, seconds in tally.stage_s.items():
            metrics["stage_seconds"].observe(seconds, {"stage": stage})

    def _set_gauges(self) -> dict[str, Any]:
        with self._lock:
            metrics = self._metrics = self._metrics or made()
            metrics["queue_units"].set(self._left)
            metrics["actors"].set(self._actors)
            return metrics

    def _line(self, event: str, values: Mapping[str, Any]) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = {"time": now, "event": event, "run_id": self._run_id, **values}
        print(json.dumps(line, default=str), file=sys.stderr, flush=True)


def _ray_is_there() -> bool:
    """Without importing it, which a run that has nothing to do never does."""
    connected = getattr(sys.modules.get("ray"), "is_initialized", None)
    return connected is not None and bool(connected())


def made() -> dict[str, Any]:
    """Every metric by its name without the prefix; made in a process that Ray knows."""
    from ray.util.metrics import Counter, Gauge, Histogram

    seconds = "Seconds of one chunk in one stage, summed over the worker's images."
    kinds: list[tuple[str, Callable[..., Any], str, tuple[str, ...]]] = [
        ("images", Counter, "Committed images by what became of them and why.", ("status", "reason")),
        ("megapixels", Counter, "Decoded megapixels of committed images.", ()),
        ("source_bytes", Counter, "Bytes in: source files of committed images.", ()),
        ("payload_bytes", Counter, "Bytes out: payloads of committed images.", ()),
        ("parts", Counter, "Committed parts.", ()),
        ("queue_units", Gauge, "Units of work (chunks of files, or shards) not finished yet.", ()),
        ("actors", Gauge, "Actors that the run asked for; a pool that may grow has more.", ()),
    ]
    found = {name: kind(f"shardpress_{name}", text, tag_keys=tags) for name, kind, text, tags in kinds}
    found["stage_seconds"] = Histogram("shardpress_stage_seconds", seconds, boundaries=_BUCKETS_S, tag_keys=("stage",))
    return found


def _amounts(tally: Tally) -> dict[str, float]:
    amounts = {name: getattr(tally, name) for name in ("source_bytes", "payload_bytes", "parts")}
    return amounts | {"megapixels": tally.pixels / 1e6}


def _of_part(tally: Tally) -> dict[str, Any]:
    seconds = {name: round(value, 4) for name, value in tally.stage_s.items()}
    counted = {name: getattr(tally, name) for name in ("part", "images", "source_bytes", "payload_bytes")}
    return counted | {"reasons": tally.reasons, "stage_s": seconds, "nodes": tally.nodes}
