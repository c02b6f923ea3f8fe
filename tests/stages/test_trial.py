"""Trials: rows that are measured on what the payload decodes to, whatever the codec does."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.archive.results import Setting
from pipeline.codecs.base import Encoded
from pipeline.codecs.jxl import JXLLossless
from pipeline.codecs.pillow import JPEG
from pipeline.errors import ConfigError
from pipeline.metrics.distortion import measure
from pipeline.records import Rate
from pipeline.stages.decode import Decode
from pipeline.stages.trial import Task, Trial, built
from tests.stages.pictures import file_of, noise, smooth, source_of

ALL = frozenset({"a", "b"})


class Named(Setting):
    """A setting whose id is its series."""

    @property
    def setting_id(self) -> str:
        return self.series


def tried(codec, data: bytes, task: Task | None = None) -> dict[str, object]:
    (row,) = Trial([Named("a", {"rate": {"quality": 50.0}})], [codec], Decode(), task)(source_of(data), ALL)
    return row


def test_a_row_is_measured_on_the_decoded_payload():
    codec, pixels = JPEG(Rate(quality=50.0)), smooth()
    data = file_of(pixels)
    row = tried(codec, data)
    from pipeline.imaging.decode import decode

    payload = codec.encode(decode(data), data).payload
    expected = measure(pixels, codec.decode(payload))
    assert row["payload_bytes"] == len(payload)
    assert row["bpp"] == 8 * len(payload) / pixels[..., 0].size
    assert (row["psnr_db"], row["ms_ssim"]) == (expected.psnr_db, expected.ms_ssim)
    assert min(row["encode_ms"], row["decode_ms"]) > 0
    assert (row["width"], row["height"], row["source_bytes"]) == (192, 128, len(data))


def test_a_payload_that_is_not_smaller_is_kept_and_still_measured():
    row = tried(JPEG(Rate(quality=95.0)), file_of(noise(), "JPEG", quality=20))
    assert row["status"] == "kept_original"
    assert "not smaller" in row["reason"]
    assert row["bpp"] > 0


def test_a_lossless_transcode_is_exact():
    row = tried(JXLLossless(), file_of(smooth(), "JPEG", quality=90))
    assert (row["status"], row["mse"], row["ms_ssim"]) == ("encoded", 0.0, 1.0)


@pytest.mark.parametrize("data", [b"no image", b""])
def test_an_image_that_cannot_be_decoded_is_a_row_per_setting(data):
    settings = [Named("a", {}), Named("b", {})]
    rows = Trial(settings, [JPEG(), JPEG()], Decode())(source_of(data), ALL)
    assert [row["status"] for row in rows] == ["rejected", "rejected"]
    assert all(row["reason"] for row in rows)


def test_a_codec_that_fails_is_a_row():
    class Broken(JPEG):
        def encode(self, picture, source):
            raise RuntimeError("no memory left")

    row = tried(Broken(), file_of(smooth()))
    assert (row["status"], row["reason"]) == ("kept_original", "jpeg: RuntimeError: no memory left")


def test_a_wrong_setting_ends_the_run():
    class Misplaced(JPEG):
        def encode(self, picture, source):
            raise ConfigError("device 'cuda': not here")

    with pytest.raises(ConfigError, match="cuda"):
        tried(Misplaced(), file_of(smooth()))


def test_a_lossless_codec_that_is_not_is_found_out():
    class Liar(JXLLossless):
        def encode(self, picture, source):
            return Encoded(super().encode(picture, source).payload)

        def decode(self, payload):
            return super().decode(payload) ^ 1

    row = tried(Liar(), file_of(smooth()))
    assert row["status"] == "kept_original"
    assert "pixels differ from the source" in row["reason"]


def test_only_wanted_settings_are_measured():
    settings = [Named("a", {}), Named("b", {})]
    rows = Trial(settings, [JPEG(), JPEG()], Decode())(source_of(file_of(smooth())), frozenset({"b"}))
    assert [row["setting_id"] for row in rows] == ["b"]


def test_a_classifier_sees_source_and_decoded_pixels():
    def brightness(rgb: np.ndarray) -> int:
        return int(rgb.mean() > 127)

    row = tried(JPEG(), file_of(np.full((32, 32, 3), 200, np.uint8)), Task(brightness, lambda source: 1))
    assert (row["label"], row["top1_source"], row["top1_decoded"]) == (1, 1, 1)


def test_learned_settings_share_their_networks():
    specs = [{"name": "cnn", "rate": {"quality": q}, "effort": 0} for q in (10.0, 90.0)]
    from pipeline.codecs.registry import from_spec

    low, high = built([from_spec(spec).spec() for spec in specs], "cpu")
    assert low.networks is high.networks
    assert (low.rate.quality, high.rate.quality) == (10.0, 90.0)
