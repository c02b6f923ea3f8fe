"""Whole jobs in this process: what goes in, what rows come out, and what comes back."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from jobs.recompress import main as recompress
from jobs.restore import main as restore
from jobs.verify import main as verify
from tests.end_to_end.conftest import small_photo

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]


def job(source: object, archive: object, *overrides: str) -> int:
    return recompress(["--source", str(source), "--archive", str(archive), *overrides])


def rows(archive: Path, columns: str = "source_uri") -> list[tuple]:
    return duckdb.sql(f"select {columns} from '{archive}/metrics/*.parquet' order by source_uri").fetchall()


def png(array: np.ndarray) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(array).save(sink, "PNG")
    return sink.getvalue()


def ugly_files() -> dict[str, bytes]:
    """Odd inputs, and by their names what must become of them."""
    ramp = np.add.outer(np.arange(90), np.arange(120)).astype(np.uint8)
    rgba = np.dstack([ramp, ramp, ramp, np.where(ramp > 99, 255, 40).astype(np.uint8)])
    photo = np.asarray(Image.open(io.BytesIO(small_photo(2))))
    veiled = np.dstack([photo, np.full(photo.shape[:2], 99, np.uint8)])
    frames, cmyk = io.BytesIO(), io.BytesIO()
    pages = [Image.fromarray(ramp), Image.fromarray(255 - ramp)]
    pages[0].save(frames, "GIF", save_all=True, append_images=pages[1:])
    Image.fromarray(rgba).convert("CMYK").save(cmyk, "TIFF")
    return {
        "encoded-photo.jpg": small_photo(0),
        "encoded-gray.png": png(np.asarray(Image.open(io.BytesIO(small_photo(1))).convert("L"))),
        "encoded-alpha.png": png(veiled),
        "kept_original-16bit.png": png(np.arange(65536, dtype=np.uint16).reshape(256, 256)),
        "kept_original-animation.gif": frames.getvalue(),
        "kept_original-cmyk.tif": cmyk.getvalue(),
        "encoded-one-pixel.png": png(np.zeros((1, 1, 3), np.uint8)),
        "rejected-empty.jpg": b"",
        "rejected-page.jpg": b"<!doctype html><html>404</html>",
        "rejected-truncated.png": png(rgba)[:200],
    }


def test_ugly_input_gives_one_row_each_and_comes_back(tmp_path, capsys):
    source, archive, out = tmp_path / "in", tmp_path / "archive", tmp_path / "out"
    source.mkdir()
    files = ugly_files()
    for name, data in files.items():
        (source / name).write_bytes(data)

    assert job(source, archive, "codec.name=webp", "codec.quality=80", "floor.psnr_db=25") == 0
    shown = capsys.readouterr().out
    assert "4 encoded, 3 kept as original, 3 rejected" in shown

    found = rows(archive, "source_uri, status, reason, payload_bytes, source_bytes, psnr_db, codec")
    assert [Path(uri).name for uri, *_ in found] == sorted(files)
    for uri, status, reason, payload_bytes, source_bytes, *_ in found:
        assert Path(uri).name.startswith(status), (uri, status, reason)
        assert reason or status == "encoded"
        assert payload_bytes is None or payload_bytes <= source_bytes

    assert restore(["--archive", str(archive), "--out", str(out)]) == 0
    assert (out / "kept_original-16bit.png").read_bytes() == files["kept_original-16bit.png"]
    assert Image.open(out / "encoded-alpha.png").mode in ("LA", "RGBA")
    assert len(list(out.iterdir())) == 7
    assert verify(["--archive", str(archive), "--all"]) == 0
    assert "no problems" in capsys.readouterr().out


def test_more_rejected_than_the_error_budget_allows_ends_with_1(tmp_path, capsys):
    source = tmp_path / "in"
    source.mkdir()
    (source / "a.jpg").write_bytes(small_photo(0))
    (source / "b.jpg").write_bytes(b"")
    assert job(source, tmp_path / "archive", "codec.name=jpeg", "error_budget=0.2") == 1
    assert "1 of 2 images were rejected" in capsys.readouterr().err
    assert len(rows(tmp_path / "archive")) == 2
    assert job(source, tmp_path / "archive", "codec.name=jpeg", "error_budget=0.2", "--json") == 0
    assert json.loads(capsys.readouterr().out)["images"] == 0
    (source / "b.jpg").write_bytes(b"")
    assert job(source, tmp_path / "archive", "--retry", "rejected", "codec.name=jpeg", "--json") == 0
    assert json.loads(capsys.readouterr().out)["rejected"] == 1


def test_only_new_and_changed_files_are_read(tmp_path, fill, capsys):
    source, archive = fill("in", range(3)), tmp_path / "archive"
    assert job(source, archive, "codec.name=webp") == 0
    fill("in", range(3, 5))
    (source / "0000.jpg").write_bytes(small_photo(9))
    capsys.readouterr()
    assert job(source, archive, "codec.name=webp", "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["listed"], summary["images"]) == (5, 3)
    assert len(rows(archive, "distinct image_id, source_uri")) == 5


def test_tar_and_parquet_shards_bring_their_columns(tmp_path):
    pictures = [small_photo(n) for n in range(3)]
    shards = tmp_path / "shards"
    shards.mkdir()
    with tarfile.open(shards / "a.tar", "w") as tar:
        for n, data in enumerate(pictures):
            for name, content in ((f"{n}.jpg", data), (f"{n}.cls", str(n).encode())):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    assert job(shards, tmp_path / "tars", "codec.name=webp") == 0
    found = duckdb.sql(f"select cls from '{tmp_path}/tars/data/*.parquet' order by cls").fetchall()
    assert [str(label) for (label,) in found] == ["0", "1", "2"]

    structs = [{"bytes": data, "path": f"{n}.jpg"} for n, data in enumerate(pictures)]
    table = pa.table({"image": structs, "label": pa.array([7, 8, 9], pa.int32()), "tags": [["x"], [], None]})
    pq.write_table(table, tmp_path / "photos.parquet")
    assert job(tmp_path / "photos.parquet", tmp_path / "rows", "codec.name=webp") == 0
    found = duckdb.sql(f"select label, tags from '{tmp_path}/rows/data/*.parquet' order by label").fetchall()
    assert found == [(7, ["x"]), (8, []), (9, None)]
    assert verify(["--archive", str(tmp_path / "rows"), "--all"]) == 0


def test_the_learned_codec_end_to_end(tmp_path, capsys):
    source, archive, out = tmp_path / "in", tmp_path / "archive", tmp_path / "out"
    source.mkdir()
    for n in range(2):
        (source / f"{n}.jpg").write_bytes(small_photo(n, 120))
    (source / "flat.png").write_bytes(png(np.zeros((1, 1), np.uint8)))
    assert job(source, archive, "floor.psnr_db=20", "codec.quality=60") == 0
    found = rows(archive, "status, codec, model_id, quality")
    assert [status for status, *_ in found] == ["encoded"] * 3
    codec, model_id, quality = found[0][1:]
    assert (codec, quality) == ("cnn", 60.0)
    (weights,) = (archive / "weights").iterdir()
    assert weights.name.startswith(model_id)
    assert restore(["--archive", str(archive), "--out", str(out), "--format", "png"]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["0.png", "1.png", "flat.png"]
    assert verify(["--archive", str(archive), "--all"]) == 0
    capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["codec.name=webpp"], 2, "did you mean 'webp'"),
        (["codec.qualty=3"], 2, "did you mean 'codec.quality'"),
        (["resources.actors=99"], 2, "lower resources.actors"),
        (["--sauce", "x"], 2, "--sauce"),
        (["source.uri=/nowhere/at/all"], 1, "/nowhere/at/all"),
        (["archive.uri={source}/inside"], 2, "keep them apart"),
        (["--config", "/nowhere.yaml"], 2, "/nowhere.yaml"),
    ],
)
def test_mistakes_end_in_one_clear_sentence(arguments, code, sentence, tmp_path, fill, capsys):
    source = fill("in", range(1))
    arguments = [argument.format(source=source) for argument in arguments]
    assert job(source, tmp_path / "archive", *arguments) == code
    shown = capsys.readouterr()
    assert sentence in shown.err
    assert shown.err.count("\n") == 1
    assert "Traceback" not in shown.err
