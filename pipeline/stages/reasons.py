"""Why an image was not encoded as asked, in the few words that a chart can have as labels.

The sentence in a row's `reason` is for people and never twice the same; what is counted is its kind.
"""

from __future__ import annotations

from pipeline.records import REJECTED

AS_ASKED, UNDECODABLE, CODEC_FAILED = "as_asked", "undecodable", "codec_failed"
_KINDS = {
    "crashed the process": "crashed",
    "took longer than": "too_slow",
    "unreadable": "unreadable",
    "out of memory": "out_of_memory",
    "below the floor": "below_floor",
    "not smaller than the source": "not_smaller",
    "the source has": "not_representable",
    "not used": "verify_failed",
    "the codec of this run is original": AS_ASKED,
}
KINDS = frozenset(_KINDS.values()) | {UNDECODABLE, CODEC_FAILED}


def kind_of(status: str, reason: str | None) -> str:
    """One of `KINDS`: the first cause that the sentence names."""
    if not reason:
        return AS_ASKED
    found = {at: kind for words, kind in _KINDS.items() if (at := reason.find(words)) >= 0}
    return found[min(found)] if found else UNDECODABLE if status == REJECTED else CODEC_FAILED
