"""Threads by number: the same tid twice, names that come late, and ends."""

from __future__ import annotations

from nativeleak.engines.threads import OVERFLOW, ThreadTable
from nativeleak.model import ThreadInfo


def test_uid_of_a_tid_that_is_used_again_is_another():
    threads = ThreadTable()
    first = threads.uid(0, 77, "old")
    assert threads.uid(0, 77, "ignored") == first
    threads.end(0, 77)
    second = threads.uid(0, 77)
    assert second != first
    assert threads.take_changed() == (
        ThreadInfo(first, 0, 77, "old", alive=False),
        ThreadInfo(second, 0, 77, "[thread 77]"),
    )
    assert threads.take_changed() == ()


def test_uid_of_the_same_tid_in_two_targets_is_two():
    threads = ThreadTable()
    assert threads.uid(0, 0, "all") != threads.uid(1, 0, "all")
    assert threads.tids(0) == []
    one = threads.uid(1, 5, "five")
    assert threads.tids(1) == [5]
    threads.rename(0, 5, "another target's")
    assert threads.get(one) == ThreadInfo(one, 1, 5, "five")


def test_rename_of_the_unknown_and_to_nothing_changes_nothing():
    threads = ThreadTable()
    uid = threads.uid(0, 5, "five")
    threads.take_changed()
    threads.rename(0, 6, "six")
    threads.rename(0, 5, "")
    threads.rename_all(0, {5: "five", 7: "seven"})
    assert threads.take_changed() == ()
    threads.rename_all(0, {5: "the fifth", 7: "seven"})
    assert threads.take_changed() == (ThreadInfo(uid, 0, 5, "the fifth"),)


def test_take_under_the_kernels_numbers_is_found_by_tid_until_its_end():
    threads = ThreadTable()
    threads.take(OVERFLOW)
    threads.take(ThreadInfo(1009, 3, 42, "worker"))
    assert (threads.find(3, 42), threads.find(0, 0), threads.find(3, 43)) == (1009, 0, 0)
    threads.end(3, 42, 1009, "worker-with-its-full-name")
    assert threads.find(3, 42) == 0
    assert threads.ended == {1009}
    assert threads.take_changed() == (
        OVERFLOW,
        ThreadInfo(1009, 3, 42, "worker-with-its-full-name", alive=False),
    )


def test_end_of_a_thread_that_only_the_kernel_has_numbered_is_kept():
    threads = ThreadTable()
    threads.end(0, 9)
    assert threads.take_changed() == ()
    threads.end(0, 9, 31, "short-lived")
    assert threads.take_changed() == (ThreadInfo(31, 0, 9, "short-lived", alive=False),)


def test_end_of_one_thread_leaves_the_one_that_has_its_tid_by_now():
    threads = ThreadTable()
    threads.take(ThreadInfo(1, 0, 9, "first"))
    threads.end(0, 9, 1)
    threads.take(ThreadInfo(2, 0, 9, "second"))
    threads.rename(0, 9, "second, renamed")
    assert threads.get(1) == ThreadInfo(1, 0, 9, "first", alive=False)
    assert threads.get(2) == ThreadInfo(2, 0, 9, "second, renamed")
    assert threads.ended == {1}
