from __future__ import annotations

import zlib

from hypothesis import given
from hypothesis import strategies as st

from pipeline.imaging import png
from tests.imaging import made

PLAIN = made.file(made.gradient(), "PNG")


def test_text_and_profiles_go_and_all_else_stays():
    extra = made.chunk(b"tEXt", b"a\0b") + made.chunk(b"iCCP", b"p\0\0" + zlib.compress(b"x"))
    assert png.without_text(PLAIN[:33] + extra + PLAIN[33:]) == PLAIN
    assert png.without_text(PLAIN) == PLAIN


@given(st.binary(max_size=100))
def test_damaged_chunks_end_the_walk(tail):
    png.without_text(PLAIN[:33] + tail)


def test_only_pillows_text_limit_is_a_text_bomb():
    error = ValueError("Decompressed data too large for PngImagePlugin.MAX_TEXT_CHUNK")
    assert png.is_text_bomb(PLAIN, error)
    assert not png.is_text_bomb(b"GIF89a", error)
    assert not png.is_text_bomb(PLAIN, ValueError("Truncated IHDR chunk"))
