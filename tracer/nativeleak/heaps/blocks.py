"""The blocks in use one by one, for those who need more than a census: where each begins and ends.

Scope: a list that walks fill as they go, and the memory that belongs to the allocator, in use or not.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from nativeleak.arrays import GrowingColumn
from nativeleak.heaps.memory import Places, Words


@dataclass(slots=True)
class BlockList:
    """Blocks in use of one allocator; a walk adds to it.

    Attributes:
        headers: (start, end) of the allocator's own tables, whose words hold nothing for the program.
        spans: (start, end) of memory that the allocator hands out, in use or not.
        unread: (start, end) of memory that could not be read as blocks: what is in it may point at others.
        link_offset: Bytes back from a block's end to the place that links of free chunks point at; 0 for none.
    """

    headers: list[tuple[int, int]] = field(default_factory=list)
    spans: list[tuple[int, int]] = field(default_factory=list)
    unread: list[tuple[int, int]] = field(default_factory=list)
    link_offset: int = 0
    _starts: GrowingColumn[np.uint64] = field(default_factory=lambda: GrowingColumn(np.uint64))
    _ends: GrowingColumn[np.uint64] = field(default_factory=lambda: GrowingColumn(np.uint64))

    def add(self, starts: Places, ends: Places) -> None:
        """Blocks: address that the program has, and the first one behind that counts as a pointer into the block."""
        self._starts.add(starts)
        self._ends.add(ends)

    def take(self) -> tuple[Words, Words]:
        """Starts and ends in address order; a block that reaches into the next one is cut short, doubles left out.

        The list is empty afterwards.
        """
        starts, ends = self._starts.take(), self._ends.take()
        if (starts[1:] <= starts[:-1]).any():
            order = np.argsort(starts, kind="stable")
            starts = starts[order]
            ends = ends[order]
            if (starts[1:] == starts[:-1]).any():
                order = np.lexsort((ends, starts))
                starts, ends = starts[order], ends[order]
                is_first = np.ones(len(starts), np.bool_)
                is_first[1:] = starts[1:] != starts[:-1]
                starts, ends = starts[is_first], ends[is_first]
            del order
        np.minimum(ends[:-1], starts[1:], out=ends[:-1])
        return starts, ends
