from __future__ import annotations

import pytest

from pipeline.records import ENCODED, KEPT_ORIGINAL, REJECTED
from pipeline.stages.reasons import kind_of


@pytest.mark.parametrize(
    ("status", "reason", "kind"),
    [
        (ENCODED, None, "as_asked"),
        (ENCODED, "cnn: 29.3 dB is below the floor of 30 dB; jxl-lossless used", "below_floor"),
        (
            KEPT_ORIGINAL,
            "webp: 812 bytes are not smaller than the source (790 bytes); jxl: 9 dB is below the floor of 30 dB",
            "not_smaller",
        ),
        (KEPT_ORIGINAL, "cnn: the source has 16 bits per channel; original used", "not_representable"),
        (KEPT_ORIGINAL, "cnn: the payload decodes to another y than was encoded; it was not used", "verify_failed"),
        (KEPT_ORIGINAL, "cnn: RuntimeError: something new; original used", "codec_failed"),
        (KEPT_ORIGINAL, "the codec of this run is original", "as_asked"),
        (REJECTED, "unreadable: s3://photos/a.jpg: no such file or object", "unreadable"),
        (REJECTED, "decoding this image crashed the process (signal 11 (SIGSEGV))", "crashed"),
        (REJECTED, "decoding this image took longer than limits.seconds=60", "too_slow"),
        (REJECTED, "HTML page of 512 bytes, expected an image", "undecodable"),
    ],
)
def test_the_first_cause_of_a_sentence_is_its_kind(status, reason, kind):
    assert kind_of(status, reason) == kind
