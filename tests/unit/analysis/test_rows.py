"""Tables as numpy columns: rows are chosen, sums are taken, pandas gets the same."""

from __future__ import annotations

import numpy as np

from nativeleak.analysis.rows import Table, objects, sums_by


def _table() -> Table:
    columns = {
        "tid": np.array([7, 5, 7, 6]),
        "functions": objects([("malloc",), ("calloc",), ("malloc",), ("mmap",)]),
        "key": np.array([1, (1 << 64) - 1, 3, 1], dtype=np.uint64),
    }
    return Table(columns, np.array([10, 11, 12, 13]))


def test_where_and_take_keep_the_index_of_each_row() -> None:
    table = _table()
    chosen = table.where(table["tid"] == 7)
    assert (len(chosen), chosen.index.tolist(), chosen["key"].tolist()) == (2, [10, 12], [1, 3])
    assert table.take(np.array([3, 0])).index.tolist() == [13, 10]
    assert len(table.where(table["tid"] > 7)) == 0


def test_objects_tuples_of_one_length_stay_tuples() -> None:
    assert _table()["functions"].tolist() == [("malloc",), ("calloc",), ("malloc",), ("mmap",)]


def test_sums_by_adds_each_column_up_in_the_order_of_the_keys() -> None:
    huge = 1 << 60
    keys, (n_bytes, n_blocks) = sums_by(np.array([5, 3, 5]), np.array([huge + 1, 2, huge]), np.array([1, 1, 1]))
    assert (keys.tolist(), n_bytes.tolist(), n_blocks.tolist()) == ([3, 5], [2, 2 * huge + 1], [1, 2])


def test_to_pandas_has_the_same_columns_and_index() -> None:
    frame = _table().to_pandas()
    assert Table.from_pandas(frame).index.tolist() == [0, 1, 2, 3]
    assert frame.index.tolist() == [10, 11, 12, 13]
    assert {name: frame[name].tolist() for name in frame} == {
        name: column.tolist() for name, column in _table().columns.items()
    }
