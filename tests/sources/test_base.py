from __future__ import annotations

from pipeline.sources.base import UniqueNames, printable


def test_repeated_names_are_numbered_around_names_that_look_numbered() -> None:
    names = UniqueNames()
    assert [names.take(name) for name in ["a@2", "a", "a", "a", "a@2"]] == ["a@2", "a", "a@3", "a@4", "a@2@2"]


def test_a_name_that_is_not_utf8_becomes_text_that_arrow_can_hold() -> None:
    assert printable("caf\udce9 \u00e9") == "caf\\xe9 \u00e9"
