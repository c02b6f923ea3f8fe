"""The worst images: before and after under a slider, where the error is, and where the bits went.

The slider shows the 1:1 window with the largest error, so that nothing is hidden by shrinking; the maps show the whole
picture with that window outlined.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.codecs.base import Codec
from pipeline.errors import PipelineError
from pipeline.report import pictures

BLOCK_PX = 16
BUDGET_BYTES = 2_200_000
# One scale for every error map of every page, so that they can be compared; 12 of 255 levels are plainly visible.
ERROR_TOP = 12.0


@dataclass(frozen=True, slots=True, eq=False)
class Specimen:
    """One image to show. `bits` is (h, w) bits per 16 x 16 px block, or None for codecs without an entropy model."""

    before: np.ndarray
    after: np.ndarray
    bits: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class Exhibit:
    """One image as the page shows it; `problem` stands for the pictures when there are none."""

    name: str
    facts: str
    problem: str | None = None
    before: str = ""
    after: str = ""
    width: int = 0
    height: int = 0
    error: str = ""
    bits: str = ""
    bits_top: str = ""
    error_top: str = ""
    window: dict[str, str] | None = None
    aspect: str = "1"
    tags: tuple[str, str] = ("source", "decoded")  # what the slider moves between
    beside: str = ""  # a third picture, what the two are to look like


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which image, and what its caption says; equal `key`s are the same picture."""

    key: int
    name: str
    facts: str


HOW = (
    "Drag to move between source and decoded picture, pixel for pixel, where the error is largest. The maps below show "
    "the whole picture with that window outlined: where the error is, and, for the learned codec, where the bits went, "
    "which is what its entropy model finds hard to predict."
)
Fetch = Callable[[int], Specimen]


def exhibits(lists: Sequence[Sequence[Wanted]], fetch: Fetch) -> list[list[Exhibit]]:
    """The galleries of `lists`, each image in the first that wants it; one that cannot be had says why."""
    chosen = once(lists)
    keys = sorted(wanted.key for each in chosen for wanted in each)
    limit = BUDGET_BYTES // max(1, 2 * len(keys))
    shown: dict[int, Exhibit] = {}
    for key in keys:
        try:
            shown[key] = _exhibit(fetch(key), limit)
        except PipelineError as error:
            shown[key] = Exhibit("", "", problem=str(error))
    return [[replace(shown[wanted.key], name=wanted.name, facts=wanted.facts) for wanted in each] for each in chosen]


def once(lists: Sequence[Sequence[Wanted]]) -> list[list[Wanted]]:
    """`lists` without images that an earlier one holds."""
    seen: set[int] = set()
    left = []
    for each in lists:
        left.append([wanted for wanted in each if wanted.key not in seen])
        seen |= {wanted.key for wanted in each}
    return left


def shown_above(wanted: Sequence[Wanted], before: Sequence[Wanted]) -> list[str]:
    """A sentence about those of `wanted` that the gallery `before` shows, if any."""
    names = [each.name for each in wanted if each.key in {other.key for other in before}]
    if not names:
        return []
    rest = "the others follow" if len(names) < len(wanted) else "there are no others"
    return [f"Shown above already: {', '.join(names)}; {rest}."]


def _exhibit(found: Specimen, limit_bytes: int) -> Exhibit:
    error = pictures.error_of(found.before, found.after)
    window = pictures.worst_window(error)
    top, left, height, width = window
    crop = np.s_[top : top + height, left : left + width]
    bits, bits_top = "", ""
    if found.bits is not None:
        density = found.bits / BLOCK_PX**2
        highest = float(np.percentile(density, 99)) or float(density.max()) or 1.0
        bits, bits_top = pictures.heat_map(density, highest), f"{highest:.2f}"
    return Exhibit(
        name="",
        facts="",
        before=pictures.photo(np.ascontiguousarray(found.before[crop]), limit_bytes),
        after=pictures.photo(np.ascontiguousarray(found.after[crop]), limit_bytes),
        width=width,
        height=height,
        error=pictures.heat_map(pictures.shrunk(error), ERROR_TOP),
        bits=bits,
        bits_top=bits_top,
        error_top=f"{ERROR_TOP:g}",
        window=pictures.percentages(window, error.shape),
        aspect=f"{error.shape[1]} / {error.shape[0]}",
    )


def bit_map(codec: Codec, payload: bytes) -> np.ndarray | None:
    """Bits of each block under the codec's entropy model; None for codecs that have none."""
    frozen, read = getattr(codec, "frozen", None), getattr(codec, "entropy_decode", None)
    if frozen is None or read is None or not frozen.h_s.layers:
        return None
    from pipeline.codecs.learned.bits import allocation

    symbols = read(payload)
    found: np.ndarray = allocation(frozen, symbols)
    # A block of a reduced picture stands for more pixels of the true one.
    return found if symbols.reduced is None else found / symbols.reduced.scale**2
