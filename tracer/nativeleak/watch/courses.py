"""Courses of named totals over any length of time, in bounded memory.

Beyond 240 moments every second one is dropped, and from then on only every second one is kept, and so on: what is kept
is evenly spread over the whole time. The newest is always there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from nativeleak.analysis.curves import Floats, course_curves
from nativeleak.analysis.growth import Growth, measure

MAX_MOMENTS: Final = 240
MAX_NAMES: Final = 512
"""Names beyond are not kept; a process has some 20 lines."""


@dataclass(frozen=True, slots=True)
class Row:
    """One total over the time that was watched.

    Attributes:
        name: Its id.
        first_bytes: At the first moment; 0 where it was not there yet.
        last_bytes: At the newest.
        growth: Rate with interval, and verdict; the rate is that of the moments that are kept.
    """

    name: str
    first_bytes: float
    last_bytes: float
    growth: Growth

    @property
    def grows(self) -> bool:
        """Whether its rate lies above zero with its interval."""
        return self.growth.low_bytes_per_s > 0


class Courses:
    """The courses of one watch."""

    def __init__(self) -> None:
        self._place: dict[str, int] = {}
        self._times: list[float] = []
        self._values: list[list[float]] = []
        self._newest: tuple[float, list[float]] | None = None
        self._stride = 1
        self._n_seen = 0

    def __len__(self) -> int:
        return len(self._moments())

    def add(self, elapsed_s: float, values: Mapping[str, float]) -> None:
        """Take the totals of a moment, later than the one before; a total that is missing is 0."""
        for name in values:
            if name not in self._place and len(self._place) < MAX_NAMES:
                self._place[name] = len(self._place)
        row = [float(values.get(name, 0.0)) for name in self._place]
        self._newest = elapsed_s, row
        if self._n_seen % self._stride == 0:
            self._times.append(elapsed_s)
            self._values.append(row)
            if len(self._times) > MAX_MOMENTS:
                del self._times[1::2], self._values[1::2]
                self._stride *= 2
        self._n_seen += 1

    def rows(self) -> list[Row]:
        """All totals, the fastest growth first."""
        moments = self._moments()
        if not moments:
            return []
        table: Floats = np.zeros((len(self._place), len(moments)))
        for column, (_, values) in enumerate(moments):
            table[: len(values), column] = values
        return rows_of(list(self._place), [elapsed_s for elapsed_s, _ in moments], table)

    def course(self, name: str) -> list[tuple[float, int]]:
        """(seconds, bytes) of one total, in order of time; empty where there is none."""
        place = self._place.get(name)
        if place is None:
            return []
        return [(elapsed_s, round(row[place])) for elapsed_s, row in self._moments() if place < len(row)]

    def _moments(self) -> list[tuple[float, list[float]]]:
        moments = list(zip(self._times, self._values, strict=True))
        if self._newest is not None and self._newest[0] not in self._times[-1:]:
            moments.append(self._newest)
        return moments


def rows_of(names: list[str], elapsed_s: list[float], n_bytes: Floats, n_blocks: Floats | None = None) -> list[Row]:
    """Totals with their growth, the fastest first.

    Args:
        names: One a row.
        elapsed_s: One a column, in order; at least one.
        n_bytes: The totals.
        n_blocks: The same in blocks; None where they do not consist of blocks.
    """
    if not names:
        return []
    growths = measure(course_curves(elapsed_s, n_bytes, n_blocks))
    rows = [
        Row(name, float(values[0]), float(values[-1]), growth)
        for name, values, growth in zip(names, n_bytes, growths, strict=True)
    ]
    return sorted(rows, key=_order)


def _order(row: Row) -> tuple[float, float, float]:
    """Certain growth first, then what gained most, then what holds most."""
    return -max(0.0, row.growth.low_bytes_per_s), row.first_bytes - row.last_bytes, -row.last_bytes
