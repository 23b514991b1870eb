"""Owners of addresses: what is known of an address before the kernel's list of mappings is looked at.

Scope: intervals that do not overlap; who comes first keeps a range.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from typing import NamedTuple


class Owner(NamedTuple):
    """A range of addresses that belongs to somebody.

    Attributes:
        start: First address.
        end: First address behind it.
        line: Id of the line that it goes to.
        name: What it is, for people.
    """

    start: int
    end: int
    line: str
    name: str


class Owners:
    """Ranges of addresses by owner, in address order."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._owners: list[Owner] = []

    def add(self, start: int, end: int, line: str, name: str = "") -> None:
        """Give what is still free of a range to an owner."""
        for low, high in list(self.free(start, end)):
            place = bisect.bisect_left(self._starts, low)
            self._starts.insert(place, low)
            self._owners.insert(place, Owner(low, high, line, name))

    def free(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """The parts of a range that belong to nobody."""
        for owner in self.inside(start, end):
            if owner.start > start:
                yield start, owner.start
            start = max(start, owner.end)
        if start < end:
            yield start, end

    def inside(self, start: int, end: int) -> list[Owner]:
        """Owners of any part of a range, in address order."""
        place = bisect.bisect_right(self._starts, start)
        if place and self._owners[place - 1].end > start:
            place -= 1
        return self._owners[place : bisect.bisect_left(self._starts, end)]

    def ranges(self) -> list[tuple[int, int]]:
        """(start, end) of all, in address order."""
        return [(owner.start, owner.end) for owner in self._owners]
