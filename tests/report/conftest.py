"""Results of a small evaluation, made once with the real stages and no Ray: five crops, three codecs, one bad file."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from jobs.evaluation_orders import settings_of
from pipeline.archive import RunLock, results
from pipeline.archive.results import ResultMeta
from pipeline.config import EvaluatedCodec
from pipeline.sources import open_source
from pipeline.stages.decode import Decode
from pipeline.stages.trial import Trial, built

CODECS = [
    EvaluatedCodec(name="cnn", qualities=[10, 40, 70, 90], efforts=[0]),
    EvaluatedCodec(name="jpeg", qualities=[15, 40, 70, 92]),
    EvaluatedCodec(name="webp", qualities=[10, 40, 70, 92]),
    EvaluatedCodec(name="jxl-lossless"),
]


@pytest.fixture(scope="session")
def crops(tmp_path_factory: pytest.TempPathFactory, photos: list[Path]) -> Path:
    """Five photos, cut small, and a file that is no image."""
    folder = tmp_path_factory.mktemp("crops")
    for path in photos[:5]:
        with Image.open(path) as image:
            image.crop((200, 200, 456, 392)).save(folder / f"{path.stem}.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    return folder


@pytest.fixture(scope="session")
def measured_folder(tmp_path_factory: pytest.TempPathFactory, crops: Path) -> str:
    folder = str(tmp_path_factory.mktemp("results"))
    settings, source = settings_of(CODECS), open_source(str(crops))
    ids = tuple(setting.setting_id for setting in settings)
    trial = Trial(settings, built([setting.spec for setting in settings], "cpu"), Decode())
    with RunLock(folder, "run-1", {"source": {"uri": str(crops), "kind": "files"}}) as lock:
        lock.counters["settings"] = {setting.setting_id: setting.to_dict() for setting in settings}
        lock.counters |= {"command": "python -m jobs.evaluate", "images": 6, "rows": 78, "elapsed_s": 1.0}
        lock.counters["machine"] = {"cpu": "a processor", "cpus": 2}
        for item in source.list_items():
            rows = [row for image in source.images([item]) for row in trial(image, frozenset(ids))]
            results.commit(folder, ResultMeta(((item.uri, item.version),), ids), rows, "run-1")
    return folder
