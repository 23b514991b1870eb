"""The chain of chunks of a glibc heap, and what each is.

Scope: one range of addresses at a time, read in windows. The target runs meanwhile: a window whose chain breaks is
read again, then the chain is found again behind the break, and what lies between is counted as unread.

Source: malloc/malloc.c (struct malloc_chunk): the second word of a chunk is its size and three flags; a chunk is in
use when the next one says so; the first word of the next one repeats the size of a free one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from nativeleak.heaps.blocks import BlockList
from nativeleak.heaps.census import Census
from nativeleak.heaps.glibc.caches import CACHED_MAX_BYTES, FAST_MAX_BYTES, Cached
from nativeleak.heaps.memory import Flags, HeapError, HeapMemory, Places, Window, Words
from nativeleak.process.procfs import PAGE_BYTES

WINDOW_BYTES: Final = 4 << 20
USER_OFFSET: Final = 16
"""From a chunk's header to the program's address. A block's last word lies in the next chunk's header."""

_MIN_WORDS: Final = 4
_FENCE_BYTES: Final = 16
_HEAP_END_BYTES: Final = 64  # what two fences and the rest of a full heap take
_MAX_READS: Final = 4
_USER_BYTES: Final = 16  # from a chunk to what the user gets
_LARGE_BYTES: Final = 128 << 10  # DEFAULT_MMAP_THRESHOLD
_SIZE: Final = np.uint64(0xFFFF_FFFF_FFFF_FFF0)
_IN_USE: Final = np.uint64(1)
_MAPPED_OR_ODD: Final = 2 | 8
_CHAIN_LENGTH: Final = 8
_MAX_CHAIN_BYTES: Final = 64 << 20
_SEARCH_BYTES: Final = 1 << 30
_RESYNC_WORDS: Final = 1 << 16


@dataclass(slots=True)
class ChunkWalk:
    """Walks the ranges of one arena.

    Attributes:
        memory: Of the process.
        top: Address of the arena's top chunk.
        cached: Marks of cached blocks.
        fast: Addresses of chunks in fast lists.
        is_main: It is the main arena, whose top malloc_trim gives back too.
        census: What was found so far.
        blocks: Where blocks in use are added one by one; None where only their census is wanted.
        on_used: Gets the users' addresses of the blocks in use of each window.
        on_unread: Gets (start, end) of what was passed over.
    """

    memory: HeapMemory
    top: int
    cached: Cached
    fast: frozenset[int]
    is_main: bool
    census: Census = field(default_factory=Census)
    blocks: BlockList | None = None
    on_used: Callable[[Places], None] | None = None
    on_unread: Callable[[int, int], None] | None = None

    def walk(self, start: int, end: int) -> None:
        """Count the chunks of a range; ``start`` is the first one's address."""
        place = start
        while place + _FENCE_BYTES <= end:
            high = min(end, place + WINDOW_BYTES)
            window, positions, stop, is_broken = self._read(place, high, end)
            if len(positions):
                self._count(window, positions, end)
            place = window.start + 8 * stop
            if is_broken:
                place = self._after_break(window, stop, high, end)

    def _read(self, place: int, high: int, end: int) -> tuple[Window, Places, int, bool]:
        """A window and the chunks in it; read again while the chain breaks or a large chunk changes."""
        for _ in range(_MAX_READS):
            window = self.memory.window(place, high)
            first = (place - window.start) // 8
            n_words = first + (high - place) // 8
            positions, stop, is_broken = _chain(window.words, first, n_words, first + (end - place) // 8)
            is_odd = is_broken and not self._is_end(window, stop, end)
            if not is_odd and not self._is_stale(window, positions):
                break
        return window, positions, stop, is_broken

    def _is_stale(self, window: Window, positions: Places) -> bool:
        """Whether a large chunk has another size by now: an old top's size makes one jump over thousands of chunks."""
        sizes = window.words[positions + 1]
        for position in positions[sizes >= np.uint64(_LARGE_BYTES)].tolist():
            address = window.start + 8 * position
            try:
                now = self.memory.words(address + 8, 1)[0]
            except HeapError:
                continue
            if now & _SIZE != window.words[position + 1] & _SIZE and address != self.top:
                return True
        return False

    @staticmethod
    def _is_end(window: Window, stop: int, end: int) -> bool:
        """Whether the chain ends there as it ends in a heap that is full: with fences."""
        size = int(window.words[stop + 1]) & ~7 if stop + 1 < len(window.words) else 0
        return size == _FENCE_BYTES or (size == 0 and end - (window.start + 8 * stop) <= _HEAP_END_BYTES)

    def _after_break(self, window: Window, stop: int, high: int, end: int) -> int:
        """Where the walk goes on; fences are no break."""
        address = window.start + 8 * stop
        if self._is_end(window, stop, end):
            following = end if end - address <= _HEAP_END_BYTES else address + _FENCE_BYTES
            self.census.header_bytes += following - address
            return following
        self.census.n_breaks += 1
        resident = self._next_resident(address, end)
        if resident > address:  # swapped out, or given back behind malloc's back: no chunk can be seen there
            window, stop = self.memory.window(resident, min(end, resident + WINDOW_BYTES)), -2
            high = min(end, window.end)
        n_words = (high - window.start) // 8
        found = _next_chain(window.words, stop, n_words)
        following = high if found is None else window.start + 8 * found
        self.census.unread_bytes += following - address
        if self.blocks is not None:
            self.blocks.unread.append((address, following))
        if self.on_unread is not None:
            self.on_unread(address, following)
        return following

    def _next_resident(self, address: int, end: int) -> int:
        """``address`` itself where its page is resident, else the first later page that is; ``end`` without any."""
        for low in range(address, end, _SEARCH_BYTES):
            runs = self.memory.present_runs(low, min(end, low + _SEARCH_BYTES))
            if runs:
                return max(address, runs[0][0])
        return end

    def _count(self, window: Window, positions: Places, end: int) -> None:
        """Tell the states of the chunks of a window apart and count them."""
        words, census = window.words, self.census
        sizes = (words[positions + 1] & _SIZE).astype(np.int64)
        addresses = window.start + 8 * positions
        next_sizes, previous_sizes = self._next_words(window, positions + sizes // 8, end)
        is_live = next_sizes & _IN_USE == 1
        is_top = addresses == self.top
        is_free = ~is_live & ~is_top
        is_live &= ~is_top
        is_cached = is_live & self._is_cached(words, positions, sizes, addresses)
        is_fast = is_live & ~is_cached & (sizes <= FAST_MAX_BYTES)
        if self.fast:
            is_fast &= np.isin(addresses, np.fromiter(self.fast, np.int64, len(self.fast)))
        else:
            is_fast[:] = False
        is_used = is_live & ~is_cached & ~is_fast
        if self.on_used is not None:
            self.on_used(addresses[is_used] + _USER_BYTES)
        for amount, mask in (
            (census.in_use, is_used), (census.free, is_free), (census.cached, is_cached), (census.fast, is_fast),
        ):  # fmt: skip
            amount.add(int(mask.sum()), int(sizes[mask].sum()))
        census.n_torn += int((is_free & (previous_sizes.astype(np.int64) != sizes)).sum())
        census.top_bytes += int(sizes[is_top].sum())
        if self.blocks is not None:
            starts = addresses[is_used] + USER_OFFSET
            self.blocks.add(starts, starts + sizes[is_used])
        values, counts = np.unique(sizes[is_used], return_counts=True)
        census.sizes.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
        self._count_residency(window, addresses, sizes, is_cached | is_fast | is_free | is_top, is_free | is_top)

    def _next_words(self, window: Window, following: Places, end: int) -> tuple[Words, Words]:
        """Second and first word of the chunk behind each; those behind the window are read on their own."""
        n_words = len(window.words)
        is_inside = following + 1 < n_words
        sizes = np.ones(len(following), np.uint64)
        previous = np.zeros(len(following), np.uint64)
        sizes[is_inside] = window.words[following[is_inside] + 1]
        previous[is_inside] = window.words[following[is_inside]]
        for index in np.flatnonzero(~is_inside).tolist():
            address = window.start + 8 * int(following[index])
            if address + _FENCE_BYTES > end:
                continue
            try:
                previous[index], sizes[index] = self.memory.words(address, 2)
            except HeapError:
                continue
        return sizes, previous

    def _is_cached(self, words: Words, positions: Places, sizes: Places, addresses: Places) -> Flags:
        if self.cached.marks:
            marks = np.zeros(len(positions), np.uint64)
            is_inside = positions + 3 < len(words)
            marks[is_inside] = words[positions[is_inside] + 3]
            found = np.isin(marks, np.fromiter(self.cached.marks, np.uint64, len(self.cached.marks)))
            return found & (sizes <= CACHED_MAX_BYTES)
        if self.cached.addresses:
            known = np.fromiter(self.cached.addresses, np.int64, len(self.cached.addresses))
            return np.isin(addresses + 16, known)
        return np.zeros(len(positions), np.bool_)

    def _count_residency(
        self, window: Window, addresses: Places, sizes: Places,
        is_retained: Flags,
        is_whole: Flags,
    ) -> None:  # fmt: skip
        """Resident bytes of what is retained, and of its whole pages what malloc_trim gives back."""
        ends = addresses + sizes
        self.census.retained_resident_bytes += self._resident(window, addresses[is_retained], ends[is_retained])
        is_trimmed = is_whole if self.is_main else is_whole & (addresses != self.top)
        # mtrim() keeps the page that holds the chunk's header and links.
        first = -(-(addresses[is_trimmed] + 48) // PAGE_BYTES) * PAGE_BYTES
        last = ends[is_trimmed] // PAGE_BYTES * PAGE_BYTES
        has_pages = last > first
        self.census.trimmable_bytes += self._resident(window, first[has_pages], last[has_pages])

    def _resident(self, window: Window, starts: Places, ends: Places) -> int:
        n_bytes = int((window.resident_below(ends) - window.resident_below(starts)).sum())
        for start, end in zip(starts[ends > window.end].tolist(), ends[ends > window.end].tolist(), strict=True):
            n_bytes += self.memory.resident_bytes(max(start, window.end), end)
        return n_bytes


def _chain(words: Words, first: int, n_words: int, limit: int) -> tuple[Places, int, bool]:
    """Places of the chunks of a window, where it ends, and whether it broke there.

    Args:
        words: Of the window.
        first: Place of the first chunk.
        n_words: Words of the window.
        limit: Words up to the end of the range; no chunk reaches beyond.
    """
    positions: list[int] = []
    append = positions.append
    view = memoryview(words.data)
    place = first
    is_broken = False
    while place + 1 < n_words:
        size = view[place + 1] >> 4 << 1
        if size < _MIN_WORDS or size > limit - place:
            is_broken = True
            break
        append(place)
        place += size
    return np.array(positions, np.int64), place, is_broken


def _next_chain(words: Words, place: int, n_words: int) -> int | None:
    """The first later place from which eight chunks follow each other and free ones repeat their size; None if none."""
    view = memoryview(words.data)
    for start in range(place + 2, min(n_words - 2, place + _RESYNC_WORDS), 2):
        at, n_chunks = start, 0
        while n_chunks < _CHAIN_LENGTH and at + 1 < n_words:
            word = view[at + 1]
            size = word >> 4 << 1
            if size < _MIN_WORDS or word & _MAPPED_OR_ODD or size * 8 > _MAX_CHAIN_BYTES:
                break
            following = at + size
            if following + 1 < n_words and not view[following + 1] & 1 and view[following] != size * 8:
                break
            at, n_chunks = following, n_chunks + 1
        if n_chunks >= _CHAIN_LENGTH or (at + 1 >= n_words and n_chunks >= 2):
            return start
    return None
