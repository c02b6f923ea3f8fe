"""The container of a learned payload: header, tagged sections, CRC. FORMAT.md has it byte by byte."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.errors import BitstreamError

MAGIC = b"\x89SPX"
VERSION = 1
Z, ESCAPES, Y, REDUCED, ADAPTIVE, FILTER = 1, 2, 3, 4, 5, 6
EXIF, ICC, XMP, ALPHA = 16, 17, 18, 19
_KNOWN = frozenset((Z, ESCAPES, Y, REDUCED, ADAPTIVE, FILTER, EXIF, ICC, XMP, ALPHA))
_SCALES = (2, 3, 4)
STRENGTH_LIMIT = 64
TRELLISES = (0, 16, 128)
"""States of the trellis that y is coded along, by bits 1 and 2 of the flags; 0 for rounded y."""
_FIXED = 16


@dataclass(frozen=True, slots=True)
class Reduced:
    """What was coded is a smaller picture: by which factor, what restores it, and to which size."""

    scale: int
    model_id: str
    width_px: int
    height_px: int

    def to_bytes(self) -> bytes:
        return bytes([self.scale]) + bytes.fromhex(self.model_id) + varint(self.width_px) + varint(self.height_px)

    @classmethod
    def of(cls, data: bytes, width_px: int, height_px: int) -> Reduced:
        """From section 4 of a container whose header says `width_px` and `height_px`; raises BitstreamError."""
        width, at = read_varint(data, 9)
        height, at = read_varint(data, at)
        found = cls(data[0], data[1:9].hex(), width, height)
        if at != len(data) or found.scale not in _SCALES or found.coded_size != (width_px, height_px):
            raise BitstreamError(
                f"payload: {width_px}x{height_px} px are not {width}x{height} reduced by {found.scale}; it is damaged"
            )
        return found

    @property
    def coded_size(self) -> tuple[int, int]:
        """(width, height) of the smaller picture."""
        return -(-self.width_px // self.scale), -(-self.height_px // self.scale)


@dataclass(frozen=True, slots=True)
class Container:
    """One payload taken apart. `model_id` is 16 hex digits, `quality_centi` is quality * 100, `trellis` its states;
    `z_in_turns` says that z is coded in turns.

    `width_px` and `height_px` are those of the header: of what is coded, which may be a reduced picture.
    """

    model_id: str
    width_px: int
    height_px: int
    quality_centi: int
    gray: bool = False
    sections: Mapping[int, bytes] = field(default_factory=dict)
    trellis: int = 0
    z_in_turns: bool = False

    @property
    def reduced(self) -> Reduced | None:
        section = self.sections.get(REDUCED)
        return None if section is None else Reduced.of(section, self.width_px, self.height_px)

    @property
    def adaptive(self) -> int:
        """How far quality follows the picture, 1 to 64; 0 if it does not."""
        section = self.sections.get(ADAPTIVE)
        if section is None:
            return 0
        if len(section) != 1 or not 1 <= section[0] <= STRENGTH_LIMIT:
            raise BitstreamError(
                f"payload: adaptive quantisation of strength {section.hex(' ')}; expected one byte of 1 to "
                f"{STRENGTH_LIMIT}; it is damaged"
            )
        return section[0]

    @property
    def picture_size(self) -> tuple[int, int]:
        """(width, height) of the picture that comes out."""
        reduced = self.reduced
        return (self.width_px, self.height_px) if reduced is None else (reduced.width_px, reduced.height_px)


def pack(container: Container) -> bytes:
    """The bytes of a container; empty sections are left out."""
    flags = container.gray | TRELLISES.index(container.trellis) << 1 | container.z_in_turns << 3
    head = MAGIC + bytes([VERSION, flags]) + bytes.fromhex(container.model_id)
    head += container.quality_centi.to_bytes(2, "little")
    parts = [head, varint(container.width_px), varint(container.height_px)]
    for tag in sorted(container.sections):
        data = container.sections[tag]
        if data or tag in (Z, Y):
            parts += [bytes([tag]), varint(len(data)), data]
    body = b"".join(parts)
    return body + zlib.crc32(body).to_bytes(4, "little")


def unpack(payload: bytes) -> Container:
    """Take a payload apart, checking every field.

    Raises:
        BitstreamError: not a shardpress payload, an unknown version, damaged, truncated or malformed.
    """
    if payload[:4] != MAGIC:
        raise BitstreamError(
            f"payload: it starts with {payload[:4].hex(' ') or 'nothing'}; expected {MAGIC.hex(' ')}, "
            "the mark of a shardpress payload; was it made by another codec?"
        )
    if len(payload) < _FIXED + 6:
        raise BitstreamError(f"payload: found {len(payload)} bytes; expected at least {_FIXED + 6}; it is truncated")
    if payload[4] != VERSION:
        raise BitstreamError(
            f"payload: container version {payload[4]}; this release reads version {VERSION}; upgrade it"
        )
    found, expected = zlib.crc32(payload[:-4]), int.from_bytes(payload[-4:], "little")
    if found != expected:
        raise BitstreamError(
            f"payload: CRC is {found:#010x}, its trailer says {expected:#010x}; it is damaged or truncated, "
            "fetch it again or re-encode the source"
        )
    return _parse(payload)


def _parse(payload: bytes) -> Container:
    flags, quality = payload[5], int.from_bytes(payload[14:16], "little")
    width, at = read_varint(payload, _FIXED)
    height, at = read_varint(payload, at)
    trellis, z_in_turns = flags >> 1 & 3, flags >> 3
    if trellis >= len(TRELLISES) or z_in_turns > 1 or quality > 10_000 or not width or not height:
        raise BitstreamError(
            f"payload: flags {flags:#x}, quality {quality}, size {width}x{height} is not a valid header"
        )
    sections, last, end = {}, 0, len(payload) - 4
    while at < end:
        tag = payload[at]
        length, at = read_varint(payload, at + 1)
        if tag <= last or (tag < 128 and tag not in _KNOWN) or at + length > end:
            raise BitstreamError(f"payload: section {tag} of {length} bytes at {at} is unknown or out of place")
        sections[tag], at, last = payload[at : at + length], at + length, tag
    if at != end or Z not in sections or Y not in sections:
        raise BitstreamError("payload: its symbol sections are missing or cut short")
    found = Container(
        payload[6:14].hex(), width, height, quality, bool(flags & 1), sections, TRELLISES[trellis], z_in_turns == 1
    )
    found.reduced, found.adaptive  # noqa: B018  raise when their sections do not fit
    return found


def varint(value: int) -> bytes:
    """Unsigned LEB128."""
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """(value, position after it); BitstreamError if it runs over the end or is longer than 5 bytes."""
    value = 0
    for shift in range(0, 35, 7):
        if at >= len(data):
            raise BitstreamError(f"payload: an integer at byte {at} runs over the end; it is truncated")
        value |= (data[at] & 127) << shift
        at += 1
        if data[at - 1] < 128:
            return value, at
    raise BitstreamError(f"payload: an integer before byte {at} is longer than 5 bytes; it is damaged")
