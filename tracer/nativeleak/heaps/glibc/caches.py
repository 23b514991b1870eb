"""Blocks that the program freed and glibc keeps aside: the threads' caches and the fast lists.

Source: malloc/malloc.c (tcache_perthread_struct, tcache_entry, REVEAL_PTR); caches since 2.26, a mark in each cached
block since 2.29 (the cache's address, since 2.34 one random word of the process), mangled links since 2.32.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from nativeleak.heaps.memory import WORD_BYTES, HeapError, HeapMemory, Places, Words

CACHED_MAX_BYTES: Final = 0x410
"""Largest chunk that a cache keeps unless a tunable says otherwise."""
FAST_MAX_BYTES: Final = 0x80

_SEARCH_BYTES: Final = 1 << 20
_N_BINS: Final = 64
_N_BINS_242: Final = 76
# Size of the chunk that holds a cache -> (bytes of a counter, bins).
_CACHES: Final = {0x250: (1, _N_BINS), 0x290: (2, _N_BINS), 0x300: (2, _N_BINS_242)}
_MAX_COUNT: Final = 127
_MIN_KEY: Final = 1 << 32
_MAX_LIST: Final = 2_000_000


@dataclass(frozen=True, slots=True)
class Cached:
    """The difference between cached blocks and blocks in use.

    Attributes:
        marks: Second words of the user's part of cached blocks: the random word, or the caches' addresses.
        addresses: Users' addresses of cached blocks, where glibc marks none.
        n_caches: Caches found with something in them.
    """

    marks: frozenset[int] = frozenset()
    addresses: frozenset[int] = frozenset()
    n_caches: int = 0


@dataclass(frozen=True, slots=True)
class _Cache:
    """One tcache_perthread_struct: address, (first block, size of chunk) of its lists, marks of the first blocks."""

    address: int
    firsts: tuple[tuple[int, int], ...]
    marks: tuple[int, ...]


def find_cached(memory: HeapMemory, heaps: Sequence[tuple[int, int]], libc_data: Words) -> Cached:
    """How this glibc marks cached blocks.

    Args:
        memory: Of the process.
        heaps: (start, end) of chunks, where caches are looked for at the beginning.
        libc_data: Writable data of libc, which holds the random word.
    """
    caches = [cache for start, end in heaps for cache in _caches_in(memory, start, min(end, start + _SEARCH_BYTES))]
    if not caches:
        return Cached()
    votes = Counter(mark for cache in caches for mark in cache.marks if mark >= _MIN_KEY)
    own = sum(votes[cache.address] for cache in caches)
    if own > sum(votes.values()) / 2:
        return Cached(frozenset(cache.address for cache in caches), n_caches=len(caches))
    in_libc = [mark for mark, _ in votes.most_common(16) if (libc_data == np.uint64(mark)).any()]
    if in_libc:
        return Cached(frozenset(in_libc[:1]), n_caches=len(caches))
    listed = frozenset(block for cache in caches for first, _ in cache.firsts for block in _list(memory, first))
    return Cached(addresses=listed, n_caches=len(caches))


def _caches_in(memory: HeapMemory, start: int, end: int) -> list[_Cache]:
    window = memory.window(start, end)
    sizes = window.words[1::2] & np.uint64(0xFFFF_FFFF_FFFF_FFF8)
    found = []
    for n_bytes, (count_bytes, n_bins) in _CACHES.items():
        for index in np.flatnonzero(sizes == n_bytes).tolist():
            cache = _cache_at(memory, window.start + 16 * index + 16, count_bytes, n_bins)
            if cache is not None:
                found.append(cache)
    return found


def _cache_at(memory: HeapMemory, address: int, count_bytes: int, n_bins: int) -> _Cache | None:
    """The cache at an address; None where its counters and lists disagree, or nothing is in it."""
    count_words = n_bins * count_bytes // WORD_BYTES
    try:
        words = memory.words(address, count_words + n_bins)
    except HeapError:
        return None
    raw = words[:count_words]
    counts: Places = (raw.view(np.uint8) if count_bytes == 1 else raw.view(np.uint16))[:n_bins].astype(np.int64)
    entries = words[count_words : count_words + n_bins]
    if not entries.any() or (entries & np.uint64(15)).any():
        return None
    # Since 2.42 the counters say how many more fit, so that they tell nothing of empty lists.
    if n_bins == _N_BINS and (((counts > 0) != (entries > 0)).any() or counts.max() > _MAX_COUNT):
        return None
    firsts, marks = [], []
    for index in np.flatnonzero(entries).tolist():
        block = int(entries[index])
        try:
            size, _, mark = memory.words(block - WORD_BYTES, 3).tolist()
        except HeapError:
            return None
        if n_bins == _N_BINS and size & ~7 != 32 + 16 * index:
            return None
        firsts.append((block, size & ~7))
        marks.append(mark)
    return _Cache(address, tuple(firsts), tuple(marks))


def _list(memory: HeapMemory, first: int) -> list[int]:
    """Users' addresses of the blocks of one cache's list, whose links are plain before 2.32."""
    blocks: list[int] = []
    block = first
    while block and len(blocks) < _MAX_COUNT and block not in blocks:
        blocks.append(block)
        try:
            block = memory.words(block, 1).tolist()[0]
        except HeapError:
            break
        if block % 16:
            break
    return blocks


def fast_chunks(memory: HeapMemory, heads: Sequence[int]) -> frozenset[int]:
    """Addresses of the chunks in an arena's fast lists; a list that moves meanwhile ends early."""
    found: set[int] = set()
    for head in heads:
        chunk = head
        while chunk and not chunk % 16 and chunk not in found and len(found) < _MAX_LIST:
            try:
                size, link = memory.words(chunk + WORD_BYTES, 2).tolist()
            except HeapError:
                break
            if not 0x20 <= size & ~7 <= FAST_MAX_BYTES:
                break
            found.add(chunk)
            revealed = link ^ (chunk + 16) >> 12
            # A plain link to a chunk is no mangled one: it would come out with bits below 16 set, or far away.
            chunk = revealed if revealed == 0 or _is_near(revealed, chunk) else link
    return frozenset(found)


def _is_near(address: int, chunk: int) -> bool:
    return address % 16 == 0 and address >> 36 == chunk >> 36
