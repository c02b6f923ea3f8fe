"""Galleries of an evaluation: the images on which the focus does worst, coded again for the page to show."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.archive.results import Setting
from pipeline.codecs import registry
from pipeline.codecs.base import Codec
from pipeline.errors import ArchiveError, ConfigError, PipelineError
from pipeline.report import compare, gallery, originals, words
from pipeline.report.gallery import Specimen, Wanted
from pipeline.report.page import Section

if TYPE_CHECKING:
    from pipeline.report.study import Study


def galleries(study: Study) -> list[Section]:
    """The worst images by quality at one setting, and by what they save at equal quality."""
    if not study.options.worst:
        return []
    focus, at = study.focus, study.focus_setting
    complete = study.found.complete
    by_quality = compare.worst(focus.psnr_db[:, at], complete, study.options.worst)
    saved = np.full(len(complete), np.nan)
    saved[np.flatnonzero(complete)] = study.at[focus.name].per_image_pct
    by_savings = compare.worst(saved, complete, study.options.worst)
    facts = {i: _facts(study, i, at, float(saved[i])) for i in {*by_quality, *by_savings}}
    lists = [
        [Wanted(i, words.short(study.found.uris[i]), facts[i]) for i in chosen] for chosen in (by_quality, by_savings)
    ]
    shown = gallery.exhibits(lists, Remade(study))
    label = focus.label(at)
    above = gallery.shown_above(lists[1], lists[0])
    return [
        Section(f"Worst by quality: {label}", [gallery.HOW], exhibits=shown[0]),
        Section(f"Least saved: {focus.name} at {study.psnr_db:g} dB", above, exhibits=shown[1]),
    ]


def _facts(study: Study, i: int, at: int, saved_pct: float) -> str:
    focus = study.focus
    return (
        f"{words.number(float(focus.psnr_db[i, at]))} dB, {focus.bpp[i, at]:.3f} bpp, "
        f"MS-SSIM {focus.ms_ssim[i, at]:.4f}; saves {words.percent(saved_pct)} at {study.psnr_db:g} dB"
    )


class Remade:
    """Fetches an image from its source and codes it again at the focus setting."""

    def __init__(self, study: Study) -> None:
        self._study = study
        self._setting_id = study.focus.setting_ids[study.focus_setting]

    @cached_property
    def codec(self) -> Codec:
        """Raises ArchiveError when no run record tells how the setting was built, or its model is gone."""
        for record in reversed(self._study.records):
            known = (record.get("counters") or {}).get("settings") or {}
            if self._setting_id in known:
                try:
                    return registry.from_spec(Setting(**known[self._setting_id]).spec)
                except ConfigError as error:
                    raise ArchiveError(f"this picture cannot be made again: {error}") from error
        raise ArchiveError("this picture cannot be made again: no run record names the settings of its codec")

    def __call__(self, i: int) -> Specimen:
        found = self._study.found
        picture, source = originals.picture(found.uris[i], found.versions[i], source_options(self._study))
        try:
            payload = self.codec.encode(picture, source).payload
            after = self.codec.decode(payload)
        except PipelineError:
            raise
        except Exception as error:
            raise ArchiveError(f"this picture cannot be made again: {type(error).__name__}: {error}") from error
        return Specimen(picture.rgb, after, gallery.bit_map(self.codec, payload))


def source_options(study: Study) -> Mapping[str, Any]:
    """How the source of an evaluation was opened."""
    for record in reversed(study.records):
        section = (record.get("config") or {}).get("source")
        if isinstance(section, dict):
            return section
    return {}
