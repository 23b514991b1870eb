"""A call site, the key of every total: one thread and one stack, of one kind of memory."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

N_SLICES: Final = 16
"""Birth slices a site's outstanding memory is kept in (``NL_SLICES`` in ``bpf/nativeleak.h``)."""


class Kind(StrEnum):
    """What handed out the memory; the values are those of the JSON report."""

    HEAP = "heap"
    MAP = "map"
    BRK = "brk"


class Owner(StrEnum):
    """On whose behalf address space was mapped; the values are those of the JSON report."""

    PROGRAM = "program"
    ALLOCATOR = "allocator"
    RUNTIME = "jvm"
    """The target's runtime of managed code, for itself; the value is from when the JVM was the only one."""
    C_LIBRARY = "c-library"
    """The C library, for the stacks of threads. Said of who gives back only."""


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
    """What sampling leaves open about outstanding memory.

    Attributes:
        n_sampled: Outstanding blocks that were kept by chance.
        variance_bytes: Estimated variance of the outstanding bytes.
        variance_count: Estimated variance of the number of outstanding blocks.
    """

    n_sampled: int = 0
    variance_bytes: float = 0.0
    variance_count: float = 0.0


CERTAIN: Final = Uncertainty()


@dataclass(frozen=True, slots=True)
class SiteTotals:
    """What one call site had allocated, freed and kept at one moment since the trace began. Sizes in bytes.

    ``allocated - freed == outstanding`` holds for bytes and counts of every kind. Address space without access
    (PROT_NONE) is ``reserved_bytes`` and no part of the others.

    Attributes:
        resident_bytes: How much of the outstanding memory is in memory; None for heap.
        oldest_s: Age of the oldest outstanding allocation; None where nothing is outstanding.
        slices: (bytes, count) outstanding by birth slice, oldest first; empty for map and brk.
        uncertainty: Where the site's blocks were sampled; else the totals are exact.
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
    """What one thread gave back of the address space at one stack, since the trace began. Sizes in bytes.

    Calls that failed are not in it. A mapping that is replaced by another is not given back.

    Attributes:
        number: Of the stack and thread within the target, from 0; stays what it is.
        thread_uid: The thread (``ThreadInfo.uid``); 0 for what an allocator does, and for all beyond a limit.
        stack_key: The stack (``Stack.key``); 0 likewise.
        owner: On whose behalf it was given back.
        functions: The calls: munmap, mremap that shrinks, shmdt.
        n_calls: Calls that succeeded, also those in whose range there was nothing.
        freed_bytes: Accessible memory that a call of the window had mapped: what is booked off at the sites of these.
        other_threads_bytes: The part of ``freed_bytes`` that other threads had mapped.
        reserved_bytes: Address space without access (PROT_NONE) that a call of the window had mapped.
        older_bytes: What was mapped before the trace, or by nobody knows whom.
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
