"""Encode, verify, and fall back: the stage that keeps the promises "never larger, never worse, verified first".

Codecs are tried in the order of the chain. A payload counts only after it has been decoded again: symbols of the
learned codec are compared integer by integer, lossless payloads byte for byte or pixel for pixel, and everything
else is measured. It must then hold the floor and be smaller than the source; otherwise the next codec has its turn,
and the row says why. The chain ends in `original`, which always succeeds.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from pipeline.archive import stored_bytes
from pipeline.codecs.base import Analysis, Codec, SplitCodec, Symbols
from pipeline.errors import CodecError, ConfigError, PipelineError, VerifyError
from pipeline.metrics.distortion import measure, psnr_db
from pipeline.records import ENCODED, KEPT_ORIGINAL, Distortion, Outcome, Picture
from pipeline.stages.decode import Decode
from pipeline.stages.work import Work, has_pixels, shell_of

ORIGINAL = "original"
EXACT = Distortion(mse=0.0, psnr_db=psnr_db(0.0), ssim=1.0, ms_ssim=1.0)


@dataclass(frozen=True, slots=True)
class Floor:
    """The least quality a lossy payload may have; None asks nothing."""

    psnr_db: float | None = None
    ms_ssim: float | None = None

    def complaint(self, found: Distortion) -> str | None:
        if self.psnr_db is not None and found.psnr_db < self.psnr_db:
            return f"{found.psnr_db:.1f} dB is below the floor of {self.psnr_db:g} dB"
        if self.ms_ssim is not None and found.ms_ssim is not None and found.ms_ssim < self.ms_ssim:
            return f"MS-SSIM {found.ms_ssim:.4f} is below the floor of {self.ms_ssim:g}"
        return None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A verified payload: who made it, and how far what it decodes to is from the source."""

    codec: str
    model_id: str | None
    payload: bytes
    quality: float | None
    distortion: Distortion
    gives_source_back: bool = False


@dataclass(frozen=True, slots=True)
class Encode:
    """Turns a decoded (and perhaps analysed) work into its outcome with the first codec of `chain` that will do."""

    chain: Sequence[Codec]
    floor: Floor
    decode: Decode

    def __call__(self, work: Work) -> Outcome:
        if work.outcome is not None:
            return work.outcome
        started = time.perf_counter()
        reasons: list[str] = []
        for position, codec in enumerate(self.chain):
            try:
                if self._needs_pixels(codec, work, first=position == 0):
                    work = self._with_pixels(work)
                outcome = _outcome(work, _candidate(codec, work), reasons)
                self._insist(outcome)
            except ConfigError:  # wrong for every image: to end is better than another codec for the whole archive
                raise
            except Exception as error:  # any failure of one codec is a reason to try the next, never to stop
                reasons.append(_reason(codec.name, error))
                continue
            return replace(outcome, encode_ms=(time.perf_counter() - started) * 1e3 + work.analyse_ms)
        raise CodecError(f"{work.source.source_uri}: every codec of the chain failed ({'; '.join(reasons)})")

    def _needs_pixels(self, codec: Codec, work: Work, first: bool) -> bool:
        """False for `original` and for symbols at hand; raises CodecError when analysis has failed already."""
        if first and isinstance(codec, SplitCodec) and work.note is not None:
            raise CodecError(work.note)
        analysed = isinstance(codec, SplitCodec) and _is_of(work.analysis, codec)
        return codec.name != ORIGINAL and not analysed

    def _with_pixels(self, work: Work) -> Work:
        if work.picture is not None and has_pixels(work.picture):
            return work
        return replace(work, picture=self.decode.picture(work.source.data or b""))

    def _insist(self, outcome: Outcome) -> None:
        """Raises CodecError unless `outcome` holds the floor and all that is stored is smaller than the source."""
        if outcome.status == KEPT_ORIGINAL or outcome.distortion is None:
            return
        if complaint := self.floor.complaint(outcome.distortion):
            raise CodecError(complaint)
        payload, stored, source = len(outcome.payload or b""), stored_bytes(outcome), len(outcome.source.data or b"")
        if stored >= source:
            beside = f" with {stored - payload} bytes of alpha and metadata" if stored > payload else ""
            raise CodecError(f"{payload} bytes{beside} are not smaller than the source ({source} bytes)")


def _candidate(codec: Codec, work: Work) -> Candidate:
    """A verified payload of `codec`; raises whatever the codec raises."""
    source = work.source.data or b""
    if codec.name == ORIGINAL:
        return Candidate(ORIGINAL, None, source, None, EXACT, gives_source_back=True)
    if isinstance(codec, SplitCodec) and work.analysis is not None and _is_of(work.analysis, codec):
        return _entropy_coded(codec, work.analysis)
    if work.picture is None:
        raise CodecError("there is no picture to encode")
    encoded = codec.encode(work.picture, source)
    distortion, exact = _verified(codec, encoded.payload, work.picture, source)
    name, model_id = (encoded.codec, encoded.model_id) if encoded.codec else (codec.name, codec.model_id)
    return Candidate(name, model_id, encoded.payload, encoded.quality, distortion, exact)


def _is_of(analysis: Analysis | None, codec: SplitCodec) -> bool:
    return analysis is not None and analysis.symbols.model_id == codec.model_id


def _entropy_coded(codec: SplitCodec, analysis: Analysis) -> Candidate:
    payload = codec.entropy_encode(analysis.symbols)
    require_equal(analysis.symbols, codec.entropy_decode(payload))
    quality = analysis.symbols.quality_centi / 100
    return Candidate(codec.name, codec.model_id, payload, quality, analysis.distortion)


def require_equal(wrote: Symbols, read: Symbols) -> None:
    """Raises VerifyError unless every field of the two is equal."""
    for field in (each for each in fields(Symbols) if each.compare):
        before, after = getattr(wrote, field.name), getattr(read, field.name)
        same = np.array_equal(before, after) if isinstance(before, np.ndarray) else before == after
        if not same:
            raise VerifyError(f"the payload decodes to another {field.name} than was encoded; it was not used")


def _verified(codec: Codec, payload: bytes, picture: Picture, source: bytes) -> tuple[Distortion, bool]:
    """Distortion of what `payload` decodes to, and whether it also gives the source file back byte for byte."""
    restored = codec.restore_source(payload)
    if restored is not None:
        if restored != source:
            raise VerifyError("the source does not come back byte for byte; the payload was not used")
        return EXACT, True
    decoded = codec.decode(payload)
    if decoded.shape == picture.rgb.shape and np.array_equal(decoded, picture.rgb):
        return EXACT, False
    if codec.lossless:
        raise VerifyError("lossless, yet its pixels differ from the source; the payload was not used")
    return measure(picture.rgb, decoded), False


def _outcome(work: Work, found: Candidate, reasons: Sequence[str]) -> Outcome:
    kept = found.codec == ORIGINAL
    reason = "; ".join([*reasons, f"{found.codec} used"]) if reasons else None
    shell = shell_of(work.picture) if work.picture else None
    if shell is not None and found.gives_source_back:  # which then holds its own metadata
        shell = replace(shell, alpha=None, exif=None, icc=None, xmp=None)
    return Outcome(
        source=work.source,
        status=KEPT_ORIGINAL if kept else ENCODED,
        reason=reason if reasons or not kept else "the codec of this run is original",
        picture=shell,
        codec=found.codec,
        model_id=found.model_id,
        quality=found.quality,
        payload=found.payload,
        distortion=found.distortion,
    )


def _reason(codec: str, error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, MemoryError):
        text = "out of memory"
    elif not isinstance(error, PipelineError):
        text = f"{type(error).__name__}: {text}"
    return text if text.startswith(f"{codec}:") else f"{codec}: {text}"
