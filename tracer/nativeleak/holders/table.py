"""The blocks of a process as arrays, and the block that an address lies in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from nativeleak.heaps.memory import Places, Words
from nativeleak.process.procfs import PAGE_BYTES

Blocks: TypeAlias = npt.NDArray[np.uint32]
Bytes: TypeAlias = npt.NDArray[np.uint8]

NONE: Final = 0xFFFF_FFFF
"""No block, no label."""
SHARED: Final = 0xFFFF_FFFE
"""Several labels."""
LEFTOVER: Final = 0x8000_0000
"""Bit of a target in an edge: the pointer has the form of a link that a free list left behind."""
INTERIOR: Final = 1
"""Flag of a root: it does not point at its block's start."""
LINK: Final = 2
"""Flag of a root: it has the form of a link of a free list."""
MAX_BLOCKS: Final = LEFTOVER - 1


@dataclass(frozen=True, slots=True)
class BlockTable:
    """Blocks in use in address order, and an index over the pages of their allocators.

    Attributes:
        starts: First address of each.
        ends: First address behind each that is no pointer into it.
        span_starts: First page of each piece of the allocators' memory.
        span_ends: First address behind each.
        page_bases: Place of the first page of each in ``first_blocks``.
        first_blocks: For each page, and for the one behind a span: the first block that starts there or later.
        link_offset: See ``BlockList``.
    """

    starts: Words
    ends: Words
    span_starts: Words
    span_ends: Words
    page_bases: Places
    first_blocks: Blocks
    link_offset: int = 0
    _sizes: list[Words] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def sizes(self) -> Words:
        """Bytes of each as the allocator counts them."""
        if not self._sizes:
            self._sizes.append(self.ends - self.starts)
        return self._sizes[0]

    def look(self, values: Words) -> Places:
        """The block of each address; -1 for none."""
        index = np.searchsorted(self.starts, values, side="right").astype(np.int64) - 1
        if not len(self):
            return index
        return np.where((index >= 0) & (values < self.ends[np.clip(index, 0, None)]), index, -1)


def make_table(starts: Words, ends: Words, spans: list[tuple[int, int]], link_offset: int = 0) -> BlockTable:
    """Index blocks.

    Args:
        starts: In ascending order.
        ends: None of them behind the next start.
        spans: (start, end) of the allocators' memory; blocks outside of all are found by their own pages.
        link_offset: See ``BlockList``.
    """
    starts, ends = np.ascontiguousarray(starts[:MAX_BLOCKS]), np.ascontiguousarray(ends[:MAX_BLOCKS])
    merged = _merged(spans)
    bases, firsts, base = [], [], 0
    for low, high in merged:
        n_pages = (high - low) // PAGE_BYTES
        pages = np.uint64(low) + np.uint64(PAGE_BYTES) * np.arange(n_pages + 1, dtype=np.uint64)
        bases.append(base)
        firsts.append(np.searchsorted(starts, pages).astype(np.uint32))
        base += n_pages + 1
    return BlockTable(
        starts=starts,
        ends=ends,
        span_starts=np.array([low for low, _ in merged], np.uint64),
        span_ends=np.array([high for _, high in merged], np.uint64),
        page_bases=np.array(bases, np.int64),
        first_blocks=np.concatenate(firsts) if firsts else np.zeros(0, np.uint32),
        link_offset=link_offset,
    )


def _merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Whole pages, those that touch joined."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        low, high = start // PAGE_BYTES * PAGE_BYTES, -(-end // PAGE_BYTES) * PAGE_BYTES
        if high <= low:
            continue
        if merged and low <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(merged[-1][1], high)
        else:
            merged.append((low, high))
    return merged
