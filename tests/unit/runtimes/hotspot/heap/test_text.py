from __future__ import annotations

import json

import numpy as np
import pytest

from nativeleak.runtimes.hotspot.heap.graph import State
from nativeleak.runtimes.hotspot.heap.result import (
    Completeness,
    HolderGroup,
    JavaHolders,
    Pool,
    holders_java_json,
)
from nativeleak.runtimes.hotspot.heap.text import holders_java_text, way_text

BUFFER = "java.nio.DirectByteBuffer.address"


def group(path=(), root="", owner="", state=State.STRONG, sizes=((16 << 20, 147),)) -> HolderGroup:
    n_blocks = sum(count for _, count in sizes)
    n_bytes = sum(size * count for size, count in sizes)
    return HolderGroup(
        BUFFER, state, path, root, owner, n_blocks, np.arange(n_blocks), n_bytes, tuple(sizes), len(sizes)
    )


@pytest.mark.parametrize(
    ("path", "root", "owner", "way"),
    [
        ((), "static A.list", "A.list (java.util.ArrayList)", "A.list (java.util.ArrayList)"),
        (("n.Chunk.memory", "A.list"), "static A.it", "A.list (T)", "n.Chunk.memory <- A.list (T) <- static A.it"),
        (("x.A.a", "x.B.b", "x.C.c"), "thread main", "", "x.A.a <- ... <- thread main"),
        (("x.A.a", "x.B.b", "x.C.c", "A.d"), "", "A.d (T)", "x.A.a <- ... <- A.d (T)"),
        (("B.body", "A.open", "A.x"), "static A.it", "B.body (T)", "B.body (T) <- ... <- A.x <- static A.it"),
    ],
)
def test_way_is_cut_in_the_middle_and_names_the_programs_field(path, root, owner, way):
    assert way_text(group(path, root, owner)) == f"{BUFFER} <- {way}"


def test_way_has_all_steps_where_all_are_wanted():
    assert way_text(group(("x.A.a", "x.B.b", "x.C.c"), "thread main"), show_all=True).endswith(
        "x.A.a <- x.B.b <- x.C.c <- thread main"
    )


def test_cleaner_only_is_said_with_what_to_do():
    result = JavaHolders("G1", groups=(group(state=State.CLEANER),), n_blocks=147, n_bytes=147 << 24, n_given=1000)
    page = holders_java_text(result)
    assert "147 x 16 MiB: java.nio.DirectByteBuffer.address" in page
    assert "CLEANER ONLY" in page
    assert "Next: free them in the program" in page


def test_heap_that_is_not_read_says_why():
    result = JavaHolders("Z", not_read="the heap of the collector Z is not read")
    assert holders_java_text(result) == "Java heap   not read: the heap of the collector Z is not read\n"
    assert holders_java_json(result)["completeness"]["read"] is False


def test_json_holds_every_number():
    pool = Pool("pooled", 3, 48 << 20, 40 << 20, 100, 20 << 20, 5, 1 << 20, 1 << 19, 18 << 20)
    result = JavaHolders("G1", groups=(group(("A.x",), "static A.y", "A.x (T)"),), pools=(pool,), n_blocks=147)
    said = json.loads(json.dumps(holders_java_json(result)))
    assert said["holders"][0]["state"] == "strong"
    assert said["holders"][0]["sizes"] == [{"bytes": 16 << 20, "count": 147}]
    assert said["pools"][0]["lost_bytes"] == 19 << 20
    assert set(said["completeness"]) >= {"heap_bytes", "passes", "collections", "unresolved_references", "cut_short"}


def test_what_was_not_read_is_in_the_notes():
    whole = Completeness(absent_bytes=5 << 20, n_collections=3, n_young=7, n_sampled=11, notes=("handles: none",))
    page = holders_java_text(JavaHolders("G1", completeness=whole))
    assert "5 MiB of the Java heap are in use but not in memory" in page
    assert "3 collections ran meanwhile; 7 holders were moved or are young" in page
    assert "11 of the holders were followed upwards" in page
    assert "note: not read: handles: none" in page
