"""Codecs are found by name, by spec, and by what a row says."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pipeline.codecs import registry
from pipeline.codecs.base import Codec
from pipeline.codecs.pillow import JPEG
from pipeline.errors import ConfigError
from pipeline.records import Rate

CLASSICAL = ["jpeg", "webp", "avif", "jpeg2000", "jxl", "jxl-lossless", "original"]


@pytest.mark.parametrize("name", CLASSICAL)
def test_every_classical_name_builds_a_codec_of_that_name(name):
    codec = registry.build(name, Rate(quality=50))
    assert isinstance(codec, Codec)
    assert codec.name == name
    assert registry.from_spec(codec.spec()) == codec


def test_options_reach_the_codec():
    assert registry.build("jpeg", Rate(psnr_db=34), subsampling="4:4:4") == JPEG(Rate(psnr_db=34), "4:4:4")


@pytest.mark.parametrize(
    ("name", "nearest"), [("jpg", "jpeg"), ("webpp", "webp"), ("jxl_lossless", "jxl-lossless"), ("orignal", "original")]
)
def test_an_unknown_name_is_answered_with_the_nearest(name, nearest):
    with pytest.raises(ConfigError, match=f"unknown name '{name}', did you mean '{nearest}'"):
        registry.build(name)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: registry.build("jpeg", subsample="4:4:4"), "unknown option 'subsample', did you mean 'subsampling'"),
        (lambda: registry.build("original", effort=3), "unknown option 'effort'; it takes: none"),
        (lambda: registry.build("jpeg", Rate(quality=101)), "quality is 101"),
        (lambda: registry.build("jpeg", Rate()), "exactly one of quality"),
        (lambda: registry.from_spec({"rate": {"quality": 60}}), "found no name"),
        (lambda: registry.from_spec({"name": "jpeg", "rate": {"qualty": 60}}), "did you mean 'quality'"),
        (lambda: registry.from_spec({"name": "jpeg", "rate": {"quality": "60"}}), "expected a number"),
    ],
)
def test_a_wrong_setting_is_named(call, message):
    with pytest.raises(ConfigError, match=message):
        call()


def test_the_registry_and_classical_codecs_need_neither_torch_nor_ray():
    code = (
        "import sys; from pipeline.codecs import registry\n"
        "assert 'imagecodecs' not in sys.modules\n"
        f"for name in {CLASSICAL}: registry.decoder_for(name)\n"
        "sys.exit(not {'torch', 'ray'}.isdisjoint(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
