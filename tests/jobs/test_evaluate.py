"""`jobs.evaluate` from the command line: what is wrong with an order is said before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs import evaluate
from jobs.evaluation_orders import order_of, settings_of
from pipeline.config import EvaluateConfig, EvaluatedCodec, load
from pipeline.errors import ConfigError

CONFIGS = sorted(Path("configs/evaluate").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_is_an_order(path, photos):
    config = load(EvaluateConfig, str(path), [f"source.uri={photos[0].parent}"])
    order = order_of(config)
    assert len({setting.setting_id for setting in order.settings}) == len(order.settings) >= 20


def test_a_curve_per_effort_and_a_point_per_quality():
    settings = settings_of([EvaluatedCodec(name="cnn", qualities=[10, 90], efforts=[0, 1])])
    assert [(s.series, s.quality, s.effort) for s in settings] == [
        ("cnn effort 0", 10, 0),
        ("cnn effort 0", 90, 0),
        ("cnn effort 1", 10, 1),
        ("cnn effort 1", 90, 1),
    ]
    assert all(setting.spec["model"] for setting in settings)


def test_options_reach_the_codec_and_labels_tell_curves_apart():
    slow = EvaluatedCodec(name="avif", qualities=[50], options={"speed": 4}, label="avif, slow")
    assert settings_of([EvaluatedCodec(name="avif", qualities=[50]), slow])[1].spec["speed"] == 4
    with pytest.raises(ConfigError, match="comes twice"):
        settings_of([EvaluatedCodec(name="avif", qualities=[50])] * 2)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--source", "s", "--results", "r"], 2, "codecs is missing"),
        (["--source", "s", "--results", "r", "codecs=[{name: jpg}]"], 2, "did you mean 'jpeg'"),
        (["--source", "s", "--results", "s/r", "codecs=[{name: jpeg}]"], 2, "lie inside the source"),
        (["--source", "s", "--results", "r", "codecs=[{name: jxl-lossless, qualities: [3]}]"], 2, "has one setting"),
        (["--source", "s", "--results", "r", "codecs=[{name: jpeg}]", "sampel=3"], 2, "did you mean 'sample'"),
        (["--source", "nowhere", "--results", "r", "codecs=[{name: jpeg}]"], 1, "nowhere"),
        (["--source", "s", "--results", "r", "codecs=[{name: avif, options: {sped: 1}}]"], 2, "unknown option 'sped'"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(arguments, code, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert evaluate.main(arguments) == code
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
