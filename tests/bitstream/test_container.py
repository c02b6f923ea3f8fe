import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.bitstream import container
from pipeline.bitstream.container import TRELLISES, Container, pack, unpack
from pipeline.errors import BitstreamError

BOX = Container("0123456789abcdef", 640, 1, 6000, True, {container.Z: b"zz", container.Y: b"", container.ICC: b"icc"})


def test_a_container_is_laid_out_as_format_md_says():
    data = pack(BOX)
    assert data[:6] == b"\x89SPX\x01\x01"
    assert data[6:14].hex() == "0123456789abcdef"
    assert int.from_bytes(data[14:16], "little") == 6000
    assert data[16:19] == bytes([640 & 127 | 128, 640 >> 7, 1])
    assert data[19:-4] == b"\x01\x02zz" + b"\x03\x00" + b"\x11\x03icc"


@given(
    st.integers(1, 2**31),
    st.integers(1, 2**31),
    st.integers(0, 10_000),
    st.sampled_from([0, 1, 2, 3, 4, 5, 8, 9, 13]),
    st.binary(max_size=300),
)
def test_every_container_comes_back(width, height, quality, flags, data):
    sections = {container.Z: data, container.Y: b"y", container.ALPHA: b"a"}
    box = Container(
        "00" * 8, width, height, quality, bool(flags & 1), sections, TRELLISES[flags >> 1 & 3], flags >> 3 == 1
    )
    assert pack(box)[5] == flags
    assert unpack(pack(box)) == box


def test_every_truncation_is_found():
    data = pack(BOX)
    for length in range(len(data)):
        with pytest.raises(BitstreamError):
            unpack(data[:length])


def test_every_changed_byte_is_found():
    data = pack(BOX)
    for at in range(len(data)):
        for flip in (1, 0x80, 0xFF):
            damaged = data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :]
            with pytest.raises(BitstreamError):
                unpack(damaged)


def sealed(body: bytes) -> bytes:
    import zlib

    return body + zlib.crc32(body).to_bytes(4, "little")


HEAD = pack(BOX)[:19]


@pytest.mark.parametrize(
    "body",
    [
        HEAD,
        HEAD + b"\x01\x02zz",
        HEAD + b"\x01\x7fzz\x03\x00",
        HEAD + b"\x03\x00\x01\x00",
        HEAD + b"\x01\x00\x01\x00\x03\x00",
        HEAD + b"\x01\x00\x03\x00\x63\x00",
        HEAD + b"\x01\x00\x03\xff\xff\xff\xff\xff\xff",
        HEAD[:16] + b"\x00\x01" + b"\x01\x00\x03\x00",
        *(HEAD[:5] + bytes([flags]) + HEAD[6:] + b"\x01\x00\x03\x00" for flags in (6, 7, 14, 16, 0x80, 0xFF)),
        HEAD[:14] + b"\xff\xff" + HEAD[16:] + b"\x01\x00\x03\x00",
    ],
)
def test_a_malformed_container_with_a_right_crc_is_refused(body):
    with pytest.raises(BitstreamError):
        unpack(sealed(body))


def test_unknown_high_tags_are_skipped_and_unknown_versions_named():
    assert unpack(sealed(HEAD + b"\x01\x00\x03\x00\x80\x02??")).sections[container.Z] == b""
    with pytest.raises(BitstreamError, match="version 9"):
        unpack(sealed(HEAD[:4] + b"\x09" + HEAD[5:] + b"\x01\x00\x03\x00"))


@settings(max_examples=200)
@given(st.binary(max_size=80))
def test_arbitrary_bytes_are_refused_cleanly(data):
    for body in (data, HEAD + data):
        with contextlib.suppress(BitstreamError):
            unpack(sealed(body))
