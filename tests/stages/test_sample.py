"""Sampling and planning of evaluations."""

from __future__ import annotations

import numpy as np

from pipeline.records import SourceItem
from pipeline.stages.sample import EvaluationUnit, drawn, drawn_images, images_in, plan
from tests.stages.pictures import source_of

ITEMS = [SourceItem(f"/in/{number:04d}.png", "v1", 100) for number in range(500)]


def planned(items=ITEMS, settings=("s1", "s2"), done=None, **options):
    return plan(items, settings, done or {}, **({"shards": False, "sample": None, "seed": 0} | options))


def test_every_item_is_planned_once_in_small_units():
    units = planned()
    assert [item for unit in units for item in unit.items] == ITEMS
    assert max(len(unit.items) for unit in units) <= 64
    assert len(units) >= 64


def test_a_sample_is_the_same_everywhere_and_grows():
    few, more = set(drawn(ITEMS, 50, seed=1)), set(drawn(ITEMS[::-1], 200, seed=1))
    assert len(few) == 50
    assert few < more
    assert few != set(drawn(ITEMS, 50, seed=2))
    assert {item for unit in planned(sample=50, seed=1) for item in unit.items} == few


def test_a_sample_is_spread_evenly():
    means = [np.mean([int(item.uri[4:8]) for item in drawn(ITEMS, 100, seed)]) for seed in range(20)]
    assert abs(np.mean(means) - 249.5) < 15


def test_only_settings_that_are_missing_are_planned():
    done = {("/in/0000.png", "v1", None): frozenset({"s1", "s2"}), ("/in/0001.png", "v1", None): frozenset({"s1"})}
    todo = {item.uri: unit.settings for unit in planned(done=done) for item in unit.items}
    assert "/in/0000.png" not in todo
    assert todo["/in/0001.png"] == ("s2",)
    assert todo["/in/0002.png"] == ("s1", "s2")


def test_of_shards_as_many_are_opened_as_give_a_fair_share_each():
    shards = [SourceItem(f"/in/{number:03d}.tar", "v1", 10**9) for number in range(100)]
    units = planned(shards, shards=True, sample=320)
    assert len(units) == 5
    assert {unit.quota for unit in units} == {(64, 0)}
    assert len(planned(shards, shards=True)) == 100


def test_how_many_images_there_will_be_is_known_unless_shards_hide_it():
    assert images_in(planned(), shards=False) == 500
    shards = [SourceItem(f"/in/{number:03d}.tar", "v1", 10**9) for number in range(100)]
    assert images_in(planned(shards, shards=True, sample=320), shards=True) == 320
    assert images_in(planned(shards, shards=True), shards=True) is None
    assert images_in([], shards=True) == 0


def test_the_quota_of_a_shard_keeps_its_order_and_its_count():
    images = [source_of(b"x", f"{number}.png") for number in range(300)]
    chosen = list(drawn_images(iter(images), (40, 3)))
    assert len(chosen) == 40
    assert chosen == [image for image in images if image in chosen]
    assert chosen == list(drawn_images(iter(images), (40, 3)))
    assert {image.image_id for image in drawn_images(iter(images), (10, 3))} < {image.image_id for image in chosen}


def test_a_unit_travels_as_text():
    unit = EvaluationUnit(tuple(ITEMS[:2]), ("s1",), (10, 1))
    assert EvaluationUnit.from_json(unit.to_json()) == unit
    assert unit.meta(0, True).part_id == EvaluationUnit.from_json(unit.to_json()).meta(0, True).part_id
