"""Every rule of the map kind, with exact numbers of pages; the pages are prime so that no two sums agree by chance."""

from __future__ import annotations

import pytest

from nativeleak.ledger.map_sites import SiteId
from nativeleak.ledger.mapping_events import MAP_HUGETLB, MmapExit
from nativeleak.model import Kind, Owner
from unit.ledger.spaces import DONTUNMAP, NONE, PAGE, RW, Pages, entry


@pytest.mark.parametrize(
    ("at", "n_pages", "left", "n_pieces"), [(100, 7, 24, 1), (111, 13, 18, 2), (120, 11, 20, 1), (100, 31, 0, 0)]
)
def test_munmap_part_leaves_the_rest(at, n_pages, left, n_pieces):
    pages = Pages()
    pages.mmap(100, 31)
    pages.munmap(at, n_pages)
    assert pages.held() == (left, 1 if left else 0, 0)
    assert pages.flow() == (31, 1, n_pages, 0 if left else 1)
    assert len(pages.layout()) == n_pieces


def test_munmap_across_mappings_and_holes_frees_what_was_there():
    pages = Pages()
    pages.mmap(10, 11, stack=1)
    pages.mmap(30, 13, stack=2)
    pages.mmap(60, 17, stack=3)
    pages.munmap(15, 50)
    assert [pages.held(stack) for stack in (1, 2, 3)] == [(5, 1, 0), (0, 0, 0), (12, 1, 0)]


def test_munmap_unknown_memory_changes_nothing():
    pages = Pages()
    pages.mmap(10, 11)
    pages.munmap(30, 7)
    assert pages.held() == (11, 1, 0)


def test_mmap_length_is_rounded_up_to_pages():
    pages = Pages()
    pages.space.apply(MmapExit(1, 50 * PAGE, 2 * PAGE + 1, RW, 0, False, 1, 1, False, 1.0))
    assert pages.held() == (3, 1, 0)


@pytest.mark.parametrize(("flags", "n_pages"), [(MAP_HUGETLB, 512), (MAP_HUGETLB | 30 << 26, 1 << 18)])
def test_mmap_huge_pages_is_rounded_up_to_huge_pages(flags, n_pages):
    pages = Pages()
    pages.mmap(1 << 20, 7, flags=flags)
    assert pages.held() == (n_pages, 1, 0)


def test_mmap_over_old_mappings_replaces_them():
    pages = Pages()
    pages.mmap(10, 11, stack=1)
    pages.mmap(21, 13, stack=2)
    pages.mmap(17, 7, stack=3, uid=2)
    assert pages.held(1) == (7, 1, 0)
    assert pages.held(2) == (10, 1, 0)
    assert pages.held(3, uid=2) == (7, 1, 0)
    assert pages.layout() == [(10, 7, 1, True), (17, 7, 3, True), (24, 10, 2, True)]
    assert pages.total() == (24, 3, 0)


def test_munmap_failed_restores_what_it_held():
    pages = Pages()
    pages.mmap(10, 31)
    pages.mprotect(20, 3, NONE)
    before, flow = pages.layout(), pages.flow()
    pages.munmap(15, 13)
    assert pages.held() == (18, 1, 0)
    pages.failed()
    assert pages.layout() == before
    assert pages.flow() == flow


def test_munmap_failed_while_another_thread_maps_elsewhere_restores_only_its_own():
    pages = Pages()
    pages.mmap(10, 31, stack=1)
    pages.mmap(100, 11, stack=2)
    pages.munmap(10, 31, uid=1)
    pages.mmap(200, 7, uid=2, stack=3)
    pages.munmap(100, 11, uid=2)
    pages.failed(uid=1)
    assert pages.held(1) == (31, 1, 0)
    assert pages.held(2) == (0, 0, 0)
    assert pages.held(3, uid=2) == (7, 1, 0)


def test_munmap_failed_after_another_took_the_place_restores_the_rest_only():
    pages = Pages()
    pages.mmap(10, 31, stack=1)
    pages.munmap(10, 31, uid=1)
    pages.mmap(15, 7, uid=2, stack=2)
    pages.munmap(15, 5, uid=2)
    pages.failed(uid=1)
    assert pages.held(1) == (24, 1, 0)
    assert pages.held(2, uid=2) == (2, 1, 0)
    assert pages.layout() == [(10, 5, 1, True), (20, 2, 2, True), (22, 19, 1, True)]


def test_munmap_around_what_another_holds_leaves_that_to_it():
    pages = Pages()
    pages.mmap(10, 31)
    pages.munmap(20, 7, uid=2)
    pages.munmap(10, 31, uid=3)
    pages.failed(uid=2)
    pages.failed(uid=3)
    assert pages.held() == (31, 1, 0)
    pages.munmap(20, 7, uid=2)
    pages.munmap(10, 31, uid=3)
    pages.failed(uid=3)
    assert pages.held() == (24, 1, 0)
    pages.failed(uid=2)
    assert pages.layout() == [(10, 31, 1, True)]


def test_failed_after_another_event_of_the_thread_restores_nothing():
    pages = Pages()
    pages.mmap(10, 31)
    pages.munmap(10, 31)
    pages.mmap(100, 7, stack=2)
    pages.failed()
    assert pages.held() == (0, 0, 0)
    pages.munmap(100, 7)
    pages.space.forget_thread(1001)
    pages.failed()
    assert pages.held(2) == (0, 0, 0)


@pytest.mark.parametrize(("new", "n_new"), [(10, 31), (10, 7), (50, 13), (50, 31), (50, 5)])
def test_mremap_range_belongs_to_the_mremap(new, n_new):
    pages = Pages()
    pages.mmap(10, 13, stack=1)
    pages.mremap(10, 13, new, n_new, uid=2, stack=2)
    assert pages.flow(1) == (13, 1, 13, 1)
    assert pages.held(2, uid=2) == (n_new, 1, 0)
    assert pages.layout() == [(new, n_new, 2, True)]
    assert pages.site(2, uid=2).functions == ("mremap",)


def test_mremap_part_of_a_mapping_leaves_the_rest_to_the_old_call():
    pages = Pages()
    pages.mmap(10, 31, stack=1)
    pages.mremap(17, 5, 60, 11, stack=2)
    assert pages.held(1) == (26, 1, 0)
    assert pages.held(2) == (11, 1, 0)


def test_mremap_fixed_replaces_what_lies_there():
    pages = Pages()
    pages.mmap(10, 13, stack=1)
    pages.mmap(50, 31, stack=2)
    pages.mremap(10, 13, 53, 17, flags=3, stack=3)
    assert pages.layout() == [(50, 3, 2, True), (53, 17, 3, True), (70, 11, 2, True)]
    assert pages.held(2) == (14, 1, 0)


def test_mremap_dontunmap_leaves_the_old_range_outstanding():
    pages = Pages()
    pages.mmap(10, 13, stack=1)
    pages.mremap(10, 13, 50, 13, flags=1 | DONTUNMAP, stack=2)
    assert pages.flow(1) == (13, 1, 0, 0)
    assert pages.held(2) == (13, 1, 0)
    assert pages.layout() == [(10, 13, 1, True), (50, 13, 2, True)]


def test_mremap_of_length_zero_maps_a_second_time():
    pages = Pages()
    pages.mmap(10, 13, stack=1, file=True)
    pages.mremap(10, 0, 50, 7, stack=2)
    assert pages.held(1) == (13, 1, 0)
    assert pages.held(2) == (7, 1, 0)
    assert [piece.file_backed for piece in pages.space.pieces()] == [True, True]


def test_mremap_of_several_mappings_keeps_the_holes_between_them():
    pages = Pages()
    pages.mmap(10, 5, stack=1)
    pages.mmap(18, 7, NONE, stack=2)
    pages.mmap(50, 31, stack=3)
    pages.mremap(10, 15, 53, 15, flags=3, stack=4)
    assert pages.layout() == [
        (50, 3, 3, True),
        (53, 5, 4, True),
        (58, 3, 3, True),
        (61, 7, 4, False),
        (68, 13, 3, True),
    ]
    assert pages.held(4) == (5, 1, 7)
    assert pages.held(3) == (19, 1, 0)
    pages.mremap(50, 31, 50, 9, stack=5)
    assert pages.held(5) == (9, 1, 0)


def test_mremap_failed_restores_the_old_range():
    pages = Pages()
    pages.mmap(10, 13)
    before = pages.layout(), pages.flow()
    pages.mremap_entry(10, 13)
    assert pages.held() == (0, 0, 0)
    pages.failed()
    assert (pages.layout(), pages.flow()) == before


def test_mremap_keeps_the_protection_of_what_it_moves():
    pages = Pages()
    pages.mmap(10, 13, NONE, stack=1)
    pages.mprotect(10, 5, RW)
    pages.mremap(10, 13, 50, 19, stack=2)
    assert pages.layout() == [(50, 5, 2, True), (55, 14, 2, False)]
    assert pages.held(2) == (5, 1, 14)
    assert pages.held(1) == (0, 0, 0)


def test_mremap_whose_old_place_is_taken_before_its_exit_keeps_the_protection():
    pages = Pages()
    pages.mmap(10, 13, NONE, stack=1)
    pages.mremap_entry(10, 13)
    pages.mmap(10, 13, uid=2, stack=2)
    pages.mremap_exit(10, 13, 50, 13, stack=3)
    assert pages.layout() == [(10, 13, 2, True), (50, 13, 3, False)]


def test_mremap_without_its_entry_event_removes_the_old_range():
    pages = Pages()
    pages.mmap(10, 13, stack=1)
    pages.mremap_exit(10, 13, 50, 17, stack=2)
    assert pages.layout() == [(50, 17, 2, True)]


def test_mremap_of_unknown_memory_is_accessible_memory_of_the_mremap():
    pages = Pages()
    pages.mremap(10, 13, 50, 17, stack=2)
    assert pages.held(2) == (17, 1, 0)


def test_mremap_of_allocator_memory_stays_the_allocators():
    pages = Pages()
    pages.mmap(10, 13, allocator=True)
    pages.mremap(10, 13, 50, 17, stack=2)
    pages.mmap(100, 7, stack=3)
    pages.mremap(100, 7, 200, 11, stack=4, allocator=True)
    assert pages.total(Owner.ALLOCATOR) == (28, 2, 0)
    assert pages.total() == (0, 0, 0)


def test_mprotect_none_splits_and_reserves():
    pages = Pages()
    pages.mmap(10, 31)
    pages.mprotect(17, 5, NONE)
    assert pages.held() == (26, 1, 5)
    assert pages.layout() == [(10, 7, 1, True), (17, 5, 1, False), (22, 19, 1, True)]
    pages.mprotect(15, 11, RW)
    assert pages.held() == (31, 1, 0)
    assert pages.flow() == (36, 1, 5, 0)
    assert pages.layout() == [(10, 31, 1, True)]


def test_mprotect_whole_mapping_counts_the_call_out_and_in():
    pages = Pages()
    pages.mmap(10, 31, NONE)
    assert pages.flow() == (0, 0, 0, 0)
    pages.mprotect(10, 31, RW)
    pages.mprotect(10, 31, NONE)
    pages.mprotect(10, 7, RW)
    assert pages.flow() == (38, 2, 31, 1)
    assert pages.held() == (7, 1, 24)


def test_hotspot_reserve_commit_uncommit_cycles_leave_exactly_nothing():
    pages = Pages()
    pages.mmap(1000, 997, NONE, stack=1)
    for cycle in range(5):
        for region in range(0, 990, 11):
            pages.mmap(1000 + region, 11, RW, stack=2)
        assert pages.held(2) == (990, 90, 0)
        assert pages.held(1) == (0, 0, 7)
        for region in range(0, 990, 11):
            pages.mmap(1000 + region, 11, NONE, stack=3)
        assert pages.held(2) == (0, 0, 0)
        assert pages.flow(2) == (990 * (cycle + 1), 90 * (cycle + 1)) * 2
        assert pages.total() == (0, 0, 997)
    pages.munmap(1000, 997)
    assert pages.total() == (0, 0, 0)
    assert pages.layout() == []


def test_allocator_memory_is_kept_apart():
    pages = Pages()
    pages.mmap(10, 31, stack=5)
    pages.mmap(100, 37, stack=5, allocator=True)
    pages.munmap(105, 7)
    assert pages.held(5, owner=Owner.ALLOCATOR) == (30, 1, 0)
    assert pages.held(5, owner=Owner.PROGRAM) == (31, 1, 0)
    assert [end - start for start, end, _ in pages.space.outstanding_ranges()] == [31 * PAGE]


def test_memory_from_before_is_at_no_site_but_can_be_mapped_over():
    pages = Pages(entry(10, 31), entry(41, 13, "---p"), entry(60, 7, "r-xp", "/usr/lib/libz.so"))
    assert pages.space.site_totals(0, 0.0) == []
    pages.mprotect(41, 5, RW)
    pages.munmap(12, 3)
    pages.mmap(20, 11, stack=2)
    pages.mmap(43, 7, stack=3)
    pages.munmap(62, 2)
    assert pages.total() == (18, 2, 0)
    assert pages.layout() == [
        (10, 2, None, True),
        (15, 5, None, True),
        (20, 11, 2, True),
        (31, 12, None, True),
        (43, 7, 3, True),
        (50, 4, None, False),
        (60, 2, None, True),
        (64, 3, None, True),
    ]
    pages.mremap(31, 12, 100, 13, stack=4)
    assert pages.held(4) == (13, 1, 0)


def test_file_mappings_are_counted_and_told_apart():
    pages = Pages()
    pages.mmap(10, 13, stack=1, file=True)
    pages.mmap(30, 17, stack=1)
    pages.munmap(10, 2)
    totals = pages.space.totals(Kind.MAP, Owner.PROGRAM)
    assert (totals.outstanding_bytes, totals.file_bytes) == (28 * PAGE, 11 * PAGE)


def test_reclassify_moves_a_site_to_the_jvm():
    pages = Pages()
    pages.mmap(10, 13, stack=1)
    pages.mmap(30, 17, stack=2)
    pages.space.reclassify(SiteId(Kind.MAP, 1, 1, Owner.PROGRAM), Owner.RUNTIME)
    pages.mmap(50, 7, stack=1)
    assert pages.total(Owner.RUNTIME) == (20, 2, 0)
    assert pages.total() == (17, 1, 0)
    pages.space.reclassify(SiteId(Kind.MAP, 9, 9, Owner.PROGRAM), Owner.RUNTIME)
    assert pages.total(Owner.RUNTIME) == (20, 2, 0)


def test_reclassify_stack_covers_other_threads_and_later_ones_but_not_the_allocator():
    pages = Pages()
    pages.mmap(10, 13, stack=1, uid=1)
    pages.mmap(30, 17, stack=1, uid=2, allocator=True)
    pages.space.reclassify_stack(1, Owner.RUNTIME)
    pages.mmap(50, 7, stack=1, uid=3)
    pages.mmap(60, 5, stack=1, uid=4, allocator=True)
    assert pages.total(Owner.RUNTIME) == (20, 2, 0)
    assert pages.total(Owner.ALLOCATOR) == (22, 2, 0)


def test_site_totals_ages_and_resident_bytes():
    pages = Pages()
    pages.mmap(10, 13, stack=1)
    pages.mmap(30, 17, stack=1)
    pages.mmap(47, 3, stack=1)
    pages.mmap(60, 5, NONE, stack=2)
    pages.mmap(70, 5, stack=3, allocator=True)
    pages.munmap(10, 13)
    asked = []

    def resident(start, end):
        asked.append((start // PAGE, end // PAGE))
        return PAGE

    one, two, three = pages.space.site_totals(7, 12.0, resident)
    assert asked == [(30, 50)]
    assert (one.key, one.oldest_s, one.resident_bytes) == ((Kind.MAP, 7, 1, 1), 10.0, PAGE)
    assert (two.oldest_s, two.resident_bytes, two.reserved_bytes) == (None, 0, 5 * PAGE)
    assert (three.owner, three.oldest_s, three.resident_bytes) == (Owner.ALLOCATOR, 7.0, None)
    [one, *_] = pages.space.site_totals(7, 12.0, {SiteId(Kind.MAP, 1, 1, Owner.PROGRAM): 8191})
    assert one.resident_bytes == 8191
    assert pages.space.site_totals(7, 12.0)[0].resident_bytes is None


def test_retire_drops_ended_threads_with_nothing_left_only():
    pages = Pages()
    pages.mmap(10, 13, uid=1)
    pages.mmap(30, 17, uid=2)
    pages.mmap(50, 7, uid=3)
    pages.mmap(60, 5, uid=4)
    pages.munmap(10, 20, uid=9)
    pages.munmap(50, 7, uid=9)
    pages.munmap(60, 5, uid=9)
    retired = pages.space.retire(0, {1, 2, 4})
    assert [(site.key.thread_uid, site.allocated_bytes, site.freed_bytes) for site in retired] == [
        (1, 13 * PAGE, 13 * PAGE)
    ]
    pages.failed(uid=9)
    assert pages.total() == (17 + 5, 2, 0)


def test_forget_all_after_exec_leaves_nothing():
    pages = Pages(entry(10, 31))
    pages.mmap(100, 13)
    pages.brk(77 * PAGE)
    pages.munmap(100, 13)
    pages.space.forget_all()
    pages.failed()
    pages.brk(99 * PAGE)
    assert pages.layout() == []
    assert pages.space.site_totals(0, 0.0) == []
