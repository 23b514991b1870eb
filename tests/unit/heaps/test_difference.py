"""Differences of made-up walks: classes, joined neighbours, bounds."""

from __future__ import annotations

import functools
from collections import Counter

import pytest

from nativeleak.heaps.census import Amount, ArenaCensus, Census, HeapWalk
from nativeleak.heaps.difference import SizeCourse, difference, is_census, requests_of, sizes_of
from nativeleak.heaps.known import known_as
from nativeleak.watch.sizes import size_rows


def _walk(sizes: dict[int, int], kind: str = "glibc", unread: int = 0) -> HeapWalk:
    n_bytes = sum(size * count for size, count in sizes.items())
    census = Census(in_use=Amount(sum(sizes.values()), n_bytes), sizes=Counter(sizes))
    return HeapWalk(kind, "/libc.so.6", (ArenaCensus("main", 1, census),), Counter(), 0, 0, n_bytes + unread, ())


def test_difference_joins_a_size_of_glibc_with_the_next_one_and_keeps_the_sum() -> None:
    before, after = {208: 100, 224: 50, 272: 7}, {208: 7805, 224: 22, 272: 1869, 3008: 5}
    changes = difference(sizes_of([_walk(before)]), sizes_of([_walk(after)]))
    assert [(each.sizes, each.n_change) for each in changes] == [((208, 224), 7677), ((272,), 1862), ((3008,), 5)]
    assert sum(each.bytes_change for each in changes) == sum(size * n for size, n in after.items()) - sum(
        size * n for size, n in before.items()
    )


def test_difference_gives_a_shared_neighbour_to_the_class_that_changed_more() -> None:
    changes = difference(sizes_of([_walk({})]), sizes_of([_walk({192: 30, 208: 1000, 224: 10})]))
    assert [(each.sizes, each.n_change) for each in changes] == [((208, 224), 1010), ((192,), 30)]


def test_difference_of_other_allocators_joins_nothing() -> None:
    after = _walk({208: 5, 224: 3}, kind="jemalloc")
    assert [each.sizes for each in difference({}, sizes_of([after]))] == [(208,), (224,)]


def test_requests_are_those_that_give_the_chunk() -> None:
    # (bytes asked for + 8) rounded up to 16, at least 32
    for asked in (*range(1, 400), 3000, 100_000):
        chunk = max(32, -(-(asked + 8) // 16) * 16)
        low, high = requests_of("glibc", [chunk]) or (0, 0)
        assert low <= asked <= high
    assert requests_of("glibc", [208, 224]) == (185, 216)
    low, high = requests_of("glibc", [16_781_312]) or (0, 0)
    assert low <= (16 << 20) <= high
    assert requests_of("musl", [208]) is None


def test_course_of_many_walks_stays_bounded_and_keeps_first_and_newest() -> None:
    course = SizeCourse()
    for moment in range(1000):
        course.add(float(moment), [_walk({208: 10 + moment, 64: 500})])
    assert len(course.elapsed_s) <= 50
    assert (course.elapsed_s[0], course.elapsed_s[-1]) == (0.0, 999.0)
    (row,) = course.rows(10)
    assert (row.sizes, row.n_blocks[0], row.n_blocks[-1], row.n_bytes[-1]) == ((208,), 10, 1009, 1009 * 208)


@pytest.mark.parametrize(
    ("in_java", "name"), [(True, "buffer of 16 MiB: a chunk of Netty's pool"), (False, "buffer of 16 MiB")]
)
def test_growing_size_is_known_for_what_such_a_process_has(in_java: bool, name: str) -> None:
    course = SizeCourse()
    for moment in range(9):
        course.add(float(moment), [_walk({(16 << 20) + 4096: 3 + moment})])
    (row,) = size_rows(course, 5, functools.partial(known_as, in_java=in_java))
    assert (row.known, row.n_first, row.n_last) == (name, 3, 11)


def test_course_leaves_out_a_walk_that_read_too_little_and_counts_it() -> None:
    course = SizeCourse()
    course.add(0.0, [_walk({208: 1000})])
    course.add(1.0, [_walk({208: 10}, unread=1 << 20)])
    course.add(2.0, [_walk({208: 1010})])
    assert course.n_skipped == 1
    assert course.elapsed_s == [0.0, 2.0]
    assert not is_census([_walk({208: 10}, unread=1 << 20)])
    assert not is_census([])


def test_course_counts_blocks_of_sizes_that_it_has_no_room_for() -> None:
    course = SizeCourse()
    course.add(0.0, [_walk({1 << 20: 9})])
    course.add(1.0, [_walk({(1 << 20) + 16 * n: 1 for n in range(1, 5001)})])
    assert course.n_beyond == 5001 - 4096
    assert len(course.rows(9999)) == 4095


def test_course_of_a_class_that_comes_later_began_at_nothing() -> None:
    course = SizeCourse()
    course.add(0.0, [_walk({64: 3})])
    course.add(1.0, [_walk({64: 3, 4096: 8})])
    (row,) = course.rows(5)
    assert row.n_blocks.tolist() == [0, 8]
    assert row.n_bytes.tolist() == [0, 8 * 4096]
    assert sizes_of([]) == {}
    with pytest.raises(IndexError):
        course.rows(5)[1]
