"""The use of a range of memory, from the mappings around it, the threads' stack pointers, and the process's runtime.

Source of the rules: glibc, malloc/arena.c (``HEAP_MAX_SIZE``: a heap of an arena begins at a multiple of 64 MiB, mapped
without access and opened as it grows); of runtimes, their rows in ``runtimes/registry.py``.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from nativeleak.engines.pmap.smaps import Mapping
from nativeleak.engines.strace.malloc_sizes import MIN_BYTES, PAGE, block_bytes
from nativeleak.runtimes.base import OwnedRange, RuntimeSpec
from nativeleak.runtimes.registry import RUNTIMES
from nativeleak.units import format_bytes

ARENA_BYTES: Final = 64 << 20
HEAP: Final = "heap of the program break"
ANONYMOUS: Final = "anonymous memory"
GO_HEAP: Final = "Go heap"
_MAX_BLOCKS: Final = 64
_MIN_GUESS: Final = 1 << 20


class Region(NamedTuple):
    """What a range is.

    Attributes:
        tid: The thread whose stack it is, 0 for anything else.
        is_runtime: It is the runtime's own memory.
        is_certain: Blocks of malloc are not looked for in it.
    """

    name: str
    tid: int = 0
    is_runtime: bool = False
    is_certain: bool = True


_UNKNOWN: Final = Region(ANONYMOUS, is_certain=False)


class StackPointer(NamedTuple):
    """Where a thread is in its stack."""

    address: int
    tid: int
    name: str


@dataclass(frozen=True, slots=True)
class Surroundings:
    """All mappings of a process at one moment, and what else is known of its memory.

    Attributes:
        mappings: In order of address, those without access too.
        stacks: In order of address.
        owned: What the process's runtime says it has.
        runtime: Its runtime, None where it has none.
        arenas: Of Go's runtime, in order of address. Goroutines have their stacks there, and threads may be in them.
        starts: Of the mappings.
        runs: For each mapping the first of those that lie before it without a gap, all of them anonymous.
    """

    mappings: Sequence[Mapping]
    stacks: Sequence[StackPointer] = ()
    owned: Sequence[OwnedRange] = ()
    runtime: RuntimeSpec | None = None
    arenas: Sequence[tuple[int, int]] = ()
    starts: list[int] = field(default_factory=list)
    runs: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        for index, mapping in enumerate(self.mappings):
            self.starts.append(mapping.start)
            is_next = index > 0 and _touch(self.mappings[index - 1], mapping)
            self.runs.append(self.runs[-1] if is_next else index)

    def region(self, address: int) -> Region:
        """What the memory at an address is."""
        index = bisect_right(self.starts, address) - 1
        if index < 0 or address >= self.mappings[index].end:
            return _UNKNOWN
        mapping = self.mappings[index]
        for start, end, name in self.owned:
            if start <= address < end:
                return Region(name, is_runtime=True)
        if not mapping.is_anonymous:
            return _named(mapping.path)
        if any(start <= address < end for start, end in self.arenas):
            return Region(GO_HEAP)
        stack = self._stack_in(mapping)
        if stack is not None:
            return Region(f"stack of thread {stack.name}", stack.tid)
        if self._is_arena(index):
            return Region("glibc arena")
        structures = self.runtime.memory.structures if self.runtime is not None else ""
        if structures and self._is_reservation(index):
            return Region(structures, is_runtime=True, is_certain=False)
        return _UNKNOWN

    def _stack_in(self, mapping: Mapping) -> StackPointer | None:
        at = bisect_right(self.stacks, (mapping.start, -1, ""))
        if at < len(self.stacks) and self.stacks[at].address < mapping.end:
            return self.stacks[at]
        return None

    def _is_arena(self, index: int) -> bool:
        mapping = self.mappings[index]
        base = mapping.start // ARENA_BYTES * ARENA_BYTES
        # mprotect may have cut the heap into several mappings.
        first = max(self.runs[index], bisect_right(self.starts, base) - 1)
        if self.mappings[first].start != base or mapping.end > base + ARENA_BYTES:
            return False
        if mapping.end == base + ARENA_BYTES:
            return first == index and mapping.end - mapping.start == ARENA_BYTES
        following = self.mappings[index + 1] if index + 1 < len(self.mappings) else None
        return (
            following is not None
            and _touch(mapping, following)
            and not following.is_accessible
            and following.end >= base + ARENA_BYTES
        )

    def _is_reservation(self, index: int) -> bool:
        mapping = self.mappings[index]
        around = [*self.mappings[max(0, index - 1) : index], *self.mappings[index + 1 : index + 2]]
        return any(
            not other.is_accessible
            and other.is_anonymous
            and (_touch(mapping, other) or _touch(other, mapping))
            and (not other.flags or "nr" in other.flags.split())
            for other in around
        )


def _touch(left: Mapping, right: Mapping) -> bool:
    return left.end == right.start and left.is_anonymous and right.is_anonymous


def _named(path: str) -> Region:
    if path == "[heap]":
        return Region(HEAP)
    if path == "[stack]":
        return Region("stack of the main thread")
    if path.startswith("/SYSV"):
        return Region("System V shared memory")
    for beginning, name in (each for spec in RUNTIMES for each in spec.memory.files):
        if path.startswith(beginning):
            return Region(name, is_runtime=True)
    return Region(path if path.startswith("[") else f"file {path.rsplit('/', 1)[-1]}")


def malloc_region(n_bytes: int) -> str:
    """Name of a block that malloc has from mmap, ``n_bytes`` long with its header."""
    asked = block_bytes(n_bytes)
    return f"{format_bytes(asked)} malloc served by mmap" if asked else "malloc served by mmap, other sizes"


def blocks_by_size(n_bytes: int) -> int:
    """How many blocks of malloc a range of this length is by its size alone, 0 where it looks like none.

    Only blocks of a power of two, of 1 MiB at least, are recognised: anything else could be anything.
    """
    for n in range(1, _MAX_BLOCKS + 1):
        each = n_bytes // n
        if each < _MIN_GUESS:
            return 0
        asked = block_bytes(each) if n_bytes % n == 0 and each % PAGE == 0 else 0
        if asked >= max(_MIN_GUESS, MIN_BYTES) and asked & (asked - 1) == 0:
            return n
    return 0
