"""`rd` from pictures to tables, JSON and SVG, on two small crops and few qualities."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from PIL import Image

from tests.benchmarks import points, rd
from tests.benchmarks.conditions import Conditions
from tests.benchmarks.plot import COLOURS, Panel, rd_svg
from tests.benchmarks.points import Point
from tests.benchmarks.rd_report import Result

VTM = Path(__file__).parent / "published" / "vtm_kodak.json"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, photos: list[Path]) -> Path:
    """Two crops, scaled down first so that they hold something to code."""
    target = tmp_path_factory.mktemp("crops")
    for path in photos[:2]:
        Image.open(path).reduce(4).crop((0, 0, 192, 176)).save(target / f"{path.stem}.png")
    return target


@pytest.fixture(scope="module")
def measured(folder: Path) -> Path:
    words = ["--images", str(folder), "--qualities", "4", "--rounds", "1", "--effort", "0,1", "--published", str(VTM)]
    assert rd.main([*words, "--out", str(folder / "rd.json"), "--plot", str(folder / "rd.svg")]) == 0
    return folder


def test_every_codec_gets_a_rising_curve_of_real_bytes(measured: Path) -> None:
    result = json.loads((measured / "rd.json").read_text())
    assert list(result["curves"]) == ["cnn effort 0", "cnn effort 1", "jpeg", "webp", "avif", "jxl", "vtm"]
    for curve in result["curves"].values():
        rates, qualities = [point["bpp"] for point in curve], [point["psnr_db"] for point in curve]
        assert rates == sorted(rates)
        assert qualities == sorted(qualities)
    assert len(result["images"]) == 2 * 6 * 4
    row = result["images"][0]
    assert row["bpp"] == pytest.approx(8 * row["payload_bytes"] / (192 * 176))


def test_bd_rates_speeds_and_conditions_are_stated(measured: Path) -> None:
    result = json.loads((measured / "rd.json").read_text())
    against = result["bd_rate_pct"]["cnn effort 1"]
    assert list(against) == ["jpeg", "webp", "avif", "jxl", "vtm", "cnn effort 0"]
    assert list(against["jpeg"]) == ["PSNR pchip", "PSNR akima", "MS-SSIM pchip", "MS-SSIM akima"]
    assert all(speed["encode_mpx_per_s"] > 0 and speed["decode_mpx_per_s"] > 0 for speed in result["speeds"].values())
    assert set(result["conditions"]) == {"command", "commit", "hardware", "threads", "data_set", "date"}
    assert str(measured) not in result["conditions"]["command"]


def test_the_plot_is_well_formed_and_shows_each_codec_twice(measured: Path) -> None:
    root = ElementTree.parse(measured / "rd.svg").getroot()
    assert len(root.findall("{http://www.w3.org/2000/svg}polyline")) == 2 * 7


def test_a_folder_without_images_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no images"):
        rd.main(["--images", str(tmp_path)])


def test_workers_measure_what_one_process_measures(folder: Path) -> None:
    images, settings = sorted(folder.glob("*.png")), points.settings_of("jpeg", [], 4)
    assert list(points.measure_all(images, settings, 2)) == list(points.measure_all(images, settings, 1))


def test_labels_are_escaped_in_the_plot() -> None:
    svg = rd_svg([Panel("PSNR", {"a<b & c": [(0.1, 30.0), (1.0, 35.0)]})], "one picture")
    assert ElementTree.fromstring(svg).find(".//{http://www.w3.org/2000/svg}title") is not None


def test_ten_curves_have_colours_of_their_own_and_a_legend_within_the_plot() -> None:
    curves = {f"cnn effort {k}": [(0.1, 30.0 + k), (1.0, 35.0 + k)] for k in range(10)}
    svg = ElementTree.fromstring(rd_svg([Panel("PSNR", curves), Panel("MS-SSIM", curves)], "one picture"))
    texts = [each for each in svg.iter("{http://www.w3.org/2000/svg}text") if each.text in curves]
    assert len({each.get("fill") for each in texts}) == 10
    assert len({each.get("y") for each in texts}) == 2
    assert max(float(each.get("x", "0")) + 7.2 * len(each.text or "") for each in texts) < float(svg.get("width", "0"))


def test_each_effort_and_tuning_is_a_curve_of_its_own():
    found = points.settings_of("cnn", [0, 3], 4, tunes=["psnr", "ms-ssim"])
    asked = {one.label: (json.loads(one.spec)["effort"], json.loads(one.spec)["tune"]) for one in found}
    assert asked == {
        "cnn effort 0": (0, "psnr"),
        "cnn effort 3": (3, "psnr"),
        "cnn effort 0 tune ms-ssim": (0, "ms-ssim"),
        "cnn effort 3 tune ms-ssim": (3, "ms-ssim"),
    }


def test_where_curves_are_many_the_plot_shows_the_ends_of_efforts():
    efforts = [f"cnn effort {effort}{tune}" for tune in ("", " tune ms-ssim") for effort in (0, 1, 2, 3, 6)]
    curve = [Point(10.0 * k, 0.1 * k, 30.0 + k, 0.9, 10.0 + k) for k in range(1, 5)]
    labels = [*efforts, "jpeg", "avif", "vtm"]
    assert len(labels) > len(COLOURS)
    where = Conditions("", "", "", "", "", "")
    drawn = Result(where, dict.fromkeys(labels, curve), {}, []).svg()
    kept = ["cnn effort 0", "cnn effort 6", "cnn effort 0 tune ms-ssim", "cnn effort 6 tune ms-ssim", *labels[-3:]]
    assert [label for label in labels if f">{label}</text>" in drawn] == kept
    few = Result(where, dict.fromkeys(labels[:5], curve), {}, []).svg()
    assert all(f">{label}</text>" in few for label in labels[:5])
