"""What a payload costs: bits per pixel, and the share of the source it saves."""

from __future__ import annotations

from pipeline.errors import MetricError


def bpp(payload_bytes: int, width_px: int, height_px: int) -> float:
    """Bits per pixel of the whole payload, container header included; pixels, not samples, are counted."""
    if width_px < 1 or height_px < 1:
        raise MetricError(f"picture is {width_px} x {height_px} px; bits per pixel needs at least one pixel")
    return 8.0 * payload_bytes / (width_px * height_px)


def saved_pct(source_bytes: int, payload_bytes: int) -> float:
    """Percent of the source that the payload saves; negative when it is larger, 0 for an empty source."""
    return 100.0 * (1.0 - payload_bytes / source_bytes) if source_bytes else 0.0
