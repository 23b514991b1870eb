"""The live blocks of glibc's malloc in a running process, as arrays: what a look at a Java heap is given."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from nativeleak.heaps.glibc.caches import FAST_MAX_BYTES, fast_chunks, find_cached
from nativeleak.heaps.glibc.chunks import ChunkWalk
from nativeleak.heaps.glibc.mapped import find_mapped
from nativeleak.heaps.glibc.state import HEAP_MAX_BYTES, find_glibc
from nativeleak.heaps.glibc.walk import _chunk_ranges
from nativeleak.heaps.memory import HeapMemory
from nativeleak.process.procfs import read_exe, read_maps
from nativeleak.runtimes.hotspot.jvm import HotSpot
from nativeleak.runtimes.hotspot.spaces import SPACE_VARIABLES, read_spaces


@dataclass(slots=True)
class _Walk(ChunkWalk):
    """Notes the blocks in use beside counting them."""

    found: list[np.ndarray] = field(default_factory=list)

    def _count(self, window, positions, end):
        words = window.words
        sizes = (words[positions + 1] & np.uint64(0xFFFF_FFFF_FFFF_FFF0)).astype(np.int64)
        addresses = window.start + 8 * positions
        next_sizes, _ = self._next_words(window, positions + sizes // 8, end)
        is_live = (next_sizes & np.uint64(1) == 1) & (addresses != self.top)
        is_live &= ~self._is_cached(words, positions, sizes, addresses)
        if self.fast:
            fast = np.isin(addresses, np.fromiter(self.fast, np.int64, len(self.fast)))
            is_live &= ~(fast & (sizes <= FAST_MAX_BYTES))
        self.found.append(np.stack([addresses[is_live] + 16, sizes[is_live] - 8], 1))


def read_native_blocks(pid: int, files: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """(starts, sizes) of all blocks in use, in address order; with ``files`` mapped files too."""
    maps = read_maps(pid)
    try:
        with HotSpot.open(pid, SPACE_VARIABLES) as vm:
            taken = [(low, high) for low, high, _, _ in read_spaces(vm).ranges]
    except Exception:  # no JVM
        taken = []
    rows = []
    with HeapMemory(pid) as memory:
        glibc = find_glibc(memory, maps, read_exe(pid))
        notes: list[str] = []
        ranges = {arena.start: _chunk_ranges(memory, arena, glibc, maps, notes) for arena in glibc.arenas}
        chunks = [each for parts in ranges.values() for each in parts]
        cached = find_cached(memory, chunks, memory.window(*glibc.data).words)
        for arena in glibc.arenas:
            walk = _Walk(memory, arena.top, cached, fast_chunks(memory, arena.fast), arena.is_main)
            for start, end in ranges[arena.start]:
                walk.walk(start, end)
            rows += walk.found
        heaps = [(start, start + HEAP_MAX_BYTES) for arena in glibc.arenas for start, _ in arena.heaps]
        main = list(ranges[glibc.arenas[0].start])
        counted = glibc.parameters
        mapped = find_mapped(memory, maps, sorted([*taken, *heaps, *main]), counted.n_mapped if counted else None)
    rows.append(np.array([(start + 16, size - 16) for start, size in mapped], np.int64).reshape(-1, 2))
    if files:
        entries = [
            (entry.start, entry.end - entry.start)
            for entry in maps
            if entry.inode and "x" not in entry.perms and not entry.path.endswith((".so", ".jar", ".jsa", "modules"))
        ]
        rows.append(np.array(entries, np.int64).reshape(-1, 2))
    blocks = np.concatenate(rows)
    blocks = blocks[np.argsort(blocks[:, 0])]
    return blocks[:, 0].astype(np.uint64), blocks[:, 1].astype(np.uint64)
