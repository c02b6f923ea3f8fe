"""Commit: the outcomes of one chunk become one part of the archive, and a tally of it."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.archive import Archive, PartMeta
from pipeline.metrics.distortion import psnr_db
from pipeline.records import ENCODED, KEPT_ORIGINAL, REJECTED, Outcome
from pipeline.stages.reasons import kind_of
from pipeline.stages.trace import COMMIT, Trace

_OF_ONE_PART = ("part", "nodes")
_INTERNAL = ("mse_sum", "ms_ssim_sum", "ms_ssim_count", "stage_s", *_OF_ONE_PART)


@dataclass(frozen=True, slots=True)
class Tally:
    """Sums over committed rows; those of parts add up to those of a run.

    `source_bytes` includes `rejected_bytes`, which have no payload to be compared with. `mse_sum` and
    `ms_ssim_sum` run over encoded rows, exact ones included. `units` counts units of work whose last part this is.
    `reasons` counts images by "status/kind", see `reasons`; `stage_s` are seconds by stage, summed over workers.
    A single part also has its name and the node of each stage.
    """

    parts: int = 0
    units: int = 0
    images: int = 0
    encoded: int = 0
    kept_original: int = 0
    rejected: int = 0
    source_bytes: int = 0
    rejected_bytes: int = 0
    payload_bytes: int = 0
    pixels: int = 0
    mse_sum: float = 0.0
    ms_ssim_sum: float = 0.0
    ms_ssim_count: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)
    stage_s: Mapping[str, float] = field(default_factory=dict)
    part: str | None = None
    nodes: Mapping[str, str] = field(default_factory=dict)

    def __add__(self, other: Tally) -> Tally:
        names = [each.name for each in dataclasses.fields(self) if each.name not in _OF_ONE_PART]
        return Tally(**{name: _sum(getattr(self, name), getattr(other, name)) for name in names})

    @property
    def saved_pct(self) -> float:
        stored = self.source_bytes - self.rejected_bytes
        return 100 * (1 - self.payload_bytes / stored) if stored else 0.0

    @property
    def psnr_db(self) -> float | None:
        """PSNR of the mean MSE of encoded images (a mean of PSNRs would be infinite with one exact image)."""
        return psnr_db(self.mse_sum / self.encoded) if self.encoded else None

    @property
    def ms_ssim(self) -> float | None:
        return self.ms_ssim_sum / self.ms_ssim_count if self.ms_ssim_count else None

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Tally:
        return cls(**json.loads(text))

    def summary(self) -> dict[str, Any]:
        """For people and machines: the counters, and what follows from them; an exact PSNR has no number."""
        psnr = self.psnr_db
        finite = psnr if psnr is not None and math.isfinite(psnr) else None
        counters = {name: value for name, value in dataclasses.asdict(self).items() if name not in _INTERNAL}
        seconds = {name: round(value, 3) for name, value in self.stage_s.items()}
        means = {"saved_pct": round(self.saved_pct, 3), "psnr_db": finite, "ms_ssim": self.ms_ssim}
        return counters | means | {"stage_s": seconds}

    @classmethod
    def of_rows(cls, rows: Iterable[Mapping[str, Any]], part: str | None = None) -> Tally:
        """The tally of metrics rows of one part."""
        total = Tally(parts=1)
        for row in rows:
            total = total + cls._of_row(row)
        return dataclasses.replace(total, part=part)

    @classmethod
    def _of_row(cls, row: Mapping[str, Any]) -> Tally:
        status, source_bytes = row["status"], row["source_bytes"] or 0
        encoded, ratio = status == ENCODED, row["ms_ssim"]
        return cls(
            images=1,
            encoded=int(encoded),
            kept_original=int(status == KEPT_ORIGINAL),
            rejected=int(status == REJECTED),
            source_bytes=source_bytes,
            rejected_bytes=source_bytes if status == REJECTED else 0,
            payload_bytes=row["payload_bytes"] or 0,
            pixels=(row["width"] or 0) * (row["height"] or 0),
            mse_sum=row["mse"] or 0.0 if encoded else 0.0,
            ms_ssim_sum=ratio if encoded and ratio is not None else 0.0,
            ms_ssim_count=int(encoded and ratio is not None),
            reasons={f"{status}/{kind_of(status, row['reason'])}": 1},
        )

    @classmethod
    def of_part(cls, archive: Archive, part: str, run_id: str) -> Tally:
        """The tally of a committed part as far as `run_id` wrote it: what other runs did is not this run's work."""
        rows = [row for row in archive.part_metrics(part).to_pylist() if row["run_id"] == run_id]
        return cls.of_rows(rows, part) if rows else cls()


def commit(
    archive: Archive, meta: PartMeta, outcomes: Sequence[Outcome], run_id: str, trace: Trace | None = None
) -> Tally:
    """Commits one part and tells what it holds. Raises ArchiveError when another run has taken the archive over."""
    trace = trace or Trace()
    with trace.timed(COMMIT):
        summary = archive.commit(meta.part_id, outcomes, meta, run_id)
    if summary.already:
        return committed_before(archive, meta, run_id)
    total = Tally.of_rows((_row_of(outcome) for outcome in outcomes), meta.part_id)
    total = dataclasses.replace(total, units=int(meta.last), payload_bytes=summary.payload_bytes)
    return dataclasses.replace(total, stage_s=trace.stage_s, nodes=trace.nodes)


def committed_before(archive: Archive, meta: PartMeta, run_id: str) -> Tally:
    """The tally of a part that is there already: all of it when this very run wrote it, else only that it is done."""
    return dataclasses.replace(Tally.of_part(archive, meta.part_id, run_id), units=int(meta.last))


def _sum(one: Any, other: Any) -> Any:
    return dict(Counter(one) + Counter(other)) if isinstance(one, Mapping) else one + other


def _row_of(outcome: Outcome) -> dict[str, Any]:
    picture, distortion = outcome.picture, outcome.distortion
    return {
        "status": outcome.status,
        "reason": outcome.reason,
        "source_bytes": len(outcome.source.data or b""),
        "payload_bytes": 0,
        "width": picture.width_px if picture else 0,
        "height": picture.height_px if picture else 0,
        "mse": distortion.mse if distortion else None,
        "ms_ssim": distortion.ms_ssim if distortion else None,
    }
