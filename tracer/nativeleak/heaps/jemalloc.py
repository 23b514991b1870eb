"""jemalloc 5.3 from outside: its extents, found by the shape of what describes them.

Scope: slabs of small regions, with the number in use, and large extents. Blocks in threads' caches count as in use, as
in jemalloc's own statistics. Pages that are kept for later use (dirty, muzzy) are what it retains.

Source: include/jemalloc/internal/edata.h of jemalloc 5.3 (struct edata_s: 128 bytes; e_bits: slab 12, state 17 to 19,
size class 20 to 27, free regions 28 to 37, first of its
mapping 44; the address; the size; from word 8 on the bitmap of free regions).
"""

from __future__ import annotations

import bisect
import re
from collections import Counter
from collections.abc import Sequence
from itertools import compress
from typing import Final

import numpy as np

from nativeleak.heaps.blocks import BlockList
from nativeleak.heaps.census import TABLES, ArenaCensus, Census, HeapWalk
from nativeleak.heaps.jemalloc_caches import Caches, find_caches
from nativeleak.heaps.memory import HeapError, HeapMemory, Places, Words
from nativeleak.process.procfs import PAGE_BYTES, MapEntry

_OBJECT: Final = re.compile(r"/libjemalloc[^/]*$")
_EXTENT_WORDS: Final = 16
_BITMAP: Final = slice(8, 16)
_ACTIVE, _N_STATES = 0, 6
_MIN_EXTENTS: Final = 8
_BASE_BYTES: Final = 2 << 20
_MAX_BASE_BYTES: Final = 1 << 30
_MAX_BASES: Final = 4096
_PART_BYTES: Final = 16 << 20
_SIZES: Final = tuple(
    sorted(
        {8, 16, 32, 48, 64} | {(1 << power) + (1 << power - 2) * step for power in range(6, 47) for step in range(1, 5)}
    )
)
_PAGE_MASK: Final = np.uint64(PAGE_BYTES - 1)


def has_jemalloc(maps: Sequence[MapEntry]) -> bool:
    """Whether its shared library is mapped."""
    return any(_OBJECT.search(entry.path) for entry in maps)


def walk_jemalloc(memory: HeapMemory, maps: Sequence[MapEntry], blocks: BlockList | None = None) -> HeapWalk:
    """Blocks of jemalloc.

    Args:
        memory: Of the process.
        maps: Its mappings.
        blocks: Where blocks in use are added one by one, without those in threads' caches.

    Raises:
        HeapError: The process has no such allocator, or one whose extents have another shape.
    """
    ranges = [(entry.start, entry.end) for entry in maps if entry.perms == "rw-p" and not entry.inode]
    ranges = [(start, end) for start, end in ranges if start < 1 << 47]
    extents, tables, records = _extents(memory, _joined(ranges))
    if len(extents) < _MIN_EXTENTS:
        raise HeapError("walking the heap failed: no extents of jemalloc 5.3 were found")
    census, kept = Census(), []
    extents = _without_overlaps(extents)
    caches = Caches(np.zeros(0, np.int64), ())
    if blocks is not None:
        caches = find_caches(memory, _joined(ranges), [(start, start + size) for start, size, _ in extents])
        blocks.headers += [*caches.stacks, *((at, at + 8 * _EXTENT_WORDS) for at in records)]
        blocks.headers += _base_blocks(memory, records)
    for start, size, extent in extents:
        bits = int(extent[0])
        if bits >> 17 & 7 != _ACTIVE:
            census.free.add(1, size)
            census.retained_resident_bytes += memory.resident_bytes(start, start + size)
            kept.append((start, start + size, "kept pages"))
            continue
        region = _SIZES[bits >> 20 & 255]
        kept.append((start, start + size, "extent"))
        if blocks is not None:
            _add_blocks(blocks, (start, size, extent), region, caches)
        if not bits >> 12 & 1:
            census.in_use.add(1, region)
            census.sizes[region] += 1
            census.header_bytes += max(0, size - region)
            continue
        n_regions, n_free = size // region, bits >> 28 & 1023
        census.in_use.add(n_regions - n_free, (n_regions - n_free) * region)
        census.sizes[region] += n_regions - n_free
        census.free.add(n_free, n_free * region)
        if n_free:
            census.retained_resident_bytes += min(n_free * region, memory.resident_bytes(start, start + size))
    census.sizes = Counter({size: count for size, count in census.sizes.items() if count})
    path = next((entry.path for entry in maps if _OBJECT.search(entry.path)), "")
    return HeapWalk(
        kind="jemalloc",
        object=path,
        arenas=(ArenaCensus("all", None, census),),
        mapped=Counter(),
        mapped_bytes=0,
        n_mapped=0,
        system_bytes=census.walked_bytes,
        ranges=(*kept, *_mappings_of(ranges, sorted([*tables, *(start for start, _, _ in kept)]))),
    )


def _base_blocks(memory: HeapMemory, records: Sequence[int]) -> list[tuple[int, int]]:
    """(start, end) of what jemalloc keeps its own data in: blocks of whole huge pages that begin with their size.

    Source: include/jemalloc/internal/base.h of jemalloc 5.3 (struct base_block_s).
    """
    found: dict[int, int] = {}
    for start in {at // _BASE_BYTES * _BASE_BYTES for at in records}:
        place = start
        while place and place not in found and len(found) < _MAX_BASES:
            try:
                size, following = memory.words(place, 2).tolist()
            except HeapError:
                break
            if not 0 < size <= _MAX_BASE_BYTES or size % _BASE_BYTES or following % PAGE_BYTES:
                break
            found[place] = place + size
            place = following
    return list(found.items())


def _add_blocks(blocks: BlockList, place: tuple[int, int, Words], region: int, caches: Caches) -> None:
    """The blocks of an extent in use. A large one may be followed by a page that no block has.

    A thread's cache takes memory for its stacks as if it were the program.
    """
    start, size, extent = place
    blocks.spans.append((start, start + size))
    own = [low for low, _ in caches.stacks if start <= low < start + size]
    if not int(extent[0]) >> 12 & 1:
        first = int(extent[1])  # a random multiple of 64 inside of the first page
        if not own:
            blocks.add(np.array([first], np.int64), np.array([max(first + region, start + size)], np.int64))
        return
    n_regions = size // region
    is_free = np.unpackbits(extent[_BITMAP].view(np.uint8), bitorder="little")[:n_regions]
    starts = start + region * np.flatnonzero(is_free == 0).astype(np.int64)
    here = caches.blocks[slice(*np.searchsorted(caches.blocks, [start, start + size]))]
    if len(here) or own:
        starts = starts[~np.isin(starts, [*here.tolist(), *((low - start) // region * region + start for low in own)])]
    blocks.add(starts, starts + region)


def _joined(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges that touch as one: an extent may lie in two mappings."""
    joined: list[tuple[int, int]] = []
    for start, end in ranges:
        if joined and joined[-1][1] == start:
            joined[-1] = joined[-1][0], end
        else:
            joined.append((start, end))
    return joined


def _mappings_of(ranges: Sequence[tuple[int, int]], places: Sequence[int]) -> list[tuple[int, int, str]]:
    """The mappings that hold extents or their descriptions: what lies between is jemalloc's too."""
    found = []
    for start, end in ranges:
        index = bisect.bisect_left(places, start)
        if index < len(places) and places[index] < end:
            found.append((start, end, TABLES))
    return found


def _extents(
    memory: HeapMemory, ranges: Sequence[tuple[int, int]]
) -> tuple[list[tuple[int, int, Words]], list[int], list[int]]:
    """(start, size, words) of all that has the shape of a description; where some of these lie, and where all do."""
    tables, records = [], []
    lows = np.array([low for low, _ in ranges], np.uint64)
    highs = np.array([high for _, high in ranges], np.uint64)
    found = []
    for start, end in ranges:
        for low, high in memory.present_runs(start, end):
            for part in range(low, high, _PART_BYTES):
                words = memory.window(part, min(high, part + _PART_BYTES)).words.reshape(-1, _EXTENT_WORDS)
                rows = np.flatnonzero(_fits(words, lows, highs))
                tables += [part + 8 * _EXTENT_WORDS * int(row) for row in rows[:1]]
                found += [(int(row[1] & ~_PAGE_MASK), int(row[2] & ~_PAGE_MASK), row.copy()) for row in words[rows]]
                records += [part + 8 * _EXTENT_WORDS * row for row in rows.tolist()]
    is_sound = [_is_sound(*each) for each in found]
    # Descriptions that are not in use keep an old address: they are jemalloc's too.
    return list(compress(found, is_sound)), tables, records


def _fits(words: Words, lows: Words, highs: Words) -> Places:
    """Rows that can be a description: page-aligned address and size inside one mapping, a known class and state."""
    bits, address, size = words[:, 0], words[:, 1], words[:, 2] & ~_PAGE_MASK
    is_slab = bits >> np.uint64(12) & np.uint64(1)
    state = bits >> np.uint64(17) & np.uint64(7)
    size_class = bits >> np.uint64(20) & np.uint64(255)
    # Large extents begin at a random multiple of 64 inside of their first page.
    is_place = ((address & _PAGE_MASK) == 0) | ((is_slab == 0) & ((address & np.uint64(63)) == 0))
    is_known = (size_class < len(_SIZES)) | (state != _ACTIVE)  # kept pages have no class
    fits = is_place & (state < _N_STATES) & is_known & (size > 0) & (bits >> np.uint64(45) == 0)
    index = np.searchsorted(lows, address, side="right").astype(np.int64) - 1
    inside = (index >= 0) & (address + size - np.uint64(1) < highs[np.clip(index, 0, None)])
    return np.asarray(fits & inside, np.int64)


def _is_sound(start: int, size: int, extent: Words) -> bool:
    """Whether the numbers of a description agree: a slab's free regions with its bitmap, a large one's class."""
    bits = int(extent[0])
    if bits >> 17 & 7 != _ACTIVE:
        return bits >> 12 & 1 == 0
    size_class = bits >> 20 & 255
    if size_class >= len(_SIZES) or not start:
        return False
    region = _SIZES[size_class]
    if not bits >> 12 & 1:
        return PAGE_BYTES < region <= size and size - region <= region // 2 + 2 * PAGE_BYTES
    n_regions, n_free = size // region, bits >> 28 & 1023
    n_bits = sum(int(word).bit_count() for word in extent[_BITMAP])
    return size % region == 0 and n_regions <= 512 and n_free <= min(n_regions, n_bits)


def _without_overlaps(extents: Sequence[tuple[int, int, Words]]) -> list[tuple[int, int, Words]]:
    """Extents in address order; of two that overlap the slab is believed, whose bitmap was checked."""
    slabs = [each for each in extents if int(each[2][0]) >> 12 & 1]
    others = [each for each in extents if not int(each[2][0]) >> 12 & 1]
    kept: list[tuple[int, int, Words]] = []
    taken: list[tuple[int, int]] = sorted((start, start + size) for start, size, _ in slabs)
    starts = np.array([start for start, _ in taken], np.int64)
    ends = np.array([end for _, end in taken], np.int64)
    for start, size, extent in others:
        index = int(np.searchsorted(starts, start + size, side="left")) - 1
        if index < 0 or ends[index] <= start:
            kept.append((start, size, extent))
    found: list[tuple[int, int, Words]] = []
    for each in sorted([*slabs, *kept], key=lambda each: (each[0], each[1])):
        if not found or found[-1][0] + found[-1][1] <= each[0]:
            found.append(each)
    return found
