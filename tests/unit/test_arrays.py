from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nativeleak.arrays import GrowingColumn, distinct, distinct_in_place, n_distinct, parts, pick, union

NUMBERS = st.lists(st.integers(0, 50), max_size=200)


@given(NUMBERS, NUMBERS)
def test_distinct_values_are_those_of_numpy(first, second):
    one, other = np.array(first, np.uint64), np.array(second, np.uint64)
    assert distinct(one).tolist() == sorted(set(first))
    assert one.tolist() == first
    assert union(one, other).tolist() == sorted({*first, *second})
    assert n_distinct(one.copy()) == len(set(first))
    assert distinct_in_place(one.copy()).tolist() == sorted(set(first))


def test_distinct_values_of_a_view_and_over_many_parts():
    values = np.arange(400_003, dtype=np.uint64) // np.uint64(3)
    whole = np.concatenate([values, values])
    assert np.array_equal(distinct_in_place(whole[: len(values)]), np.unique(values))
    assert np.array_equal(distinct(np.concatenate([values, values])), np.unique(values))


@given(st.lists(st.lists(st.integers(0, 1 << 30), max_size=3000), max_size=20))
def test_column_gives_what_was_added_and_is_empty_then(added):
    column = GrowingColumn(np.uint64)
    for values in added:
        column.add(np.array(values, np.int64))
    assert column.take().tolist() == [value for values in added for value in values]
    assert column.take().tolist() == []


@pytest.mark.parametrize("n", [0, 1, 1 << 16, (1 << 16) + 1, 200_003])
def test_pick_takes_each_number_over_all_parts(n):
    values = np.arange(1000, dtype=np.int32)[::-1]
    numbers = (np.arange(n) % 1000).astype(np.int32)
    assert np.array_equal(pick(values, numbers), values[numbers])
    assert [index for part in parts(n) for index in range(part.start, part.stop)] == list(range(n))
