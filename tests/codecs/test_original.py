"""The last link of the fallback chain gives the source back, whatever it is."""

from __future__ import annotations

import pytest

from pipeline.codecs.original import Original
from pipeline.errors import BitstreamError
from pipeline.records import Rate
from tests.contracts.codec import PHOTOS, CodecContract, colour_picture


class TestOriginal(CodecContract):
    codec = Original()
    refuses_obstacles = False


def test_the_payload_is_the_source_byte_for_byte():
    source = PHOTOS[0].read_bytes()
    payload = Original().encode(colour_picture(8, 8), source).payload
    assert payload == source
    assert Original().restore_source(payload) == source


def test_a_rate_changes_nothing():
    assert Original(Rate(quality=10)) == Original()


def test_a_payload_that_is_no_image_says_so():
    with pytest.raises(BitstreamError, match="original: the payload does not decode"):
        Original().decode(b"<html></html>")
