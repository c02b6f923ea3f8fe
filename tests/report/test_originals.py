"""From a row back to its source image."""

from __future__ import annotations

import io
import tarfile

import pytest

from pipeline import storage
from pipeline.errors import SourceError, StorageError
from pipeline.report import originals
from pipeline.sources import open_source
from tests.stages.pictures import file_of, smooth


def test_a_file_even_with_a_hash_in_its_name(tmp_path):
    path = tmp_path / "a#1.png"
    path.write_bytes(file_of(smooth()))
    (item,) = storage.list_files(str(path))
    picture, data = originals.picture(item.uri, item.version)
    assert data == path.read_bytes()
    assert picture.rgb.shape == (128, 192, 3)


def test_a_member_of_a_shard(tmp_path):
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for name in ("a.png", "b.png"):
            info = tarfile.TarInfo(name)
            data = file_of(smooth(), "PNG") + name.encode()
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    source = open_source(str(tmp_path / "s.tar"))
    for image in source.images(source.list_items()):
        assert originals.source_bytes(image.source_uri, image.source_version) == image.data


def test_what_has_changed_or_gone_is_told(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(file_of(smooth()))
    with pytest.raises(SourceError, match="changed since"):
        originals.picture(str(path), "an older version")
    with pytest.raises(StorageError):
        originals.picture(str(tmp_path / "b.png"), "v")
