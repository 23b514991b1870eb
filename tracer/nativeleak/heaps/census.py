"""What a walk of an allocator finds, in one form for all allocators."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

TABLES: Final = "tables"
"""What of a range that is the allocator's own: its tables, and pages between extents."""


@dataclass(slots=True)
class Amount:
    """Blocks of one state.

    Attributes:
        n_blocks: How many.
        n_bytes: Their sizes with the allocator's own header.
    """

    n_blocks: int = 0
    n_bytes: int = 0

    def add(self, n_blocks: int, n_bytes: int) -> None:
        """Count some more."""
        self.n_blocks += n_blocks
        self.n_bytes += n_bytes


@dataclass(slots=True)
class Census:
    """The blocks of one arena, or of several.

    Attributes:
        in_use: Blocks that the program holds.
        free: Free chunks in the allocator's bins.
        cached: Blocks that the program freed and a thread's cache keeps.
        fast: Blocks that the program freed and a fast list keeps.
        top_bytes: The unused end of the heap.
        header_bytes: What the allocator itself keeps between the blocks.
        retained_resident_bytes: Of free, cached, fast and top: what is in memory.
        trimmable_bytes: Of this, whole pages that malloc_trim(3) gives back.
        unread_bytes: Passed over, because the chain of blocks broke there.
        n_breaks: How often it broke.
        n_torn: Free blocks whose two ends disagreed: a measure of the motion during the walk.
        sizes: Number of blocks in use by their size with header.
    """

    in_use: Amount = field(default_factory=Amount)
    free: Amount = field(default_factory=Amount)
    cached: Amount = field(default_factory=Amount)
    fast: Amount = field(default_factory=Amount)
    top_bytes: int = 0
    header_bytes: int = 0
    retained_resident_bytes: int = 0
    trimmable_bytes: int = 0
    unread_bytes: int = 0
    n_breaks: int = 0
    n_torn: int = 0
    sizes: Counter[int] = field(default_factory=Counter)

    @property
    def retained_bytes(self) -> int:
        """What the program freed and the allocator keeps, resident or not."""
        return self.free.n_bytes + self.cached.n_bytes + self.fast.n_bytes + self.top_bytes

    @property
    def walked_bytes(self) -> int:
        """All that was read as blocks."""
        return self.in_use.n_bytes + self.retained_bytes + self.header_bytes

    def merge(self, other: Census) -> None:
        """Add another census to this one."""
        for mine, theirs in (
            (self.in_use, other.in_use), (self.free, other.free),
            (self.cached, other.cached), (self.fast, other.fast),
        ):  # fmt: skip
            mine.add(theirs.n_blocks, theirs.n_bytes)
        self.top_bytes += other.top_bytes
        self.header_bytes += other.header_bytes
        self.retained_resident_bytes += other.retained_resident_bytes
        self.trimmable_bytes += other.trimmable_bytes
        self.unread_bytes += other.unread_bytes
        self.n_breaks += other.n_breaks
        self.n_torn += other.n_torn
        self.sizes.update(other.sizes)


@dataclass(frozen=True, slots=True)
class ArenaCensus:
    """One arena.

    Attributes:
        name: ``main`` or its address.
        n_threads: Threads attached to it; None where the allocator does not say.
        census: Its blocks.
    """

    name: str
    n_threads: int | None
    census: Census


@dataclass(frozen=True, slots=True)
class HeapWalk:
    """An allocator of the process, walked.

    Attributes:
        kind: ``glibc``, ``musl``, ``jemalloc``.
        object: The file that holds it, as the target sees it.
        arenas: Its arenas; the main one first.
        mapped: Sizes of the blocks that have a mapping of their own, as found, each with its number.
        mapped_bytes: Their sum by the allocator's own count where it keeps one.
        n_mapped: Their number by the allocator's own count where it keeps one.
        system_bytes: What the arenas hold of address space by the allocator's own count.
        ranges: (start, end, what) of all its address ranges; what is a word such as ``arena``, or ``TABLES``.
        notes: What could not be read, for people.
    """

    kind: str
    object: str
    arenas: tuple[ArenaCensus, ...]
    mapped: Counter[int]
    mapped_bytes: int
    n_mapped: int
    system_bytes: int
    ranges: tuple[tuple[int, int, str], ...]
    notes: tuple[str, ...] = ()

    @property
    def total(self) -> Census:
        """All arenas in one."""
        total = Census()
        for arena in self.arenas:
            total.merge(arena.census)
        return total

    @property
    def in_use_bytes(self) -> int:
        """What the program holds, with headers; blocks with their own mapping too."""
        return self.total.in_use.n_bytes + self.mapped_bytes

    @property
    def walked_share(self) -> float:
        """How much of the arenas' memory was read as blocks, 0 to 1."""
        return min(1.0, self.total.walked_bytes / self.system_bytes) if self.system_bytes else 1.0

    @property
    def sizes(self) -> Counter[int]:
        """Number of blocks in use by size with header."""
        return self.total.sizes + self.mapped
