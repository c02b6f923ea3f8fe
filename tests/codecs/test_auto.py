"""Auto names its winner, holds its floor, and says why nobody won."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pipeline.codecs import registry
from pipeline.codecs.auto import Auto
from pipeline.errors import BitstreamError, CodecError, ConfigError
from pipeline.imaging.decode import decode
from pipeline.metrics.distortion import mse, psnr_db
from pipeline.records import Rate
from tests.contracts.codec import PHOTOS, CodecContract, colour_picture


class TestAuto(CodecContract):
    codec = Auto(Rate(psnr_db=30), candidates=["jpeg", "webp", {"name": "jxl", "effort": 3}])

    def test_a_row_finds_its_decoder(self):
        picture, source = self.case()
        encoded = self.codec.encode(picture, source)
        decoder = registry.decoder_for(encoded.codec, encoded.model_id)
        assert np.array_equal(decoder.decode(encoded.payload), self.codec.decode(encoded.payload))


def test_the_smallest_payload_wins_and_is_named():
    picture = colour_picture()
    alone = {name: registry.build(name, Rate(psnr_db=34)).encode(picture, b"").payload for name in ("jpeg", "webp")}
    encoded = Auto(Rate(psnr_db=34), ["jpeg", "webp"]).encode(picture, b"")
    assert encoded.payload == alone[encoded.codec] == min(alone.values(), key=len)


def test_a_candidate_below_the_floor_does_not_win():
    picture = colour_picture()
    low, high = ({"name": "jpeg", "rate": {"quality": quality}} for quality in (5, 90))
    encoded = Auto(candidates=[low, high], floor={"psnr_db": 34}).encode(picture, b"")
    assert encoded.quality == 90
    assert psnr_db(mse(picture.rgb, registry.decoder_for("jpeg").decode(encoded.payload))) >= 34


def test_when_nobody_is_good_enough_each_reason_is_given():
    with pytest.raises(CodecError, match=r"none of 2 candidates.*jpeg: psnr_db is .*floor is 90.*webp: psnr_db is"):
        Auto(candidates=["jpeg", "webp"], floor={"psnr_db": 90}).encode(colour_picture(), b"")


def test_a_lossless_transcode_can_win_and_gives_its_source_back():
    source = PHOTOS[2].read_bytes()
    auto = Auto(Rate(quality=100), ["jpeg", "jxl-lossless"])
    encoded = auto.encode(decode(source), source)
    assert encoded.codec == "jxl-lossless"
    assert auto.restore_source(encoded.payload) == source


def test_candidates_are_spelt_out_in_the_spec():
    auto = Auto(Rate(quality=50), ["avif"], {"ms_ssim": 0.9})
    assert auto.spec()["candidates"][0]["speed"] == 6
    assert registry.from_spec(json.loads(json.dumps(auto.spec()))) == auto


def test_foreign_bytes_are_refused_by_all():
    with pytest.raises(BitstreamError, match=r"no candidate reads these 3 bytes: jpeg: .*; webp: "):
        Auto(candidates=["jpeg", "webp"]).decode(b"abc")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "expected a list"),
        ({"candidates": "jpeg"}, "expected a list"),
        ({"candidates": ["original"]}, "put original in `fallback`"),
        ({"candidates": ["jpg"]}, "did you mean 'jpeg'"),
        ({"candidates": ["jpeg"], "floor": {"bpp": 1}}, "floor takes psnr_db or ms_ssim"),
    ],
)
def test_a_wrong_setting_is_named(options, message):
    with pytest.raises(ConfigError, match=message):
        registry.build("auto", **options)
