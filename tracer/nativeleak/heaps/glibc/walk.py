"""The walk of glibc's malloc: arenas, caches, chunks, mapped blocks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from nativeleak.heaps.blocks import BlockList
from nativeleak.heaps.census import ArenaCensus, HeapWalk
from nativeleak.heaps.glibc.caches import Cached, fast_chunks, find_cached
from nativeleak.heaps.glibc.chunks import USER_OFFSET, ChunkWalk
from nativeleak.heaps.glibc.mapped import find_mapped
from nativeleak.heaps.glibc.state import HEAP_MAX_BYTES, Arena, Glibc, find_glibc
from nativeleak.heaps.memory import HeapError, HeapMemory, Places
from nativeleak.process.procfs import MapEntry

_SIZE: Final = ~0xF
_MAX_GROWTH_BYTES: Final = 1 << 30


def walk_glibc(
    memory: HeapMemory,
    maps: Sequence[MapEntry],
    exe: str,
    taken: Sequence[tuple[int, int]] = (),
    blocks: BlockList | None = None,
) -> HeapWalk:
    """Blocks of glibc's malloc.

    Args:
        memory: Of the process.
        maps: Its mappings.
        exe: Path of its executable.
        taken: (start, end) of memory that is known to belong to somebody else, such as a Java heap.
        blocks: Where blocks in use are added one by one.

    Raises:
        HeapError: There is no such allocator in the process, or it cannot be understood.
    """
    glibc = find_glibc(memory, maps, exe)
    notes: list[str] = []
    ranges = {arena.start: _chunk_ranges(memory, arena, glibc, maps, notes) for arena in glibc.arenas}
    chunks = [each for parts in ranges.values() for each in parts]
    cached = find_cached(memory, chunks, memory.window(*glibc.data).words)
    arenas = tuple(_walk_arena(memory, arena, ranges[arena.start], cached, blocks) for arena in glibc.arenas)
    counted = glibc.parameters
    heaps = [(start, start + HEAP_MAX_BYTES) for arena in glibc.arenas for start, _ in arena.heaps]
    main = [(start, end) for start, end in ranges[glibc.arenas[0].start]]
    n_expected = counted.n_mapped if counted else None
    mapped = find_mapped(memory, maps, sorted([*taken, *heaps, *main]), n_expected) if n_expected != 0 else []
    if counted and len(mapped) != counted.n_mapped:
        notes.append(f"glibc counts {counted.n_mapped} blocks with mappings of their own; {len(mapped)} were found")
    if blocks is not None:
        main_arena = glibc.arenas[0]
        blocks.headers.append((main_arena.start, main_arena.end))
        blocks.spans += [
            *main,
            *(each for arena in glibc.arenas for each in arena.heaps),
            *((start, start + size) for start, size in mapped),
        ]
        blocks.link_offset = USER_OFFSET
        starts = np.array([start + USER_OFFSET for start, _ in mapped], np.int64)
        blocks.add(starts, starts + np.array([size for _, size in mapped], np.int64))
    return HeapWalk(
        kind="glibc",
        object=glibc.path,
        arenas=arenas,
        mapped=Counter(size for _, size in mapped),
        mapped_bytes=counted.mapped_bytes if counted else sum(size for _, size in mapped),
        n_mapped=counted.n_mapped if counted else len(mapped),
        system_bytes=sum(arena.system_bytes for arena in glibc.arenas),
        ranges=tuple(
            sorted(
                [(start, end, "main") for start, end in main]
                + [(start, end, "arena") for arena in glibc.arenas for start, end in arena.heaps]
                + [(start, start + size, "mapped") for start, size in mapped]
            )
        ),
        notes=tuple(notes),
    )


def walk_used(
    memory: HeapMemory,
    maps: Sequence[MapEntry],
    exe: str,
    on_used: Callable[[Places], None],
    on_unread: Callable[[int, int], None],
) -> list[tuple[int, int]]:
    """Tell the blocks in use of glibc's arenas, without those that have a mapping of their own.

    Args:
        memory: Of the process.
        maps: Its mappings.
        exe: Path of its executable.
        on_used: Gets users' addresses, some at a time.
        on_unread: Gets (start, end) of what could not be read.

    Returns:
        (start, end) of all that was walked.

    Raises:
        HeapError: There is no such allocator in the process, or it cannot be understood.
    """
    glibc = find_glibc(memory, maps, exe)
    ranges = {arena.start: _chunk_ranges(memory, arena, glibc, maps, []) for arena in glibc.arenas}
    chunks = [each for parts in ranges.values() for each in parts]
    cached = find_cached(memory, chunks, memory.window(*glibc.data).words)
    for arena in glibc.arenas:
        walk = ChunkWalk(memory, arena.top, cached, fast_chunks(memory, arena.fast), arena.is_main)
        walk.on_used, walk.on_unread = on_used, on_unread
        for start, end in ranges[arena.start]:
            walk.walk(start, end)
    return chunks


def _chunk_ranges(
    memory: HeapMemory, arena: Arena, glibc: Glibc, maps: Sequence[MapEntry], notes: list[str]
) -> list[tuple[int, int]]:
    """(first chunk, end) of each piece of an arena's memory."""
    if not arena.is_main:
        ranges = []
        for start, end in arena.heaps:
            # The first heap holds the arena itself behind its header.
            first = arena.end if start <= arena.start < end else start + arena.header_bytes
            ranges.append((-(-first // 16) * 16, end))
        return ranges
    if arena.top == arena.bins - 16:
        return []  # initial_top(): nothing was allocated from it
    heap = next((entry for entry in maps if entry.path == "[heap]"), None)
    pieces = []
    try:
        top_end = arena.top + (memory.words(arena.top + 8, 1).tolist()[0] & _SIZE)
    except HeapError:
        top_end = arena.top
    if heap is not None:
        start = glibc.parameters.break_start if glibc.parameters else heap.start
        first = -(-start // 16) * 16
        # The break may have grown since the mappings were listed; a size that was overwritten is beyond any growth.
        is_sound = first <= arena.top < heap.end and arena.top < top_end <= heap.end + _MAX_GROWTH_BYTES
        pieces.append((first, top_end if is_sound else heap.end))
    if not pieces or not pieces[0][0] <= arena.top < pieces[0][1]:
        # The break could not grow: the main arena goes on in a mapping.
        entry = next((each for each in maps if each.start <= arena.top < each.end), None)
        if entry is not None:
            pieces.append((entry.start, top_end if arena.top < top_end <= entry.end + _MAX_GROWTH_BYTES else entry.end))
    if sum(end - start for start, end in pieces) < arena.system_bytes // 2:
        notes.append("parts of the main arena were not found: it is not in one piece")
    return pieces


def _walk_arena(
    memory: HeapMemory,
    arena: Arena,
    ranges: Sequence[tuple[int, int]],
    cached: Cached,
    blocks: BlockList | None,
) -> ArenaCensus:
    walk = ChunkWalk(memory, arena.top, cached, fast_chunks(memory, arena.fast), arena.is_main, blocks=blocks)
    for start, end in ranges:
        walk.walk(start, end)
    if not arena.is_main:
        walk.census.header_bytes += sum(start for start, _ in ranges) - sum(start for start, _ in arena.heaps)
    return ArenaCensus("main" if arena.is_main else f"{arena.start:#x}", arena.n_threads, walk.census)
