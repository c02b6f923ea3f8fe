"""Weights files whose sizes are not those of their arrays: refused in one sentence, whatever stands there."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
import safetensors.numpy

from pipeline.codecs.learned import superres, weights
from pipeline.codecs.learned.weights_checks import KIND
from pipeline.codecs.registry import decoder_for
from pipeline.errors import BitstreamError
from pipeline.nn.spec import CODECS, SPECS, SuperresSpec
from tests.codecs import made_static
from tests.fuzz import tiny

ODD = (None, True, -1, 0, 1, 7, 10**9, 0.5, "", "vgg11", "features.9", [], {"a": 1})


def file_of(kind: str) -> bytes:
    if kind == SuperresSpec.kind:
        return tiny.superres_file()
    if kind == KIND:
        return weights.packaged_bytes(weights.default_model_id())
    return made_static.model_of(kind)


def build(kind: str, data: bytes) -> Any:
    """All networks of a file, the encoder's with them."""
    if kind == SuperresSpec.kind:
        return superres.built(data, "cpu")
    model_id = hashlib.sha256(data).hexdigest()[:16]
    networks: Any = decoder_for(CODECS[kind], model_id, lambda _: data, "cpu").networks  # type: ignore[attr-defined]
    return networks if kind == KIND else networks.g_a


def with_spec(data: bytes, change: dict[str, Any]) -> bytes:
    meta = weights.meta_of(data)
    return weights.serialise(safetensors.numpy.load(data), meta | {"spec": meta["spec"] | change})


@pytest.mark.parametrize("kind", SPECS)
def test_a_file_is_written_again_as_it_was(kind):
    assert with_spec(file_of(kind), {}) == file_of(kind)
    build(kind, file_of(kind))


@pytest.mark.parametrize("kind", SPECS)
def test_sizes_that_are_not_those_of_the_arrays_are_refused(kind):
    data, spec = file_of(kind), weights.meta_of(file_of(kind))["spec"]
    told = [refusal(kind, with_spec(data, {name: value})) for name in [*spec, "unknown"] for value in ODD]
    assert all(each is None or each.startswith("weights: ") for each in told)
    assert sum(each is not None for each in told) > len(told) // 2


def refusal(kind: str, data: bytes) -> str | None:
    try:
        build(kind, data)
    except BitstreamError as error:
        return str(error)
    return None


@pytest.mark.parametrize("skip_below", [-300, -1, 90, 2**70])
def test_scale_indexes_that_no_table_has_are_not_skipped(skip_below):
    """What is compiled reads tables by them without looking twice."""
    data = file_of(KIND)
    meta = weights.meta_of(data) | {"skip_below": skip_below}
    with pytest.raises(BitstreamError, match=f"below {skip_below} are not coded; expected 0 to 89"):
        weights.parse(weights.serialise(safetensors.numpy.load(data), meta))
