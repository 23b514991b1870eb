"""A call site, the key of every total: one thread and one stack, of one kind of memory."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

N_SLICES: Final = 16
"""Number of birth slices of a site's outstanding memory (``NL_SLICES`` in ``bpf/nativeleak.h``)."""


class Kind(StrEnum):
    """Origin of the memory; the values are those of the JSON report."""

    HEAP = "heap"
    MAP = "map"
    BRK = "brk"


class Owner(StrEnum):
    """Owner of mapped address space; the values are those of the JSON report."""

    PROGRAM = "program"
    ALLOCATOR = "allocator"
    RUNTIME = "jvm"
    """The target's runtime of managed code, for itself; the value is from when the JVM was the only one."""
    C_LIBRARY = "c-library"
    """The C library, for the stacks of threads. Used for unmapping only."""


class SiteKey(NamedTuple):
    """Identity of a call site.

    Attributes:
        kind: heap, map or brk.
        slot: The target.
        thread_uid: The thread (``ThreadInfo.uid``).
        stack_key: The stack (``Stack.key``); 0 stands for stacks beyond a limit.
    """

    kind: Kind
    slot: int
    thread_uid: int
    stack_key: int


class Uncertainty(NamedTuple):
    """Uncertainty of sampled outstanding memory.

    Attributes:
        n_sampled: Outstanding blocks that were sampled.
        variance_bytes: Estimated variance of the outstanding bytes.
        variance_count: Estimated variance of the number of outstanding blocks.
    """

    n_sampled: int = 0
    variance_bytes: float = 0.0
    variance_count: float = 0.0


CERTAIN: Final = Uncertainty()


@dataclass(slots=True, unsafe_hash=True)
class SiteTotals:
    """Totals of one call site at one moment, counted from the start of the trace. Sizes in bytes.

    Nobody changes one: snapshots share them. It is not frozen because a frozen one takes three times as long to make,
    and a snapshot may have 65,536.

    ``allocated - freed == outstanding`` holds for bytes and counts of every kind. Address space without access
    (PROT_NONE) counts only as ``reserved_bytes``.

    Attributes:
        resident_bytes: Resident part of the outstanding memory; None for heap.
        oldest_s: Age of the oldest outstanding allocation; None if nothing is outstanding.
        slices: (bytes, count) outstanding by birth slice, oldest first; empty for map and brk.
        uncertainty: Uncertainty of sampled totals; ``CERTAIN`` if they are exact.
    """

    key: SiteKey
    allocated_bytes: int = 0
    allocated_count: int = 0
    freed_bytes: int = 0
    freed_count: int = 0
    resident_bytes: int | None = None
    reserved_bytes: int = 0
    oldest_s: float | None = None
    slices: tuple[tuple[int, int], ...] = ()
    owner: Owner = Owner.PROGRAM
    functions: tuple[str, ...] = ()
    uncertainty: Uncertainty = CERTAIN

    @property
    def outstanding_bytes(self) -> int:
        """Bytes allocated in the window and not freed."""
        return self.allocated_bytes - self.freed_bytes

    @property
    def outstanding_count(self) -> int:
        """Allocations made in the window and not freed."""
        return self.allocated_count - self.freed_count


@dataclass(frozen=True, slots=True)
class UnmapTotals:
    """Address space that one thread unmapped at one stack since the trace began. Sizes in bytes.

    Failed calls do not count, nor do mappings that another mapping replaced.

    Attributes:
        number: Number of the stack and thread within the target, from 0; it never changes.
        thread_uid: The thread (``ThreadInfo.uid``); 0 for an allocator, and for all threads beyond a limit.
        stack_key: The stack (``Stack.key``); 0 likewise.
        owner: Owner of the unmapping call.
        functions: The calls: munmap, mremap that shrinks, shmdt.
        n_calls: Successful calls, also those of an empty range.
        freed_bytes: Accessible memory that a call of the window had mapped; it counts as freed at that call's site.
        other_threads_bytes: The part of ``freed_bytes`` that other threads had mapped.
        reserved_bytes: Address space without access (PROT_NONE) that a call of the window had mapped.
        older_bytes: Memory that was mapped before the trace, or by an unknown call.
    """

    number: int
    slot: int
    thread_uid: int
    stack_key: int
    owner: Owner
    functions: tuple[str, ...]
    n_calls: int = 0
    freed_bytes: int = 0
    other_threads_bytes: int = 0
    reserved_bytes: int = 0
    older_bytes: int = 0
