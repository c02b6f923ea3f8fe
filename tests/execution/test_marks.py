from __future__ import annotations

from pipeline.execution.marks import Marks


def marks(*alive: str) -> Marks:
    return Marks(lambda: alive)


def test_what_ended_is_forgotten_and_what_never_came_back_is_not():
    kept = marks("a", "b")
    assert not kept.begin("part", "a")
    kept.end("part")
    assert not kept.begin("part", "a")
    assert kept.begin("part", "b")  # on whichever node it is tried again
    assert not kept.begin("other", "b")


def test_a_vanished_node_is_no_proof_against_its_chunk_until_it_happens_twice():
    kept = marks("b")
    assert not kept.begin("part", "a")
    assert not kept.begin("part", "c")
    assert kept.begin("part", "b")


def test_after_enough_deadly_chunks_patience_is_over():
    kept = marks("a")
    for key in ("one", "two"):
        kept.begin(key, "a")
        assert kept.begin(key, "a", patience=2)
    assert kept.begin("three", "a", patience=2)
    assert not kept.begin("four", "a", patience=3)
    assert not kept.begin("five", "a")


def test_nodes_taken_away_use_up_no_patience():
    kept = marks("a")
    for key in ("one", "two", "three"):
        kept.begin(key, "gone")
        assert not kept.begin(key, "a", patience=2)
