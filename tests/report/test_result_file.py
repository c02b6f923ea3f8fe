"""An evaluation as a result file: every point, how it was made, and no folder of the machine."""

from __future__ import annotations

from tests.benchmarks import evaluated


def test_it_names_points_models_and_conditions_and_no_folders(measured_folder, crops, capsys):
    evaluated.main([measured_folder, "--title", "Crops"])
    told = capsys.readouterr().out
    assert told.startswith("# Crops\n")
    assert "| cnn q10 " in told
    assert "| jxl-lossless " in told
    assert "anchor" in told
    assert "model " in told
    assert "- command: python -m jobs.evaluate" in told
    assert "- measurements: 78 in 1 runs" in told
    assert str(crops.parent) not in told
    assert "same class" not in told
