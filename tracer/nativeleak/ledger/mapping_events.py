"""Events of a target's address space from the kernel side, one object per system call.

Scope: only data, and the lines of /proc/PID/maps that matter beside it. Events arrive in the order in which they
happened: a call that removes memory is sent at its entry, a call that adds memory after it has succeeded, so that no
address is handed out twice in between. Addresses and lengths are as the program gave them, in bytes; times
are seconds since the trace began. Named tuples, not frozen dataclasses: thousands are made in a second, and they cost a
third.
"""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol, TypeAlias

PROT_ACCESS: Final = 0x7
"""PROT_READ, PROT_WRITE and PROT_EXEC together. Source: include/uapi/asm-generic/mman-common.h."""
MAP_HUGETLB: Final = 0x40000
"""Source: include/uapi/asm-generic/mman-common.h; bits 26 to 31 beside it hold the binary logarithm of the page."""
MREMAP_DONTUNMAP: Final = 4
"""The old range stays mapped, empty. Source: include/uapi/linux/mman.h."""


class MmapExit(NamedTuple):
    """A mmap that succeeded.

    Attributes:
        flags: Flags of the call. Only MAP_HUGETLB matters: the mapping replaces any at ``addr``, MAP_FIXED or not.
        in_allocator: The call was made inside an allocator function, for memory of the allocator.
    """

    tid: int
    addr: int
    length: int
    prot: int
    flags: int
    file_backed: bool
    thread_uid: int
    stack_key: int
    in_allocator: bool
    time_s: float


class Giver(NamedTuple):
    """The caller that unmaps; attributes as those of ``MmapExit``."""

    thread_uid: int
    stack_key: int
    in_allocator: bool


class MunmapEntry(NamedTuple):
    """A munmap begins; if it succeeds nothing more is sent.

    Attributes:
        giver: None if it is not known yet; ``RemovalExit`` may have it.
    """

    tid: int
    addr: int
    length: int
    giver: Giver | None = None


class MremapEntry(NamedTuple):
    """A mremap begins; ``MremapExit`` or ``UnmapFailed`` follows."""

    tid: int
    addr: int
    length: int


class UnmapFailed(NamedTuple):
    """The last munmap, mremap or shmdt of the thread has failed."""

    tid: int


class RemovalExit(NamedTuple):
    """The last munmap or shmdt of the thread has succeeded, and its caller is known."""

    tid: int
    function: str
    giver: Giver


class MremapExit(NamedTuple):
    """A mremap that succeeded; ``old_length`` 0 means that a shared mapping was mapped a second time."""

    tid: int
    old_addr: int
    old_length: int
    new_addr: int
    new_length: int
    flags: int
    thread_uid: int
    stack_key: int
    in_allocator: bool
    time_s: float


class MprotectExit(NamedTuple):
    """A mprotect that succeeded."""

    tid: int
    addr: int
    length: int
    prot: int


class BrkExit(NamedTuple):
    """A brk returned; ``new_break`` is the program break from then on, also if the kernel refused the request.

    Attributes:
        old_break: The break before it, 0 if unknown: /proc/PID/maps shows the end of the heap only to the page.
    """

    tid: int
    new_break: int
    thread_uid: int
    stack_key: int
    in_allocator: bool
    time_s: float
    old_break: int = 0


class ShmatExit(NamedTuple):
    """A shmat that succeeded; ``length`` is the mapping's, as /proc/PID/maps shows it."""

    tid: int
    addr: int
    length: int
    thread_uid: int
    stack_key: int
    in_allocator: bool
    time_s: float


class ShmdtEntry(NamedTuple):
    """A shmdt begins; ``RemovalExit`` or ``UnmapFailed`` may follow."""

    tid: int
    addr: int


MappingEvent: TypeAlias = (
    MmapExit
    | MunmapEntry
    | MremapEntry
    | UnmapFailed
    | RemovalExit
    | MremapExit
    | MprotectExit
    | BrkExit
    | ShmatExit
    | ShmdtEntry
)


class MapsEntry(Protocol):
    """One line of /proc/PID/maps; ``perms`` as printed (``rw-p``), ``path`` None or empty for anonymous memory."""

    @property
    def start(self) -> int:
        """First address."""

    @property
    def end(self) -> int:
        """First address after it."""

    @property
    def perms(self) -> str:
        """Access and sharing, four letters."""

    @property
    def path(self) -> str | None:
        """File, or a name in brackets."""


def huge_page_bytes(flags: int, default_bytes: int) -> int:
    """Page size that mmap ``flags`` request: 0 for ordinary pages, ``default_bytes`` for huge pages without a size.

    Source: ``ksys_mmap_pgoff`` in mm/mmap.c, which rounds the length up to it.
    """
    if not flags & MAP_HUGETLB:
        return 0
    shift = flags >> 26 & 0x3F
    return 1 << shift if shift else default_bytes


def is_accessible(entry: MapsEntry) -> bool:
    """Whether a line of maps has any access, unlike PROT_NONE."""
    return entry.perms[:3] != "---"
