"""The blocks in use one by one, for those who need more than a census: where each begins and ends.

Scope: a list that walks fill as they go, and the memory that belongs to the allocator, in use or not.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

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
    _starts: list[Words] = field(default_factory=list)
    _ends: list[Words] = field(default_factory=list)

    def add(self, starts: Places, ends: Places) -> None:
        """Blocks: address that the program has, and the first one behind that counts as a pointer into the block."""
        self._starts.append(starts.astype(np.uint64))
        self._ends.append(ends.astype(np.uint64))

    def sorted(self) -> tuple[Words, Words]:
        """Starts and ends in address order; a block that reaches into the next one is cut short, doubles left out."""
        if not self._starts:
            return np.zeros(0, np.uint64), np.zeros(0, np.uint64)
        starts, ends = np.concatenate(self._starts), np.concatenate(self._ends)
        # Copies of a million blocks are most of our memory.
        self._starts, self._ends = [starts], [ends]
        if (starts[1:] <= starts[:-1]).any():
            order = np.lexsort((ends, starts))
            starts, ends = starts[order], ends[order]
            is_first = np.ones(len(starts), np.bool_)
            is_first[1:] = starts[1:] != starts[:-1]
            starts, ends = starts[is_first], ends[is_first]
            self._starts, self._ends = [starts], [ends]
        np.minimum(ends[:-1], starts[1:], out=ends[:-1])
        return starts, ends
