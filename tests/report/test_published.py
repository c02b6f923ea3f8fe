"""Published curves: facts with sources, and the gaps between them that everybody quotes."""

from __future__ import annotations

import pytest

from pipeline.errors import ConfigError
from pipeline.metrics.bd import RDCurve, bd_rate
from pipeline.report import published


def test_every_curve_has_a_source_and_rises():
    for curve in published.curves().values():
        assert "/" in curve.source
        assert curve.title
        for values in (curve.bpp, curve.psnr_db, curve.ms_ssim or curve.bpp):
            assert list(values) == sorted(values)
            assert len(values) == len(curve.bpp)


@pytest.mark.parametrize(("name", "gap_pct"), [("webp", -36), ("vtm", -68), ("elic2022", -70)])
def test_gaps_to_jpeg_are_the_known_ones(name, gap_pct):
    jpeg, test = (published.curves()[each] for each in ("jpeg", name))
    found = bd_rate(RDCurve(jpeg.bpp, jpeg.psnr_db), RDCurve(test.bpp, test.psnr_db))
    assert found == pytest.approx(gap_pct, abs=3)


def test_names_choose_and_mistakes_are_told():
    assert [curve.name for curve in published.chosen(["elic2022", "vtm"])] == ["elic2022", "vtm"]
    assert len(published.chosen(["all"])) == len(published.curves()) >= 8
    with pytest.raises(ConfigError, match="did you mean 'elic2022'"):
        published.chosen(["elic2023"])
