"""Super-resolution on the page: sources reduced to half their size, and brought back by bicubic and by `restore`.

Shown 1:1 is the window where bicubic errs most, with the source below. The figures are of that window: PSNR of Y.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.codecs.learned import superres
from pipeline.errors import PipelineError
from pipeline.imaging.resize import resized
from pipeline.metrics.luma import psnr_and_ssim
from pipeline.report import originals, pictures, words
from pipeline.report.gallery import Exhibit
from pipeline.report.page import Section
from pipeline.report.results_gallery import source_options

if TYPE_CHECKING:
    from pipeline.report.study import Study

SCALE = 2
MARGIN_PX = 64
"""Around the window, so that no border of what was cut out shows in it; the network looks at 24 px."""
LEAST_PX = 32
LIMIT_BYTES = 60_000
HOW = (
    "Sources at half their size (bicubic, 8 bits), enlarged again. The slider moves between bicubic and the "
    "super-resolver that comes with shardpress, where bicubic errs most; the source is below. It adds what photos "
    "usually have there, not what this one had."
)


def sections(study: Study) -> list[Section]:
    """Some images of an evaluation, evenly spaced; none when none are asked for."""
    indexes = np.flatnonzero(study.found.complete)
    if not study.options.superres or not len(indexes):
        return []
    chosen = np.unique(np.linspace(0, len(indexes) - 1, study.options.superres).round().astype(int))
    return [Section("Restored at twice the size", [HOW], exhibits=[_exhibit(study, int(i)) for i in indexes[chosen]])]


def _exhibit(study: Study, i: int) -> Exhibit:
    name = words.short(study.found.uris[i])
    try:
        picture, _ = originals.picture(study.found.uris[i], study.found.versions[i], source_options(study))
        return shown(name, picture.rgb)
    except PipelineError as error:
        return Exhibit(name, "", problem=str(error))


def shown(name: str, rgb: np.ndarray) -> Exhibit:
    """Source, bicubic and restored of the window where bicubic errs most."""
    rgb = rgb[: rgb.shape[0] // SCALE * SCALE, : rgb.shape[1] // SCALE * SCALE]
    if min(rgb.shape[:2]) < LEAST_PX:
        return Exhibit(name, "", problem=f"{rgb.shape[1]}x{rgb.shape[0]} px are too few to be reduced")
    small = resized(rgb, rgb.shape[0] // SCALE, rgb.shape[1] // SCALE)
    bicubic = resized(small, *rgb.shape[:2])
    top, left, height, width = pictures.worst_window(pictures.error_of(rgb, bicubic))
    # The window itself may start anywhere; what is cut for the network starts at a pixel of the small picture.
    row, column = (max(0, at - MARGIN_PX) // SCALE for at in (top, left))
    part = small[row : (top + height + MARGIN_PX) // SCALE, column : (left + width + MARGIN_PX) // SCALE]
    restored = superres.restore(part, SCALE)[top - SCALE * row :, left - SCALE * column :][:height, :width]
    window = np.s_[top : top + height, left : left + width]
    true, before = (np.ascontiguousarray(each[window]) for each in (rgb, bicubic))
    restored = np.ascontiguousarray(restored)
    (ours, _), (plain, _) = (psnr_and_ssim(true, each, SCALE) for each in (restored, before))
    return Exhibit(
        name,
        f"bicubic {words.number(plain)} dB, restored {words.number(ours)} dB",
        before=pictures.photo(before, LIMIT_BYTES),
        after=pictures.photo(restored, LIMIT_BYTES),
        beside=pictures.photo(true, LIMIT_BYTES),
        tags=("bicubic", "restored"),
        width=width,
        height=height,
    )
