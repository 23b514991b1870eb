"""Blocks in the caches of jemalloc's threads: the program freed them, the extents count them as in use.

Scope: stacks of freed blocks, found by the shape of what describes them. A thread's ``tcache_t`` has an array of bins;
each bin says where the top of its stack is and, in 16 bits each, how low it was, where it is full and where empty.

Source: include/jemalloc/internal/cache_bin.h of jemalloc 5.3 (struct cache_bin_s: 24 bytes; stacks grow downwards).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from nativeleak.heaps.memory import WORD_BYTES, Flags, HeapError, HeapMemory, Places, Words

_BIN_WORDS: Final = 3
_PART_BYTES: Final = 4 << 20
_MAX_STACK_BYTES: Final = 0x8000
_16_BITS: Final = np.uint64(0xFFFF)


class Caches(NamedTuple):
    """What the caches hold.

    Attributes:
        blocks: Addresses of blocks that the program freed, ascending.
        stacks: (start, end) of the stacks, which also hold addresses that were taken out again.
    """

    blocks: Places
    stacks: tuple[tuple[int, int], ...]


def find_caches(memory: HeapMemory, ranges: Sequence[tuple[int, int]], extents: Sequence[tuple[int, int]]) -> Caches:
    """All stacks of freed blocks.

    Args:
        memory: Of the process.
        ranges: (start, end) of anonymous memory, in address order.
        extents: (start, end) of pages that hold blocks, in address order: bins are elsewhere.
    """
    lows = np.array([low for low, _ in ranges], np.uint64)
    highs = np.array([high for _, high in ranges], np.uint64)
    firsts = np.array([low for low, _ in extents], np.uint64)
    lasts = np.array([high for _, high in extents], np.uint64)
    blocks: set[int] = set()
    stacks: set[tuple[int, int]] = set()
    for start, end in _gaps(ranges, extents):
        for low, high in memory.present_runs(start, end):
            for part in range(max(low, start), min(high, end), _PART_BYTES):
                stop = min(high, end, part + _PART_BYTES)
                window = memory.window(part, stop)
                words = window.words[(part - window.start) // WORD_BYTES :]
                for index in np.flatnonzero(_fits(words, lows, highs)).tolist():
                    stack = _stack(words, index)
                    found = _blocks_of(memory, int(words[index]), stack[1], firsts, lasts)
                    if found is not None:
                        blocks.update(found)
                        stacks.add(stack)
    return Caches(np.array(sorted(blocks), np.int64), tuple(sorted(stacks)))


def _gaps(ranges: Sequence[tuple[int, int]], extents: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    gaps = []
    ordered = sorted(extents)
    place = 0
    for start, end in ranges:
        at = start
        while place < len(ordered) and ordered[place][1] <= start:
            place += 1
        index = place
        while index < len(ordered) and ordered[index][0] < end:
            if ordered[index][0] > at:
                gaps.append((at, ordered[index][0]))
            at = max(at, ordered[index][1])
            index += 1
        if at < end:
            gaps.append((at, end))
    return gaps


def _fits(words: Words, lows: Words, highs: Words) -> Flags:
    """Where a bin can begin: an address in anonymous memory between full and empty; so does the next bin, or the last.

    A bin alone is not believed.
    """
    n_words = len(words) - _BIN_WORDS
    if n_words <= 0:
        return np.zeros(0, np.bool_)
    heads, bits = words[:n_words], words[2 : 2 + n_words]
    full, empty = bits >> np.uint64(16) & _16_BITS, bits >> np.uint64(32) & _16_BITS
    low_water = bits & _16_BITS
    room = empty - full & _16_BITS
    index = np.searchsorted(lows, heads, side="right").astype(np.int64) - 1
    fits = (index >= 0) & (heads < highs[np.clip(index, 0, None)]) & (heads & np.uint64(7) == 0)
    fits &= (bits >> np.uint64(48) == 0) & (room > 0) & (room < _MAX_STACK_BYTES) & (room & np.uint64(7) == 0)
    fits &= ((heads & _16_BITS) - full & _16_BITS) <= room
    fits &= (low_water - full & _16_BITS) <= room
    has_neighbour = np.zeros(n_words, np.bool_)
    has_neighbour[:-_BIN_WORDS] |= fits[_BIN_WORDS:]
    has_neighbour[_BIN_WORDS:] |= fits[:-_BIN_WORDS]
    return np.asarray(fits & has_neighbour, np.bool_)


def _stack(words: Words, index: int) -> tuple[int, int]:
    """(start, end) of the stack of a bin."""
    head, bits = int(words[index]), int(words[index + 2])
    start = head - ((head - (bits >> 16)) & 0xFFFF)
    return start, start + ((bits >> 32) - (bits >> 16) & 0xFFFF)


def _blocks_of(memory: HeapMemory, head: int, end: int, lows: Words, highs: Words) -> list[int] | None:
    """Addresses from the top of a stack to its bottom; None where one of them is no block's."""
    if head == end:
        return []
    try:
        addresses = memory.words(head, (end - head) // WORD_BYTES)
    except HeapError:
        return None
    index = np.searchsorted(lows, addresses, side="right").astype(np.int64) - 1
    if ((index < 0) | (addresses >= highs[np.clip(index, 0, None)])).any():
        return None
    return [int(address) for address in addresses.tolist()]
