"""Which row a block counts in, and rows that are alike, against the same by sorting."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nativeleak.runtimes.hotspot.heap.climb import Holders
from nativeleak.runtimes.hotspot.heap.summary import _kinds, _owning_rows

ROWS = st.lists(
    st.tuples(st.integers(0, 9), st.integers(0, 6), st.booleans(), st.booleans(), st.integers(0, 3), st.integers(0, 2)),
    max_size=60,
)


def _columns(rows):
    names = ["blocks", "states", "inside", "of_jdk", "classes", "offsets"]
    types = (np.int32, np.int8, np.bool_, np.bool_, np.int32, np.int32)
    values = zip(*rows, strict=True) if rows else [()] * len(names)
    return {name: np.array(column, dtype) for name, column, dtype in zip(names, values, types, strict=True)}


@given(ROWS)
def test_a_block_counts_in_the_first_of_its_strongest_rows(rows):
    columns = _columns(rows)
    best: dict[int, tuple[tuple[int, bool, bool], int]] = {}
    for row, (block, state, inside, of_jdk, *_) in enumerate(rows):
        rank = state, inside, not of_jdk
        if block not in best or rank < best[block][0]:
            best[block] = rank, row
    found = _owning_rows(columns["blocks"], 10, columns["states"], columns["inside"], columns["of_jdk"])
    assert found.tolist() == sorted(row for _, row in best.values())


@given(ROWS)
def test_rows_that_are_alike_are_together_in_order(rows):
    columns = _columns(rows)
    n = len(rows)
    holders = Holders(
        np.arange(n, dtype=np.uint64), columns["classes"], columns["offsets"], columns["blocks"], columns["inside"],
        np.arange(n, dtype=np.uint64), np.arange(n, dtype=np.int32),
    )  # fmt: skip
    ways, is_array = columns["blocks"] % 3, columns["classes"] == 2
    kinds = _kinds(holders, columns["states"], ways, is_array)
    wanted: dict[tuple[int, ...], list[int]] = {}
    for row, (block, state, inside, _, index, offset) in enumerate(rows):
        key = index, 0 if index == 2 else offset, state, block % 3, int(inside)
        wanted.setdefault(key, []).append(row)
    assert kinds.rows == sorted(wanted)
    members = [kinds.members[low:high].tolist() for low, high in zip(kinds.starts, kinds.starts[1:], strict=False)]
    assert members == [wanted[key] for key in sorted(wanted)]
