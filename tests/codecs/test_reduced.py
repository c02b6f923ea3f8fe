"""Reduced-resolution coding: chosen where it wins, never where it loses, and a payload like any other."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import pipeline.pillow  # noqa: F401  Pillow knows the format
from jobs.restore import main as restore
from pipeline.archive import create_or_open, plan
from pipeline.bitstream import container
from pipeline.bitstream.container import Reduced
from pipeline.codecs import registry
from pipeline.codecs.learned import superres
from pipeline.codecs.learned.hyperprior import Hyperprior
from pipeline.errors import BitstreamError, ConfigError
from pipeline.execution import recompression
from pipeline.imaging.resize import resized
from pipeline.metrics.distortion import mse
from pipeline.records import Picture, Rate, SourceImage
from pipeline.sources import open_source
from pipeline.stages.analyse import Analyse
from pipeline.stages.commit import commit
from pipeline.stages.decode import Decode
from pipeline.stages.encode import Encode, Floor
from pipeline.stages.read import read_unit
from pipeline.stages.work import Work, pack, unpack
from tests.codecs import made_static

LOW = Rate(quality=5.0)


def soft(height: int = 191, width: int = 256) -> Picture:
    """A photo without fine detail, of odd height: what is lost at half the size was never there."""
    return Picture(resized(resized(made_static.photos()[3], 30, 40), height, width))


def coder(rate: Rate = LOW, **options: str | None) -> Hyperprior:
    return Hyperprior(rate, device="cpu", effort=1, **({"reduced": "auto"} | options))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def payload() -> bytes:
    return coder().encode(soft()).payload


def test_a_soft_picture_is_reduced_with_fewer_bytes_and_no_worse(payload):
    picture, plain = soft(), coder(reduced=None)
    full = plain.encode(picture).payload
    box = container.unpack(payload)
    assert box.reduced == Reduced(2, superres.require_scale(2), 256, 191)
    assert (box.width_px, box.height_px, box.picture_size) == (128, 96, (256, 191))
    assert len(payload) < len(full)
    assert mse(picture.rgb, plain.decode(payload)) <= mse(picture.rgb, plain.decode(full))


def test_a_sharp_picture_is_coded_as_ever():
    noise = np.random.default_rng(0).integers(0, 256, (96, 112, 3), dtype=np.uint8)
    for rgb, rate in ((noise, LOW), (made_static.photos()[1][:128, :160].copy(), Rate(quality=80.0))):
        picture = Picture(rgb)
        assert coder(rate).encode(picture).payload == coder(rate, reduced=None).encode(picture).payload


def test_a_rate_below_the_reach_of_full_size_is_met_at_half():
    picture = Picture(made_static.photos()[1].copy())
    least = 8 * len(coder(Rate(quality=0.0), reduced=None).encode(picture).payload) / (320 * 400)
    found = coder(Rate(bpp=0.6 * least)).encode(picture)
    assert container.unpack(found.payload).reduced is not None
    assert 8 * len(found.payload) / (320 * 400) <= 0.6 * least


@pytest.mark.parametrize("rate", [Rate(psnr_db=33.0), Rate(ms_ssim=0.97)])
def test_targets_are_held_by_the_restored_picture(rate):
    picture, codec = soft(), coder(rate)
    (found,) = codec.analyse([picture])
    assert codec.entropy_decode(codec.entropy_encode(found.symbols)).reduced == found.symbols.reduced
    assert (found.distortion.psnr_db if rate.psnr_db else found.distortion.ms_ssim) >= (rate.psnr_db or rate.ms_ssim)


def test_the_two_halves_of_the_codec_agree_with_decode(payload):
    codec = coder()
    (found,) = codec.analyse([soft()])
    assert codec.entropy_encode(found.symbols) == payload
    read = codec.entropy_decode(payload)
    assert read.reduced == found.symbols.reduced
    decoded = codec.decode(payload)
    assert decoded.shape == (191, 256, 3)
    assert np.abs(codec.synthesise([read])[0].astype(int) - decoded).max() <= 1
    assert found.distortion.mse == pytest.approx(mse(soft().rgb, decoded), rel=0.02)


def test_symbols_travel_between_processes_with_it():
    codec = coder()
    (found,) = codec.analyse([soft()])
    work = Work(SourceImage("0" * 32, "/a.png", "1", b"x"), soft(), found)
    (back,) = unpack(pack([work]))
    assert back.analysis is not None
    assert back.analysis.symbols.reduced == found.symbols.reduced


def test_readers_that_do_not_know_it_refuse(payload, monkeypatch):
    monkeypatch.setattr(container, "_KNOWN", container._KNOWN - {container.REDUCED})
    with pytest.raises(BitstreamError, match=r"section 4 of .* is unknown"):
        container.unpack(payload)


@pytest.mark.parametrize(
    "section",
    [
        b"",
        b"\x02" * 9,
        Reduced(2, "ab" * 8, 254, 191).to_bytes(),
        Reduced(2, "ab" * 8, 256, 193).to_bytes(),
        Reduced(3, "ab" * 8, 256, 191).to_bytes(),
        Reduced(2, "ab" * 8, 256, 191).to_bytes() + b"\x00",
    ],
    ids=range(6),
)
def test_a_section_that_does_not_fit_is_refused(payload, section):
    box = container.unpack(payload)
    forged = container.pack(replace(box, sections={**box.sections, container.REDUCED: section or b"\x02"}))
    with pytest.raises(BitstreamError):
        container.unpack(forged)


def test_a_payload_alone_opens_with_pillow_at_its_true_size(payload, tmp_path):
    (tmp_path / "soft.spx").write_bytes(payload)
    with Image.open(tmp_path / "soft.spx") as image:
        assert image.size == (256, 191)
        assert np.asarray(image).shape == (191, 256, 3)


def test_an_archive_carries_the_super_resolver_and_is_read_with_it_alone(payload, tmp_path, monkeypatch):
    codec = coder()
    archive = create_or_open(str(tmp_path / "archive"))
    archive.add_weights(*codec.weights_bytes())
    monkeypatch.setattr(superres, "packaged", dict)
    superres.packaged_bytes.cache_clear()
    decoder = registry.decoder_for("cnn", codec.model_id, archive.weights, "cpu")
    with pytest.raises(BitstreamError, match=rf"needs super-resolver {superres.require_scale(2)}: .*found 0 weights"):
        decoder.decode(payload)
    monkeypatch.undo()
    [data] = codec.reducing.weights_bytes()  # type: ignore[union-attr]
    archive.add_weights(superres.parse(data).sha256, data)
    monkeypatch.setattr(superres, "packaged", dict)
    assert np.array_equal(decoder.decode(payload), codec.decode(payload))


def test_what_a_run_writes_is_restored_from_the_archive_alone(tmp_path, monkeypatch):
    """The steps of `jobs.recompress` in this process: register, analyse, pack, encode, verify, commit; then restore."""
    photo = tmp_path / "in" / "soft.png"
    photo.parent.mkdir()
    Image.fromarray(soft().rgb).save(photo)
    codec, archive = coder(), create_or_open(str(tmp_path / "archive"))
    spec = {"codec": codec.spec(), "floor": {}}
    recompression._register(archive, SimpleNamespace(chain=[codec], spec=spec))  # type: ignore[arg-type]
    assert len(archive.weight_files()) == 2
    monkeypatch.setattr(superres, "packaged", dict)
    superres.packaged_bytes.cache_clear()
    worker = registry.from_spec(codec.spec() | {"device": "cpu"}, archive.weights)
    source = open_source(str(photo.parent))
    encode = Encode([worker, registry.build("original")], Floor(), Decode())
    with archive.run_lock("night", {}):
        (unit,) = plan(archive, source.list_items(), spec, (), source.items_are_shards)
        (chunk,) = read_unit(source, unit)
        works = unpack(pack(list(Analyse(worker)([Decode()(image) for image in chunk.images]))))
        commit(archive, unit.meta(0, True, spec), [encode(work) for work in works], "night")
    (row,) = archive.metrics().to_pylist()
    assert (row["status"], row["width"], row["height"]) == ("encoded", 256, 191)
    (stored,) = archive.iter_payloads()
    assert container.unpack(stored.payload).reduced is not None
    assert restore(["--archive", archive.uri, "--out", str(tmp_path / "out")]) == 0
    with Image.open(tmp_path / "out" / "soft.png") as image:
        assert mse(soft().rgb, np.asarray(image)) == pytest.approx(row["mse"], rel=0.02)


def test_its_spec_builds_it_again_and_others_keep_theirs():
    codec = coder()
    assert codec.spec()["reduced"] == "auto"
    assert registry.from_spec(codec.spec()) == codec
    assert coder(reduced=None).spec().keys() == {"name", "rate", "model", "effort"}
    assert codec.at(Rate(quality=9.0)).reducing == codec.reducing


def test_other_modes_and_codecs_are_refused():
    with pytest.raises(ConfigError, match="reduced is 'always'; expected 'auto'"):
        coder(reduced="always")
    with pytest.raises(ConfigError, match="unknown option 'reduced'"):
        registry.build("jpeg", reduced="auto")
