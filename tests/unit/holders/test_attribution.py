"""Roots by the rank of their labels, against the same by sorting."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nativeleak.holders.attribution import _in_order
from nativeleak.holders.scan import RootList, _Roots


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 4), st.integers(0, 1)), max_size=60))
def test_roots_come_by_rank_and_pointers_to_a_start_first(roots):
    blocks, labels = (np.array([each[i] for each in roots], np.uint32) for i in (0, 1))
    is_inside = np.array([each[2] for each in roots], np.uint8)
    ranks = np.array([20, 10, 30, 10, 22], np.uint8)
    order = np.lexsort((is_inside, ranks[labels]))
    found = _in_order(blocks, labels, ranks, is_inside)
    assert [column.tolist() for column in found] == [blocks[order].tolist(), labels[order].tolist()]


@given(st.lists(st.tuples(st.integers(0, 1 << 30), st.integers(0, (1 << 31) - 1), st.integers(0, 3)), max_size=60))
def test_each_root_is_kept_once(roots):
    store = _Roots()
    for part in (roots[: len(roots) // 2], roots):
        columns = [
            np.array([each[i] for each in part], dtype) for i, dtype in enumerate((np.uint32, np.uint32, np.uint8))
        ]
        store.add(*columns)
    found: RootList = store.take()
    columns = [column.tolist() for column in (found.labels, found.blocks, found.flags)]
    assert list(zip(*columns, strict=True)) == sorted(set(roots))
    assert len(store.take()) == 0
