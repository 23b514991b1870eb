"""An address space driven in pages, for tests: each call is one event or one system call, numbers are pages."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count

from nativeleak.ledger.address_space import AddressSpace
from nativeleak.ledger.mapping_events import (
    BrkExit,
    Giver,
    MmapExit,
    MprotectExit,
    MremapEntry,
    MremapExit,
    MunmapEntry,
    RemovalExit,
    ShmatExit,
    ShmdtEntry,
    UnmapFailed,
)
from nativeleak.model import Kind, Owner

PAGE = 4096
NONE, RW = 0, 3
DONTUNMAP = 4


@dataclass(frozen=True)
class Entry:
    start: int
    end: int
    perms: str = "rw-p"
    path: str | None = None


def entry(page, n_pages, perms="rw-p", path=None):
    return Entry(page * PAGE, (page + n_pages) * PAGE, perms, path)


class Pages:
    """Drives an ``AddressSpace``. A thread's tid is 1000 + its uid; every event comes one second after the last."""

    def __init__(self, *baseline):
        self.space = AddressSpace()
        self.space.load_baseline(baseline)
        self.clock = count(1)

    def mmap(self, page, n_pages, prot=RW, *, uid=1, stack=1, file=False, allocator=False, flags=0):
        self.space.apply(
            MmapExit(
                1000 + uid, page * PAGE, n_pages * PAGE, prot, flags, file, uid, stack, allocator, next(self.clock)
            )
        )

    def munmap(self, page, n_pages, *, uid=1, stack=None, allocator=False):
        next(self.clock)
        giver = None if stack is None else Giver(uid, stack, allocator)
        self.space.apply(MunmapEntry(1000 + uid, page * PAGE, n_pages * PAGE, giver))

    def failed(self, *, uid=1):
        next(self.clock)
        self.space.apply(UnmapFailed(1000 + uid))

    def mremap_entry(self, page, n_pages, *, uid=1):
        next(self.clock)
        self.space.apply(MremapEntry(1000 + uid, page * PAGE, n_pages * PAGE))

    def mremap_exit(self, old, n_old, new, n_new, *, flags=1, uid=1, stack=1, allocator=False):
        self.space.apply(
            MremapExit(
                1000 + uid,
                old * PAGE,
                n_old * PAGE,
                new * PAGE,
                n_new * PAGE,
                flags,
                uid,
                stack,
                allocator,
                next(self.clock),
            )
        )

    def mremap(self, old, n_old, new, n_new, **options):
        self.mremap_entry(old, n_old, uid=options.get("uid", 1))
        self.mremap_exit(old, n_old, new, n_new, **options)

    def mprotect(self, page, n_pages, prot, *, uid=1):
        next(self.clock)
        self.space.apply(MprotectExit(1000 + uid, page * PAGE, n_pages * PAGE, prot))

    def brk(self, new_break, *, uid=1, stack=1, allocator=False):
        """Bytes, not pages."""
        self.space.apply(BrkExit(1000 + uid, new_break, uid, stack, allocator, next(self.clock)))

    def shmat(self, page, n_pages, *, uid=1, stack=1):
        self.space.apply(ShmatExit(1000 + uid, page * PAGE, n_pages * PAGE, uid, stack, False, next(self.clock)))

    def shmdt(self, page, *, uid=1):
        next(self.clock)
        self.space.apply(ShmdtEntry(1000 + uid, page * PAGE))

    def shmdt_exit(self, *, uid=1, stack=1):
        next(self.clock)
        self.space.apply(RemovalExit(1000 + uid, "shmdt", Giver(uid, stack, False)))

    def site(self, stack=1, *, uid=1, kind=Kind.MAP, owner=None):
        """Totals of the only site with this thread and stack (and owner)."""
        [found] = [
            totals
            for totals in self.space.site_totals(0, 0.0)
            if totals.key == (kind, 0, uid, stack) and owner in (None, totals.owner)
        ]
        return found

    def held(self, stack=1, **which):
        """(outstanding pages, calls, reserved pages) of a site."""
        totals = self.site(stack, **which)
        assert totals.outstanding_bytes % PAGE == totals.reserved_bytes % PAGE == 0
        return totals.outstanding_bytes // PAGE, totals.outstanding_count, totals.reserved_bytes // PAGE

    def flow(self, stack=1, **which):
        """(allocated pages, allocated calls, freed pages, freed calls) of a site."""
        totals = self.site(stack, **which)
        return (
            totals.allocated_bytes // PAGE,
            totals.allocated_count,
            totals.freed_bytes // PAGE,
            totals.freed_count,
        )

    def total(self, owner=Owner.PROGRAM, kind=Kind.MAP):
        totals = self.space.totals(kind, owner)
        return totals.outstanding_bytes // PAGE, totals.outstanding_count, totals.reserved_bytes // PAGE

    def given(self, stack=1, *, uid=1):
        """(calls, freed, of these other threads', reserved, older pages) of who gave back; None for nobody."""
        rows = [row for row in self.space.unmaps.totals(0) if (row.thread_uid, row.stack_key) == (uid, stack)]
        if not rows:
            return None
        [row] = rows
        parts = (row.freed_bytes, row.other_threads_bytes, row.reserved_bytes, row.older_bytes)
        return (row.n_calls, *(n_bytes // PAGE for n_bytes in parts))

    def layout(self):
        """(first page, pages, stack or None, accessible) of every piece."""
        return [
            (
                piece.start // PAGE,
                (piece.end - piece.start) // PAGE,
                piece.site_id and piece.site_id.stack_key,
                piece.accessible,
            )
            for piece in self.space.pieces()
        ]
