"""The program break, System V segments, and making the map agree with /proc/PID/maps after a loss."""

from __future__ import annotations

from nativeleak.ledger.address_space import AddressSpace
from nativeleak.ledger.map_sites import Resync
from nativeleak.ledger.mapping_events import BrkExit
from nativeleak.model import Kind, Owner
from unit.ledger.spaces import NONE, PAGE, Entry, Pages, entry

HEAP = entry(100, 17, path="[heap]")
TOP = 117 * PAGE


def brk_bytes(pages, owner=Owner.PROGRAM):
    totals = pages.space.totals(Kind.BRK, owner)
    return totals.outstanding_bytes, totals.outstanding_count


def test_brk_growth_belongs_to_its_calls_and_is_given_back_from_the_end():
    pages = Pages(HEAP)
    pages.brk(TOP + 7919, stack=1)
    pages.brk(TOP + 7919 + 104729, stack=2, uid=2)
    assert brk_bytes(pages) == (7919 + 104729, 2)
    pages.brk(TOP + 7919 + 7, uid=3)
    assert pages.site(2, uid=2, kind=Kind.BRK).outstanding_bytes == 7
    pages.brk(TOP + 5003, uid=3)
    assert pages.site(2, uid=2, kind=Kind.BRK).outstanding_count == 0
    assert brk_bytes(pages) == (5003, 1)
    assert pages.site(1, kind=Kind.BRK).functions == ("brk",)


def test_brk_below_the_start_is_never_negative():
    pages = Pages(HEAP)
    pages.brk(TOP - 5 * PAGE)
    assert brk_bytes(pages) == (0, 0)
    assert pages.layout() == [(100, 12, None, True)]
    pages.brk(TOP - 2 * PAGE)
    assert brk_bytes(pages) == (3 * PAGE, 1)
    pages.brk(TOP - 11 * PAGE)
    assert brk_bytes(pages) == (0, 0)


def test_brk_unknown_at_the_start_is_learned_from_the_first_event():
    pages = Pages()
    pages.brk(TOP)
    assert brk_bytes(pages) == (0, 0)
    pages.brk(TOP + 13)
    assert brk_bytes(pages) == (13, 1)


def test_brk_without_a_heap_starts_where_the_break_began():
    space = AddressSpace()
    space.load_baseline([entry(10, 31)], TOP + 16)
    space.apply(BrkExit(1, TOP + 16 + 7919, 1, 1, False, 1.0))
    assert space.totals(Kind.BRK, Owner.PROGRAM).outstanding_bytes == 7919
    space = AddressSpace()
    space.load_baseline([HEAP], HEAP.start)
    space.apply(BrkExit(1, TOP + 7919, 1, 1, False, 1.0))
    assert space.totals(Kind.BRK, Owner.PROGRAM).outstanding_bytes == 7919


def test_brk_within_the_last_page_of_the_start_is_memory_from_before():
    pages = Pages(HEAP)
    pages.brk(TOP - 1000)
    assert brk_bytes(pages) == (0, 0)
    pages.brk(TOP - 1000 + 7919)
    assert brk_bytes(pages) == (7919, 1)


def test_brk_refused_changes_nothing():
    pages = Pages(HEAP)
    pages.brk(TOP + 13)
    pages.brk(TOP + 13, stack=2)
    assert brk_bytes(pages) == (13, 1)


def test_brk_in_an_allocator_is_backing():
    pages = Pages(HEAP)
    pages.brk(TOP + 33 * PAGE, allocator=True)
    assert brk_bytes(pages) == (0, 0)
    assert brk_bytes(pages, Owner.ALLOCATOR) == (33 * PAGE, 1)
    pages.brk(TOP + 40 * PAGE)
    pages.brk(TOP + 31 * PAGE, allocator=True)
    assert brk_bytes(pages) == (0, 0)
    assert brk_bytes(pages, Owner.ALLOCATOR) == (31 * PAGE, 1)


def test_shmdt_removes_the_segment_that_starts_there_with_its_own_length():
    pages = Pages(entry(10, 7, "rw-s", "/SYSV00000000 (deleted)"), entry(17, 5, "rw-s", "/SYSV00000000 (deleted)"))
    pages.shmat(50, 13, stack=1)
    pages.shmat(63, 11, stack=2)
    pages.mmap(55, 3, stack=3)
    pages.shmdt(50)
    pages.shmdt(10)
    pages.shmdt(60)
    assert pages.layout() == [(17, 5, None, True), (55, 3, 3, True), (63, 11, 2, True)]
    assert pages.held(1) == (0, 0, 0)
    assert pages.total() == (14, 2, 0)


def test_shmdt_failed_restores_the_segment():
    pages = Pages()
    pages.shmat(50, 13)
    pages.mmap(55, 3, stack=2)
    before, flow = pages.layout(), pages.flow()
    pages.shmdt(50)
    assert pages.held() == (0, 0, 0)
    pages.failed()
    assert (pages.layout(), pages.flow()) == (before, flow)
    pages.shmdt(50)
    assert pages.layout() == [(55, 3, 2, True)]


def test_shmdt_finds_a_segment_where_mremap_has_moved_it():
    pages = Pages()
    pages.shmat(50, 13, stack=1)
    pages.mremap(50, 13, 80, 13, stack=2)
    pages.shmdt(80)
    assert pages.layout() == []


def test_resync_frees_what_is_gone_and_adds_what_is_unknown():
    pages = Pages(entry(10, 31), HEAP)
    pages.mmap(200, 13, stack=1)
    pages.mmap(300, 17, stack=2)
    pages.mmap(400, 11, NONE, stack=3)
    pages.mmap(1000, 3, stack=4)
    changed = pages.space.resync(
        [
            entry(10, 31),
            HEAP,
            entry(200, 7),
            entry(300, 5),
            entry(305, 12, "---p"),
            entry(400, 11, "r--p"),
            entry(500, 19, path="/tmp/x"),
            entry(600, 2, "---p"),
        ]
    )
    assert changed == Resync(21 * PAGE, (6 + 3) * PAGE, 2)
    assert [pages.held(stack) for stack in (1, 2, 3, 4)] == [(7, 1, 0), (5, 1, 12), (11, 1, 0), (0, 0, 0)]
    assert pages.space.resync_unknown_bytes == 21 * PAGE
    assert pages.total() == (23, 3, 12)
    pages.munmap(500, 3)
    pages.mmap(510, 2, stack=5)
    assert pages.space.resync_unknown_bytes == 16 * PAGE
    assert pages.held(5) == (2, 1, 0)


def test_resync_of_an_agreeing_map_changes_nothing():
    pages = Pages(entry(10, 31), HEAP)
    pages.brk(TOP + 7919)
    pages.mmap(300, 17, stack=2)
    before = pages.layout(), list(pages.space.pieces())
    now = [entry(10, 31), Entry(HEAP.start, TOP + 2 * PAGE, "rw-p", "[heap]"), entry(300, 17)]
    assert pages.space.resync(now) == Resync(0, 0, 0)
    assert (pages.layout(), list(pages.space.pieces())) == before
    pages.brk(TOP + 7919 + 13)
    assert brk_bytes(pages) == (7932, 2)


def test_resync_with_a_moved_break_takes_the_new_one():
    pages = Pages(HEAP)
    pages.brk(TOP + 29 * PAGE)
    split = [entry(100, 3, path="[heap]"), entry(103, 2, "r--p", "[heap]"), entry(105, 23, path="[heap]")]
    assert pages.space.resync(split) == Resync(0, 18 * PAGE, 0)
    pages.brk(128 * PAGE + 7, stack=2)
    assert brk_bytes(pages) == (11 * PAGE + 7, 2)


def test_resync_while_a_removal_is_under_way_lets_it_fail_without_harm():
    pages = Pages()
    pages.mmap(10, 13)
    pages.munmap(10, 13)
    assert pages.space.resync([entry(10, 13)]) == Resync(13 * PAGE, 0, 0)
    pages.failed()
    assert pages.total() == (0, 0, 0)


def test_resync_then_mremap_exit_still_moves_what_was_held():
    pages = Pages()
    pages.mmap(10, 13, NONE)
    pages.mremap_entry(10, 13)
    pages.space.resync([entry(50, 13, "---p")])
    pages.mremap_exit(10, 13, 50, 13, stack=2)
    assert pages.layout() == [(50, 13, 2, False)]
    assert pages.space.resync_unknown_bytes == 0


def test_resync_enters_system_v_segments():
    pages = Pages()
    pages.space.resync([entry(10, 13, "rw-s", "/SYSV0000002a (deleted)")])
    pages.shmdt(10)
    assert pages.layout() == []
