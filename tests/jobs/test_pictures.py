from __future__ import annotations

from jobs.pictures import Names


def names_of(*uris: str, suffix: str | None = ".png") -> list[str]:
    names = Names(uris)
    return [names.of(uri, f"{n:032d}", suffix) for n, uri in enumerate(uris)]


def test_shared_folders_are_left_out():
    assert names_of("/a/b/x.jpg", "/a/b/c/y.jpg") == ["x.png", "c/y.png"]
    assert names_of("s3://bucket/in/x.jpg") == ["x.png"]


def test_members_come_into_a_folder_named_after_their_shard():
    assert names_of("/a/one.tar#x.jpg", "/a/two.tar#d/x.jpg") == ["one/x.png", "two/d/x.png"]


def test_names_that_would_collide_carry_the_id():
    found = Names(["/a/x.jpg", "/a/x.png"])
    assert found.of("/a/x.jpg", "1" * 32, ".png") == "x-11111111.png"
    assert found.of("/a/x.png", "2" * 32, None) == "x-22222222.png"


def test_nothing_leaves_the_folder():
    for uri in ("/a/../../etc/passwd", "/a/t.tar#../../../x.jpg", "/a/t.tar#/abs.jpg", "/a/t.tar#..", "/a/b\n*.jpg"):
        for name in names_of("/a/t.tar#plain.jpg", uri):
            assert not name.startswith("/")
            assert ".." not in name.split("/")
            assert "\n" not in name


def test_very_long_names_are_cut():
    assert len(names_of("/a/" + "n" * 300 + ".jpg")[0].encode()) < 255


def test_a_source_without_suffix_gets_its_own():
    assert Names(["/a/t.parquet#row=3"]).of("/a/t.parquet#row=3", "0" * 32, None, ".jpg") == "row=3.jpg"
