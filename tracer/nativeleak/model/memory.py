"""The memory of a traced process as the kernel counts it, and the limits that it may run into."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple


class LimitKind(StrEnum):
    """Kind of a limit; the values are those of the JSON report."""

    CGROUP = "cgroup"
    RLIMIT = "rlimit"
    JAVA_HEAP = "java-heap"
    DIRECT_MEMORY = "max-direct-memory"
    MACHINE = "machine"


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit of memory.

    Attributes:
        slot: The target that it holds for.
        name: The file and folder of a memory group, the resource of an rlimit, the option of a runtime.
    """

    slot: int
    kind: LimitKind
    name: str
    limit_bytes: int


class LimitUse(NamedTuple):
    """How much of a limit is used at one moment; None where that is not known."""

    limit: Limit
    usage_bytes: int | None


class MemoryLine(StrEnum):
    """Use of resident memory, as the recorder can tell it; the values are stored in recordings."""

    ALLOCATOR = "allocator"
    """Heaps and arenas of malloc, and what an allocator mapped during the trace: live blocks and free memory alike."""
    JAVA_HEAP = "java-heap"
    JVM = "jvm"
    """Other memory of the runtime: code, class metadata, structures of the collector."""
    MAPPED = "mapped"
    """Anonymous memory that the program mapped during the trace."""
    STACKS = "stacks"
    FILES = "files"
    SHARED = "shared"
    UNEXPLAINED = "unexplained"
    """Anonymous memory from before the trace of which nothing tells the use."""


@dataclass(frozen=True, slots=True)
class MemoryReading:
    """The resident memory of one target at one moment, split by use.

    Attributes:
        elapsed_s: Seconds since the trace began.
        lines: Resident bytes of each use; they add up to all that was resident.
    """

    slot: int
    elapsed_s: float
    lines: Mapping[MemoryLine, int] = field(default_factory=dict)

    @property
    def rss_bytes(self) -> int:
        """All resident memory."""
        return sum(self.lines.values())


class ProcessMemory(NamedTuple):
    """Sums of one target at one moment, in bytes.

    Attributes:
        rss_bytes: Resident memory.
        anon_bytes: The anonymous part of it.
        swap_bytes: Swapped memory.
        peak_rss_bytes: The most that was ever resident since the program's start.
        n_threads: Threads.
    """

    slot: int
    rss_bytes: int
    anon_bytes: int
    swap_bytes: int
    peak_rss_bytes: int
    n_threads: int
