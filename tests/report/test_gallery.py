"""Galleries stay small: 24 pictures of the busiest kind fit into a page of 5 MB."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from pipeline.errors import ArchiveError
from pipeline.report import gallery
from pipeline.report.gallery import Specimen, Wanted

PAGE_BYTES, WITHOUT_PICTURES = 5_000_000, 400_000


def test_two_galleries_of_busy_pictures_fit_into_a_page(photos):
    generator = np.random.default_rng(0)
    photo = np.asarray(Image.open(photos[-2]).convert("RGB"))[:512, :768]
    busy = np.clip(photo + generator.normal(0, 20, photo.shape), 0, 255).astype(np.uint8)  # as grain is
    sink = io.BytesIO()
    Image.fromarray(busy).save(sink, "JPEG", quality=85)
    specimen = Specimen(busy, np.asarray(Image.open(sink)), generator.uniform(0, 900, (32, 48)))
    fetched = []

    def fetch(key: int) -> Specimen:
        fetched.append(key)
        if len(fetched) > 1:
            raise ArchiveError("one is enough")
        return specimen

    lists = [[Wanted(12 * side + at, "busy", "") for at in range(12)] for side in range(2)]
    (first, *_), _ = gallery.exhibits(lists, fetch)
    size = sum(len(part) for part in (first.before, first.after, first.error, first.bits))
    assert first.before.startswith("data:image/webp")
    assert 24 * size + WITHOUT_PICTURES < PAGE_BYTES
    assert len(fetched) == 24


def test_a_picture_on_two_lists_is_shown_once_and_named_in_the_second():
    first, second = ([Wanted(key, f"{key}.jpg", "") for key in keys] for keys in ((3, 1, 2), (1, 4, 3)))
    assert [[wanted.key for wanted in each] for each in gallery.once([first, second])] == [[3, 1, 2], [4]]
    assert gallery.shown_above(second, first) == ["Shown above already: 1.jpg, 3.jpg; the others follow."]
    assert gallery.shown_above(first, first) == ["Shown above already: 3.jpg, 1.jpg, 2.jpg; there are no others."]
    assert gallery.shown_above([second[1]], first) == []
