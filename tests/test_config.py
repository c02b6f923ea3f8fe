from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config import EvaluateConfig, RecompressConfig, TrainConfig, load
from pipeline.errors import ConfigError
from pipeline.keys import known_keys

PLACES = ["source.uri=in", "archive.uri=out"]
CONFIGS = sorted((Path(__file__).parents[1] / "configs" / "recompress").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_loads(path):
    config = load(RecompressConfig, str(path))
    assert config.source.uri
    assert config.codec.rate


def test_overrides_win_over_flags_and_flags_over_the_file(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("source: {uri: a}\narchive: {uri: b}\ncodec: {name: webp, quality: 70}\n")
    config = load(RecompressConfig, str(path), ["codec.quality=40"], {"source.uri": "c", "codec.quality": 50})
    assert (config.source.uri, config.codec.name, config.codec.quality) == ("c", "webp", 40)


@pytest.mark.parametrize(
    ("inside", "override", "rate"),
    [
        ("quality: 70", "codec.target.psnr_db=34", {"psnr_db": 34}),
        ("target: {psnr_db: 34}", "codec.quality=20", {"quality": 20}),
        ("target: {psnr_db: 34}", "codec.target={ms_ssim: 0.9}", {"ms_ssim": 0.9}),
        ("name: webp", "codec.name=jxl", {"quality": 60}),
    ],
)
def test_a_rate_on_the_command_line_replaces_the_one_in_the_file(tmp_path, inside, override, rate):
    path = tmp_path / "c.yaml"
    path.write_text(f"source: {{uri: a}}\narchive: {{uri: b}}\ncodec: {{{inside}}}\n")
    found = load(RecompressConfig, str(path), [override]).codec.rate
    assert {name: getattr(found, name) for name in rate} == rate


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["archve.uri=x"], "did you mean 'archive'"),
        (["codec.qualty=3"], "did you mean 'codec.quality'"),
        (["quality=3"], "did you mean 'codec.quality'"),
        (["codec.target.psnr=3"], "did you mean 'codec.target.psnr_db'"),
        (["zzz=1"], "known keys are source, archive"),
        (["codec.quality=300"], "expected a number in"),
        (["codec.quality=3", "codec.target.psnr_db=30"], "exactly one"),
        (["codec=jpeg"], "codec is 'jpeg'"),
        (["source.uri.x=1"], "not a section"),
        (["source.kind=zip"], "source.kind"),
        (["error_budget=2"], "error_budget"),
        (["nonsense"], "expected key=value"),
    ],
)
def test_mistakes_are_named(overrides, sentence):
    with pytest.raises(ConfigError, match=sentence) as error:
        load(RecompressConfig, None, [*PLACES, *overrides])
    assert "\n" not in str(error.value)


def test_what_is_missing_is_named():
    with pytest.raises(ConfigError, match="--archive"):
        load(RecompressConfig, None, ["source.uri=x"])
    with pytest.raises(ConfigError, match=r"out is missing; set out \(or --out\)$"):
        load(TrainConfig, None, ["data.uri=x"])
    with pytest.raises(ConfigError, match=r"codecs is missing; set codecs, such as codecs="):
        load(EvaluateConfig, None, ["source.uri=x", "results.uri=y"])


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        (
            "codecs=[{name: jpeg, qualites: [20]}]",
            r"unknown key 'codecs\.qualites'; did you mean 'codecs\.qualities'\?$",
        ),
        ("codecs=[{name: jpeg, qualities: 20}]", r"codecs\.0\.qualities is 20: expected a list, such as \[20, 60\]$"),
        (
            "codecs=[jpeg]",
            r"codecs\.0 is 'jpeg': expected keys and values, such as {name: jpeg, qualities: \[20, 60\]}$",
        ),
        ("sample=0", "sample is 0: expected 1 or more$"),
        ("seed=x", "seed is 'x': expected a whole number$"),
        ("report.price=3", r"did you mean 'report\.price_per_gb_month'\?$"),
        ("fidelity={network: n, label_pattern: '('}", "expected a regular expression"),
    ],
)
def test_mistakes_in_an_evaluation_are_told_in_the_words_of_its_config(override, sentence):
    good = ["source.uri=x", "results.uri=y", "codecs=[{name: jpeg}]"]
    with pytest.raises(ConfigError, match=sentence):
        load(EvaluateConfig, None, [*good, override])


@pytest.mark.parametrize("text", ["a: [", "- 1", "\x00"])
def test_files_that_are_no_config_are_named(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"c\.yaml"):
        load(RecompressConfig, str(path))


def test_bad_yaml_is_told_by_line(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("source: {uri: a}\narchive: {uri: [b}\n")
    with pytest.raises(ConfigError, match=r"c\.yaml, line 2, column 18: not valid YAML, expected ',' or ']'.*; check"):
        load(RecompressConfig, str(path))


def test_known_keys_include_sections_and_what_is_in_them():
    assert {"codec", "codec.target.psnr_db", "resources.actors", "error_budget"} <= set(known_keys(RecompressConfig))
