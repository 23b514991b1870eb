"""The lines of resident memory and their sum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from nativeleak.heaps.census import HeapWalk
from nativeleak.heaps.known import known_as
from nativeleak.model import Child, LimitUse
from nativeleak.process.cgroups import MemoryGroup
from nativeleak.process.charges import GroupCharge
from nativeleak.process.check import TargetFacts
from nativeleak.runtimes.hotspot.spaces import JavaSpaces
from nativeleak.runtimes.hotspot.statics import NativeCounts

LABELS: Final = {
    "java-heap": "Java heap",
    "metaspace": "metaspace",
    "class-space": "class space",
    "code-cache": "code cache",
    "collector": "collector and JVM tables",
    "cds": "class archive (CDS)",
    "thread-stacks": "thread stacks",
    "malloc-live": "malloc: in use",
    "malloc-retained": "malloc: freed, retained",
    "python": "Python objects",
    "javascript": "JavaScript heap (V8)",
    "go": "Go heap and runtime",
    "allocator": "allocator, not told apart",
    "anonymous": "anonymous, named",
    "libraries": "program and libraries",
    "files": "mapped files",
    "shared": "shared memory",
    "kernel": "kernel's pages",
    "unexplained": "unexplained",
}
"""Label of each line by its id, in the order of the page."""


class Piece(NamedTuple):
    """Part of a line.

    Attributes:
        start: First address.
        end: First address behind it.
        line: Id of its line.
        name: What it is: a thread, a file, an arena.
        resident: Bytes in memory.
        swap: Bytes swapped out.
    """

    start: int
    end: int
    line: str
    name: str
    resident: int
    swap: int


@dataclass(slots=True)
class Line:
    """One line of resident memory.

    Attributes:
        id: Key of ``LABELS``.
        resident: Bytes in memory.
        swap: Bytes swapped out.
        virtual: Bytes of address space.
        used: Bytes that are in use by the owner's own count; None where it keeps none.
        detail: (name, resident bytes) of its parts, the largest first.
        owner: Name of the allocator that the line is of; empty where the id says enough.
    """

    id: str
    resident: int = 0
    swap: int = 0
    virtual: int = 0
    used: int | None = None
    detail: list[tuple[str, int]] = field(default_factory=list)
    owner: str = ""

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.owner}, not told apart" if self.owner else LABELS[self.id]


@dataclass(slots=True)
class Ledger:
    """Resident memory of one process at one moment.

    Attributes:
        target: The process.
        lines: In the order of ``LABELS``; they add up to ``rss``.
        pieces: What they are made of, in address order.
        rss: Bytes in memory: the sum over the kernel's list of mappings.
        swap: Bytes swapped out.
        virtual: Bytes of address space.
        status_rss: The kernel's running count before and after the reading.
        page_tables: Bytes of page tables, which are not in ``rss`` and are charged to the group.
        huge: Bytes in anonymous huge pages.
        n_regions: Mappings.
        n_threads: Threads.
        walks: Allocators that were walked.
        java: The JVM's own description; None where the process runs none.
        groups: Control groups with a limit, the innermost first.
        machine_bytes: Memory of the machine.
        notes: What could not be read, for people.
        native_counts: What Java counts of memory outside of its heap.
        heap_free: Of the Java heap, bytes in memory that are not in use; None where unknown.
        heap_resident: (kind, bytes in memory) of the Java heap's regions; empty where it has none.
        huge_zero: About how many bytes of huge pages are zeros; None where none were looked at.
        rlimits: Limits of the process itself, with what is used of each.
        unwalked: Names of allocators in it that are not walked.
        arena_threads: Names of threads by the name of their arena.
        charges: What the control groups of the process are charged for, the innermost first, limited or not.
        anonymous: Bytes of anonymous memory, by the kernel's running count.
        children: Processes that descend from it and hold as much; empty where nobody looked.
    """

    target: TargetFacts
    lines: list[Line]
    pieces: list[Piece]
    rss: int
    swap: int
    virtual: int
    status_rss: tuple[int, int]
    page_tables: int
    huge: int
    n_regions: int
    n_threads: int
    walks: list[HeapWalk]
    java: JavaSpaces | None
    groups: Sequence[MemoryGroup]
    machine_bytes: int
    notes: list[str]
    native_counts: NativeCounts = field(default_factory=NativeCounts)
    heap_free: int | None = None
    heap_resident: list[tuple[str, int]] = field(default_factory=list)
    huge_zero: int | None = None
    rlimits: list[LimitUse] = field(default_factory=list)
    unwalked: list[str] = field(default_factory=list)
    arena_threads: dict[str, list[str]] = field(default_factory=dict)
    charges: Sequence[GroupCharge] = ()
    anonymous: int = 0
    children: Sequence[Child] = ()

    def known_as(self, block_bytes: int) -> str | None:
        """What blocks of a size often are in such a process; None where nothing is known."""
        is_java = self.java is not None or any(piece.name.endswith("/libjvm.so") for piece in self.pieces)
        return known_as(block_bytes, in_java=is_java)

    def resident(self, *ids: str) -> int:
        """Bytes in memory of some lines together."""
        return sum(line.resident for line in self.lines if line.id in ids)

    def line(self, line_id: str) -> Line:
        """One line; an empty one where there is none."""
        return next((line for line in self.lines if line.id == line_id), Line(line_id))
