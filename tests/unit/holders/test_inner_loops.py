"""The inner loops, in C and in numpy: pointers into blocks, and walks of the graph."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from nativeleak.errors import NativeleakError
from nativeleak.holders import graph as graph_module
from nativeleak.holders.graph import EdgeStore, Graph
from nativeleak.holders.helper import CHelper, Helper, find_helper, sees
from nativeleak.holders.numpy_helper import NumpyHelper
from nativeleak.holders.table import INTERIOR, LEFTOVER, LINK, NONE, SHARED, BlockTable, make_table
from nativeleak.holders.windows import Runs

HEAP = 0x7F00_0000_0000


@pytest.fixture(params=["C", "numpy"])
def helper(request: pytest.FixtureRequest) -> Helper:
    if request.param == "numpy":
        return NumpyHelper()
    found = find_helper()
    assert isinstance(found, CHelper), "the helper was not built: scripts/setup"
    return found


def _table(n: int = 4, size: int = 64, link_offset: int = 16) -> BlockTable:
    starts = np.arange(HEAP + 16, HEAP + 16 + n * size, size, dtype=np.uint64)
    return make_table(starts, starts + np.uint64(size), [(HEAP, HEAP + n * size + 16)], link_offset)


def _runs(words: list[int], address: int = 0x5000, step: int = 8) -> Runs:
    data = np.array(words, np.uint64).view(np.uint8)
    return Runs(data, np.array([address], np.uint64), np.array([0]), np.array([data.nbytes]), step)


def _graph(n: int, edges: list[tuple[int, int]]) -> Graph:
    store = EdgeStore(n)
    ordered = sorted(edges)
    store.add(np.array([a for a, _ in ordered], np.uint32), np.array([b for _, b in ordered], np.uint32))
    return store.graph()


def test_roots_are_exact_interior_tagged_and_one_past_the_end(helper: Helper) -> None:
    start = HEAP + 16
    words = [start, start + 64 + 5, start + 128 | 0xABCD << 48, start + 56, start + 48, 7, HEAP, start + 4 * 64]
    places, targets, flags = helper.roots(_table(), _runs(words))
    assert places.tolist() == [0x5000, 0x5008, 0x5010, 0x5018, 0x5020]
    assert targets.tolist() == [0, 1, 2, 0, 0]
    assert flags.tolist() == [0, INTERIOR, 0, INTERIOR, INTERIOR | LINK]


def test_pointers_of_packed_structures_are_seen_at_every_fourth_byte(helper: Helper) -> None:
    data = np.frombuffer(b"\1\0\0\0" + (HEAP + 16).to_bytes(8, "little") + b"\0" * 4, np.uint8).copy()
    runs = Runs(data, np.array([0x5000], np.uint64), np.array([0]), np.array([16]), 4)
    places, targets, _ = helper.roots(_table(), runs)
    assert (places.tolist(), targets.tolist()) == ([0x5004], [0])


def test_edges_have_sources_and_leave_out_a_block_that_points_at_itself(helper: Helper) -> None:
    start = HEAP + 16
    words = [start + 64, start, start + 64, start + 112, 0, 0, 0, 0, start + 192, *[0] * 7]
    sources, targets = helper.edges(_table(), _runs(words, address=start), sees(_table()))
    assert set(zip(sources.tolist(), targets.tolist(), strict=True)) == {(0, 1), (0, 1 | LEFTOVER), (1, 3)}


def test_a_mark_passes_no_marked_block_and_no_leftovers_unless_wanted(helper: Helper) -> None:
    graph = _graph(6, [(0, 1), (1, 2), (2, 0), (1, 3 | LEFTOVER), (4, 5)])
    marks = np.zeros(6, np.uint8)
    assert helper.mark(graph, np.array([0], np.uint32), marks, follows_leftovers=False) == 3
    assert marks.tolist() == [1, 1, 1, 0, 0, 0]
    marks = np.array([0, 2, 0, 0, 0, 0], np.uint8)
    assert helper.mark(graph, np.array([0, 4], np.uint32), marks) == 3
    assert marks.tolist() == [1, 2, 0, 0, 1, 1]


def test_the_nearest_root_owns_a_block_and_what_two_reach_is_shared(helper: Helper) -> None:
    graph = _graph(6, [(0, 1), (1, 2), (2, 3), (4, 3), (4, 5)])
    roots, labels = np.array([0, 4], np.uint32), np.array([7, 9], np.uint32)
    assert helper.owners(graph, roots, labels).tolist() == [7, 7, 7, 9, 9, 9]
    assert helper.exclusive(graph, roots, labels).tolist() == [7, 7, 7, SHARED, 9, 9]
    assert helper.owners(graph, roots[:1], labels[:1]).tolist() == [7, 7, 7, 7, NONE, NONE]


@pytest.mark.parametrize("shape", ["random", "list", "wide"])
def test_both_give_the_same_on_larger_graphs(shape: str) -> None:
    rng = random.Random(3)
    n = 3001
    edges = {
        "random": [(rng.randrange(n), rng.randrange(n)) for _ in range(2 * n)],
        "list": [(i, i + 1) for i in range(n - 1)],
        "wide": [(0, i) for i in range(1, n)] + [(i, (7 * i) % n) for i in range(n)],
    }[shape]
    graph = _graph(n, edges)
    roots = np.array([0, *(rng.randrange(n) for _ in range(5))], np.uint32)
    labels = np.arange(len(roots), dtype=np.uint32) % np.uint32(3)
    in_c, in_numpy = find_helper(), NumpyHelper()
    marks = np.zeros(n, np.uint8), np.zeros(n, np.uint8)
    assert in_c.mark(graph, roots, marks[0]) == in_numpy.mark(graph, roots, marks[1])
    assert (marks[0] == marks[1]).all()
    assert (in_c.exclusive(graph, roots, labels) == in_numpy.exclusive(graph, roots, labels)).all()
    owners = in_c.owners(graph, roots, labels), in_numpy.owners(graph, roots, labels)
    assert ((owners[0] == NONE) == (owners[1] == NONE)).all()


def test_many_edges_go_to_a_file_and_are_the_same() -> None:
    store = EdgeStore(5, max_in_memory=2)
    for source in range(4):
        store.add(np.array([source, source], np.uint32), np.array([4, source + 1], np.uint32))
    graph = store.graph()
    assert store.is_spilled
    assert graph.offsets.tolist() == [0, 2, 4, 6, 8, 8]
    assert graph.targets.tolist() == [4, 1, 4, 2, 4, 3, 4, 4]
    graph.rest()
    marks = np.zeros(5, np.uint8)
    assert find_helper().mark(graph, np.array([1], np.uint32), marks) == 4


@pytest.mark.parametrize(("n_blocks", "n_edges"), [(1, 1 << 40), (1 << 40, 1), (2, 3)])
def test_walks_in_steps_give_the_same_as_in_one(n_blocks: int, n_edges: int) -> None:
    rng = random.Random(5)
    edges = [(rng.randrange(300), rng.randrange(300)) for _ in range(500)] + [(0, i) for i in range(100)]
    whole, stepwise = _graph(300, edges), _graph(300, edges)
    stepwise.blocks_a_step, stepwise.edges_a_step = n_blocks, n_edges
    roots, labels = np.array([0, 7, 0, 9], np.uint32), np.array([1, 2, 1, 3], np.uint32)
    in_c = find_helper()
    marks = np.zeros(300, np.uint8), np.zeros(300, np.uint8)
    assert in_c.mark(whole, roots, marks[0]) == in_c.mark(stepwise, roots, marks[1]) == marks[0].sum()
    assert (marks[0] == marks[1]).all()
    assert (in_c.owners(whole, roots, labels) == in_c.owners(stepwise, roots, labels)).all()
    assert (in_c.exclusive(whole, roots, labels) == in_c.exclusive(stepwise, roots, labels)).all()


def test_words_are_looked_up_alike_in_pages_of_many_blocks_and_of_none() -> None:
    rng = random.Random(11)
    starts, ends, place = [], [], HEAP + 16
    for _ in range(4000):
        size = rng.choice([16, 32, 48, 80, 112, 4096, 20000]) if rng.random() < 0.9 else 1 << 17
        if rng.random() < 0.8:
            starts.append(place)
            ends.append(place + size)
        place += size
    far = HEAP + (1 << 32)
    spans = [(HEAP, place), (far, far + 8192)]
    table = make_table(np.array([*starts, far], np.uint64), np.array([*ends, far + 8000], np.uint64), spans, 16)
    words = [rng.randrange(HEAP - 64, place + 64) for _ in range(20000)] + [rng.randrange(far, far + 8192)] * 9
    words += [*starts, *(start - 1 for start in starts), *ends]
    rng.shuffle(words)
    in_c, in_numpy = find_helper(), NumpyHelper()
    for found, expected in zip(in_c.roots(table, _runs(words)), in_numpy.roots(table, _runs(words)), strict=True):
        assert (found == expected).all()
    runs = _runs(words, address=starts[0])
    edges = in_c.edges(table, runs, sees(table)), in_numpy.edges(table, runs, sees(table))
    assert set(zip(*(side.tolist() for side in edges[0]), strict=True)) == set(
        zip(*(side.tolist() for side in edges[1]), strict=True)
    )


def test_a_block_that_points_at_others_many_times_has_one_edge_to_each() -> None:
    words = [HEAP + 16 + 64 * (1 + i % 3) for i in range(300)]
    table = make_table(
        np.array([HEAP + 16, *(HEAP + 16 + 64 * i for i in range(1, 4)), HEAP + 4096], np.uint64),
        np.array([HEAP + 80, *(HEAP + 80 + 64 * i for i in range(1, 4)), HEAP + 8192], np.uint64),
        [(HEAP, HEAP + 8192)],
    )
    seen = sees(table)
    found = [
        find_helper().edges(table, _runs(part, address=HEAP + 4096 + at), seen)[1].tolist()
        for part, at in ((words[:150], 0), (words[150:], 1200))
    ]
    assert found == [[1, 2, 3], []]


def test_no_folder_for_the_file_and_a_full_disk_are_errors_that_name_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = np.array([1, 1, 1], np.uint32)
    with pytest.raises(NativeleakError, match=r"no folder of .*missing can be written to"):
        EdgeStore(5, max_in_memory=2, folders=[str(tmp_path / "missing")]).add(one, one)
    monkeypatch.setattr(graph_module, "_KEPT_FREE_BYTES", 1 << 60)
    with pytest.raises(NativeleakError, match=f"{tmp_path} has .* free, .* 12 B are needed"):
        EdgeStore(5, max_in_memory=2, folders=[str(tmp_path)]).add(one, one)
    assert list(tmp_path.iterdir()) == []


def test_edges_out_of_order_are_refused() -> None:
    store = EdgeStore(5)
    store.add(np.array([3], np.uint32), np.array([1], np.uint32))
    with pytest.raises(ValueError, match="source 2 after 3"):
        store.add(np.array([2], np.uint32), np.array([1], np.uint32))


def test_a_table_of_no_blocks_has_no_pointers(helper: Helper) -> None:
    nothing = np.zeros(0, np.uint64)
    table = make_table(nothing, nothing, [])
    assert len(helper.roots(table, _runs([HEAP]))[0]) == 0
    assert len(helper.edges(table, _runs([HEAP]), sees(table))[0]) == 0
    assert table.look(np.array([HEAP], np.uint64)).tolist() == [-1]


def test_a_missing_helper_is_an_error_that_the_search_takes_for_numpy(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="cannot open"):
        CHelper(tmp_path / "helper.so")
