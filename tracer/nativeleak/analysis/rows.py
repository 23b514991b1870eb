"""A table of sites as numpy columns.

It does what an answer needs. ``to_pandas`` is for rows that are merged and ranked: pandas takes a third of a second to
load, more than the answer of a usual recording takes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nativeleak.analysis.curves import Bools, Ints

if TYPE_CHECKING:
    import pandas as pd


class Table:
    """Columns of equal length.

    Attributes:
        columns: The columns by name.
        index: What tells each row, such as a site's position in ``Recording.sites``.
    """

    def __init__(self, columns: Mapping[str, npt.NDArray[Any]], index: Ints) -> None:
        self.columns, self.index = dict(columns), index

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.index)

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        """A column."""
        return self.columns[name]

    def where(self, chosen: Bools) -> Table:
        """The rows that are chosen."""
        return self if chosen.all() else self.take(np.flatnonzero(chosen))

    def take(self, rows: Ints) -> Table:
        """The rows with these numbers, in this order."""
        return Table({name: column[rows] for name, column in self.columns.items()}, self.index[rows])

    def assign(self, **columns: npt.NDArray[Any]) -> Table:
        """With more columns, or with others of the same names."""
        return Table(self.columns | columns, self.index)

    @classmethod
    def from_pandas(cls, frame: pd.DataFrame) -> Table:
        """The columns of a table of pandas, whose index is lost: rows are numbered."""
        columns = {str(name): frame[name].to_numpy() for name in frame}
        return cls(columns, np.arange(len(frame), dtype=np.int64))

    def to_pandas(self) -> pd.DataFrame:
        """The same for pandas."""
        import pandas as pd

        columns = {
            name: pd.Series(column, index=self.index, dtype=column.dtype) for name, column in self.columns.items()
        }
        return pd.DataFrame(columns, index=self.index)


def objects(values: Sequence[object]) -> npt.NDArray[Any]:
    """A column of any objects, tuples too: numpy alone would make a table of those."""
    return np.fromiter(values, dtype=object, count=len(values))


def sums_by(keys: npt.NDArray[Any], *columns: Ints) -> tuple[npt.NDArray[Any], list[Ints]]:
    """The distinct keys in order, and the sums of each column for each of them."""
    distinct, of_row = np.unique(keys, return_inverse=True)
    sums = []
    for column in columns:
        added: Ints = np.zeros(len(distinct), dtype=np.int64)
        np.add.at(added, of_row, column)
        sums.append(added)
    return distinct, sums
