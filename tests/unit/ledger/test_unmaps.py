"""Who gave address space back, with exact numbers of pages; the pages are prime so that no two sums agree by chance."""

from __future__ import annotations

import pytest

from nativeleak.ledger.address_space import AddressSpace
from nativeleak.ledger.mapping_events import Giver, MunmapEntry
from nativeleak.model import Owner
from unit.ledger.spaces import DONTUNMAP, NONE, PAGE, Pages, entry

GIVES, OTHER = 71, 72


@pytest.mark.parametrize(("at", "n_pages", "given"), [(100, 7, 7), (111, 13, 13), (120, 11, 11), (100, 31, 31)])
def test_munmap_part_is_given_back_by_its_caller(at, n_pages, given):
    pages = Pages()
    pages.mmap(100, 31)
    pages.munmap(at, n_pages, stack=GIVES)
    assert pages.given(GIVES) == (1, given, 0, 0, 0)


def test_munmap_across_mappings_and_holes_gives_back_what_was_there():
    pages = Pages(entry(60, 17))
    pages.mmap(10, 11)
    pages.mmap(30, 13, NONE)
    pages.munmap(15, 50, stack=GIVES)
    assert pages.given(GIVES) == (1, 6, 0, 13, 5)


def test_munmap_of_nothing_is_a_call():
    pages = Pages()
    pages.munmap(15, 50, stack=GIVES)
    assert pages.given(GIVES) == (1, 0, 0, 0, 0)


def test_munmap_failed_is_not_in_the_totals():
    pages = Pages()
    pages.mmap(10, 11)
    pages.munmap(10, 11, stack=GIVES)
    pages.failed()
    assert pages.given(GIVES) is None
    pages.munmap(10, 7, stack=GIVES)
    pages.munmap(17, 2, stack=GIVES)
    pages.failed()
    assert pages.given(GIVES) == (1, 7, 0, 0, 0)
    assert pages.held() == (4, 1, 0)


def test_munmap_failed_after_another_event_of_the_thread_stays():
    """A failure is that of the call entered last: here of a mremap."""
    pages = Pages()
    pages.mmap(10, 11)
    pages.munmap(10, 3, stack=GIVES)
    pages.mremap_entry(13, 8)
    pages.failed()
    assert pages.given(GIVES) == (1, 3, 0, 0, 0)


def test_munmap_of_what_another_thread_mapped_says_so():
    pages = Pages()
    pages.mmap(10, 11, uid=2)
    pages.mmap(21, 13, uid=1)
    pages.munmap(10, 24, uid=1, stack=GIVES)
    pages.mmap(10, 5, uid=1)
    pages.munmap(10, 5, uid=2, stack=GIVES)
    assert pages.given(GIVES) == (1, 24, 11, 0, 0)
    assert pages.given(GIVES, uid=2) == (1, 5, 5, 0, 0)


def test_munmap_inside_an_allocator_is_the_allocators():
    pages = Pages()
    pages.mmap(10, 11)
    pages.munmap(10, 11, uid=0, stack=0, allocator=True)
    [row] = pages.space.unmaps.totals(0)
    assert (row.owner, row.n_calls, row.freed_bytes) == (Owner.ALLOCATOR, 1, 11 * PAGE)


def test_munmap_of_what_an_allocator_mapped_is_the_allocators():
    """As in a free, whose end no probe sees; in part the program's it is the caller's."""
    pages = Pages()
    pages.mmap(10, 11, uid=0, stack=0, allocator=True)
    pages.mmap(21, 2, uid=1)
    pages.munmap(10, 7, stack=GIVES)
    pages.munmap(17, 6, stack=GIVES)
    assert pages.given(GIVES) == (1, 6, 4, 0, 0)
    assert pages.given(0, uid=0) == (1, 7, 0, 0, 0)


def test_reclassified_stack_has_its_owner_before_and_after():
    pages = Pages()
    pages.mmap(10, 23)
    pages.munmap(10, 3, stack=GIVES)
    pages.space.unmaps.reclassify_stack(GIVES, Owner.C_LIBRARY)
    pages.space.unmaps.reclassify_stack(OTHER, Owner.RUNTIME)
    pages.munmap(13, 5, stack=GIVES)
    pages.munmap(18, 7, uid=2, stack=GIVES)
    pages.munmap(25, 2, stack=OTHER)
    rows = [(row.thread_uid, row.owner, row.freed_bytes // PAGE) for row in pages.space.unmaps.totals(0)]
    # Once it is known to be the C library's, threads are not told apart.
    assert rows == [(1, Owner.C_LIBRARY, 3), (0, Owner.C_LIBRARY, 12), (1, Owner.RUNTIME, 2)]


def test_mremap_gives_back_what_it_cuts_off_and_not_what_it_moves():
    pages = Pages()
    pages.mmap(10, 13)
    pages.mremap(10, 13, 10, 6, stack=GIVES)
    assert pages.given(GIVES) == (1, 7, 0, 0, 0)
    pages.mremap(10, 6, 50, 29, stack=OTHER)
    pages.mremap(50, 29, 50, 29, stack=OTHER, flags=DONTUNMAP)
    assert pages.given(OTHER) is None
    pages.mremap(50, 29, 90, 2, stack=OTHER)
    assert pages.given(OTHER) == (1, 27, 0, 0, 0)
    assert [row.functions for row in pages.space.unmaps.totals(0)] == [("mremap",), ("mremap",)]


def test_mremap_failed_gives_nothing_back():
    pages = Pages()
    pages.mmap(10, 13)
    pages.mremap_entry(10, 13)
    pages.failed()
    assert pages.space.unmaps.totals(0) == []


def test_shmdt_gives_back_what_is_left_of_the_segment():
    pages = Pages()
    pages.shmat(10, 13)
    pages.mmap(12, 2)
    pages.shmdt(10)
    pages.shmdt_exit(stack=GIVES)
    assert pages.given(GIVES) == (1, 11, 0, 0, 0)
    pages.shmdt(10)
    pages.failed()
    assert pages.given(GIVES) == (1, 11, 0, 0, 0)


def test_callers_beyond_the_limit_are_one_and_counted():
    space = AddressSpace(max_unmap_sites=3)
    for stack in (1, 2, 3, 4, 5, 4, 1):
        space.apply(MunmapEntry(1001, 0, PAGE, Giver(1, stack, False)))
    space.apply(MunmapEntry(1001, 0, PAGE, Giver(0, 0, True)))
    rows = [(row.thread_uid, row.stack_key, row.owner, row.n_calls) for row in space.unmaps.totals(0)]
    assert rows == [
        (1, 1, Owner.PROGRAM, 2),
        (1, 2, Owner.PROGRAM, 1),
        (1, 3, Owner.PROGRAM, 1),
        (0, 0, Owner.PROGRAM, 3),
        (0, 0, Owner.ALLOCATOR, 1),
    ]
    assert space.unmaps.n_without_row == 3
    assert [row.number for row in space.unmaps.totals(0)] == list(range(5))
