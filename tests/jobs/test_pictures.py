from __future__ import annotations

import posixpath
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from jobs.pictures import LONG_PATHS, places
from pipeline.records import image_id_of

HOSTILE = [
    "/a/../../etc/passwd", "s3://bucket/../../x.jpg", "/a/t.tar#../../../x.jpg", "/a/t.tar#/abs.jpg", "/a/t.tar#..",
    "/a/t.tar#.", "/a/t.tar#", "/a/b\n*.jpg", "/a/nul\0.jpg", "/a/c:\\windows\\x.jpg", "/a/" + "n" * 4096 + ".jpg",
    "/a/t.tar#" + "d/" * 2000 + "x.jpg", "/a/t.tar#x." + "s" * 4096, "/a/\u00e9.jpg", "/a/e\u0301.jpg",
    "/a/E\u0301.JPG", "/a/ .jpg", "/a/.hidden", "/a/~", "/a/-rf.jpg", "/a/con.jpg",
]  # fmt: skip


def ids(uris: list[str]) -> dict[str, str]:
    return {image_id_of(uri): uri for uri in uris}


def names_of(*uris: str, suffix: str | None = ".png") -> list[str]:
    found = places({f"{n:032d}": uri for n, uri in enumerate(uris)})
    return [found[f"{n:032d}"].named(suffix) for n in range(len(uris))]


def test_shared_folders_are_left_out():
    assert names_of("/a/b/x.jpg", "/a/b/c/y.jpg") == ["x.png", "c/y.png"]
    assert names_of("s3://bucket/in/x.jpg") == ["x.png"]


def test_members_come_into_a_folder_named_after_their_shard():
    assert names_of("/a/one.tar#x.jpg", "/a/two.tar#d/x.jpg") == ["one/x.png", "two/d/x.png"]


def test_names_that_would_collide_carry_the_id():
    found = places({"1" * 32: "/a/x.jpg", "2" * 32: "/a/x.png", "3" * 32: "/a/y.png"})
    assert found["1" * 32].named(".png") == "x-11111111.png"
    assert found["2" * 32].named(None) == "x-22222222.png"
    assert found["3" * 32].named(None) == "y.png"


def test_names_made_to_collide_with_marked_ones_carry_all_of_it():
    made = {"1" * 32: "/a/x.jpg", "2" * 32: "/a/x.png", "3" * 32: "/a/x-11111111.gif", "1" * 8 + "4" * 24: "/a/x.tif"}
    names = [place.named(".png") for place in places(made).values()]
    assert len(set(names)) == len(made)


def test_unicode_twins_are_told_apart():
    one, other = names_of("/a/\u00e9.jpg", "/a/e\u0301.jpg")
    assert unicodedata.normalize("NFC", one) != unicodedata.normalize("NFC", other)


def test_a_source_without_suffix_gets_its_own():
    [place] = places({"0" * 32: "/a/t.parquet#row=3"}).values()
    assert place.named(None, ".jpg") == "row=3.jpg"


def test_too_long_a_path_goes_elsewhere():
    assert names_of("/a/t.tar#" + "d/" * 500 + "x.jpg", "/a/y.jpg") == [f"{LONG_PATHS}/x.png", "y.png"]


def require_harmless(uris: list[str], suffix: str | None) -> None:
    names = [place.named(suffix) for place in places(ids(uris)).values()]
    assert len({unicodedata.normalize("NFC", name).casefold() for name in names}) == len(ids(uris))
    for name in names:
        assert posixpath.normpath(posixpath.join("/out", name)).startswith("/out/"), name
        assert not {"", ".", ".."} & set(name.split("/"))
        assert max(len(part.encode()) for part in name.split("/")) <= 255
        assert len(name.encode()) <= 800
        assert not any(ord(letter) < 32 for letter in name)


def test_hostile_names_stay_below_the_folder_and_apart():
    for suffix in (None, ".png"):
        require_harmless(HOSTILE, suffix)


segment = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(
    ["..", ".", "", "a", "A", "x-1"]
)


@given(st.lists(st.lists(segment, min_size=1, max_size=4).map("/".join), min_size=1, max_size=8, unique=True))
def test_whatever_names_a_source_has(names: list[str]):
    require_harmless([f"s3://bucket/{name}" for name in names], ".png")
    require_harmless([f"/folder/shard.tar#{name}" for name in names], ".png")
