"""Never larger, never worse, verified first: whatever a codec does, the outcome keeps the promises."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from pipeline.codecs.base import Analysis, Encoded, Symbols
from pipeline.codecs.jxl import JXLLossless
from pipeline.codecs.original import Original
from pipeline.codecs.pillow import JPEG, WebP
from pipeline.errors import CodecError, ConfigError, VerifyError
from pipeline.records import Distortion, Outcome, Picture, Rate
from pipeline.stages.decode import Decode
from pipeline.stages.encode import Encode, Floor, require_equal
from pipeline.stages.work import Work, has_pixels, shell_of
from tests.stages.pictures import file_of, noise, smooth, source_of

DECODE = Decode()
FLOOR = Floor(psnr_db=30)


def outcome_of(data: bytes, *chain: Any, floor: Floor = FLOOR) -> Outcome:
    return Encode([*chain, Original()], floor, DECODE)(DECODE(source_of(data)))


@dataclass
class Faulty:
    """A codec that goes wrong in the way a test wants."""

    payload: bytes = b"p"
    decoded: np.ndarray | None = None
    restored: bytes | None = None
    error: Exception | None = None
    lossless: bool = False
    name = "faulty"
    model_id = None

    def spec(self) -> dict[str, Any]:
        return {"name": self.name}

    def encode(self, picture: Picture, source: bytes) -> Encoded:
        if self.error:
            raise self.error
        return Encoded(self.payload)

    def decode(self, payload: bytes) -> np.ndarray:
        return np.zeros((1, 1, 3), np.uint8) if self.decoded is None else self.decoded

    def restore_source(self, payload: bytes) -> bytes | None:
        return self.restored


class Split(Faulty):
    """A learned codec whose entropy decoder may disagree with its encoder."""

    name = "split"
    model_id = "0123456789abcdef"
    wrong = False

    def analyse(self, pictures: Any) -> list[Analysis]:
        return [analysis_of(self.model_id) for _ in pictures]

    def entropy_encode(self, symbols: Symbols) -> bytes:
        return b"coded"

    def entropy_decode(self, payload: bytes) -> Symbols:
        symbols = analysis_of(self.model_id).symbols
        return replace(symbols, y=symbols.y + 1) if self.wrong else symbols

    def synthesise(self, symbols: Any) -> list[np.ndarray]:
        return []


def analysis_of(model_id: str, psnr_db: float = 40.0) -> Analysis:
    y = np.ones((1, 8, 12), np.int16)
    return Analysis(Symbols(model_id, 128, 192, False, 6000, y, y), Distortion(6.5, psnr_db, 0.99, 0.99))


def analysed(psnr_db: float = 40.0, note: str | None = None) -> Work:
    work = DECODE(source_of(file_of(smooth())))
    assert work.picture is not None
    analysis = None if note else analysis_of(Split.model_id, psnr_db)
    return replace(work, picture=shell_of(work.picture), analysis=analysis, note=note)


def test_a_good_payload_is_used_and_measured():
    outcome = outcome_of(file_of(smooth()), WebP(Rate(quality=80)))
    assert (outcome.status, outcome.codec, outcome.reason) == ("encoded", "webp", None)
    assert outcome.distortion is not None
    assert 30 < outcome.distortion.psnr_db < 70
    assert outcome.picture is not None
    assert not has_pixels(outcome.picture)


def test_below_the_floor_the_next_codec_has_its_turn_and_the_row_says_why():
    data = file_of(noise(), "JPEG", quality=95)
    outcome = outcome_of(data, JPEG(Rate(quality=5)), JXLLossless(), floor=Floor(psnr_db=32))
    assert (outcome.status, outcome.codec) == ("encoded", "jxl-lossless")
    assert outcome.reason is not None
    assert "dB is below the floor of 32 dB" in outcome.reason
    assert outcome.reason.startswith("jpeg: ")
    assert outcome.reason.endswith("; jxl-lossless used")
    assert outcome.distortion is not None
    assert outcome.distortion.mse == 0
    assert math.isinf(outcome.distortion.psnr_db)


def test_ms_ssim_has_a_floor_too():
    outcome = outcome_of(file_of(noise(200, 200)), JPEG(Rate(quality=5)), floor=Floor(ms_ssim=0.99999))
    assert outcome.status == "kept_original"
    assert "below the floor" in (outcome.reason or "")


def test_a_payload_not_smaller_than_its_source_gives_way():
    data = file_of(noise(), "JPEG", quality=30)
    outcome = outcome_of(data, JPEG(Rate(quality=100)), floor=Floor())
    assert (outcome.status, outcome.payload) == ("kept_original", data)
    assert "not smaller than the source" in (outcome.reason or "")


def test_alpha_counts_towards_the_size():
    rgba = np.dstack([smooth(), noise(128, 192)[..., 0]])
    data = file_of(rgba)
    outcome = outcome_of(data, Faulty(b"x" * (len(data) - 1000), smooth()), floor=Floor())
    assert outcome.status == "kept_original"
    assert "alpha" in (outcome.reason or "")


@pytest.mark.parametrize(
    ("codec", "why"),
    [
        (Faulty(error=CodecError("the picture is too large")), "faulty: the picture is too large"),
        (Faulty(error=ZeroDivisionError("oops")), "faulty: ZeroDivisionError: oops"),
        (Faulty(error=MemoryError()), "faulty: out of memory"),
        (Faulty(restored=b"other bytes"), "does not come back byte for byte"),
        (Faulty(decoded=noise(128, 192), lossless=True), "lossless, yet its pixels differ"),
        (Faulty(decoded=noise(2, 2)), "faulty: "),
    ],
)
def test_a_codec_that_fails_costs_nothing(codec, why):
    data = file_of(smooth())
    outcome = outcome_of(data, codec)
    assert (outcome.status, outcome.payload) == ("kept_original", data)
    assert why in (outcome.reason or "")


def test_a_wrong_setting_is_no_reason_for_another_codec():
    with pytest.raises(ConfigError, match="cuda"):
        outcome_of(file_of(smooth()), Faulty(error=ConfigError("device 'cuda': not here")))


def test_a_16_bit_source_is_kept():
    outcome = outcome_of(file_of(np.arange(65536, dtype=np.uint16).reshape(256, 256)), WebP(), JXLLossless())
    assert outcome.status == "kept_original"
    assert "16" in (outcome.reason or "")


def test_rejected_works_pass_through():
    outcome = outcome_of(b"<html>", WebP())
    assert (outcome.status, outcome.payload) == ("rejected", None)


def test_symbols_are_coded_and_compared():
    outcome = Encode([Split(), Original()], Floor(), DECODE)(analysed())
    assert (outcome.codec, outcome.model_id, outcome.quality) == ("split", Split.model_id, 60.0)
    assert outcome.payload == b"coded"


def test_symbols_that_come_back_different_are_never_committed():
    codec = Split()
    codec.wrong = True
    outcome = Encode([codec, Original()], Floor(), DECODE)(analysed())
    assert outcome.status == "kept_original"
    assert "another y than was encoded" in (outcome.reason or "")


def test_the_fallback_after_analysis_decodes_the_source_again():
    outcome = Encode([Split(), WebP(Rate(quality=90)), Original()], Floor(psnr_db=30), DECODE)(analysed(psnr_db=20))
    assert outcome.codec == "webp"
    assert (outcome.reason or "").startswith("split: 20.0 dB is below")


def test_a_failed_analysis_is_a_reason():
    outcome = Encode([Split(), Original()], Floor(), DECODE)(analysed(note="out of memory"))
    assert outcome.reason == "split: out of memory; original used"


@pytest.mark.parametrize("field", ["model_id", "height_px", "gray", "quality_centi", "y", "z"])
def test_every_field_of_symbols_counts(field):
    symbols = analysis_of("m").symbols
    value = getattr(symbols, field)
    other = {"model_id": "n", "gray": True}.get(field, value + 1 if field not in ("model_id", "gray") else None)
    with pytest.raises(VerifyError, match=field):
        require_equal(symbols, replace(symbols, **{field: other}))
