"""Which sites give way, when, and what becomes of their stacks."""

from __future__ import annotations

import errno
import struct

import pytest

from nativeleak.engines.bpf.kernel import abi
from nativeleak.engines.bpf.kernel.limits import Limits
from nativeleak.engines.bpf.naming_queue import NamingQueue
from nativeleak.engines.bpf.retirement import MANY_NEW, SiteRetirement
from nativeleak.engines.bpf.stack_store import DroppedStack
from nativeleak.ledger.heap import HeapLedger
from nativeleak.ledger.slices import BANKS_BYTES
from nativeleak.model import Kind, SiteKey

SLOT, UID, CHECK = 0, 17, 0x1009
N_SITES = 8
LIMITS = Limits(n_sites=N_SITES, n_new_stacks=64)


def value(allocated, freed, check):
    return struct.pack("=QQQQII", 101 * freed, freed, 101 * allocated, allocated, check, 0) + bytes(BANKS_BYTES)


class Kernel:
    """Sites by their key, as counts, and the stacks of those that are new."""

    def __init__(self):
        self.sites = {}
        self.checks = {}
        self.new_stacks = {}
        self.while_waiting = []
        self.failure = None
        self.stacks = self

    def allocate(self, stack, n=1, freed=0, thread=UID):
        key = (SLOT, thread, stack)
        allocated, was_freed = self.sites.get(key, (0, 0))
        if key not in self.sites:
            self.new_stacks.setdefault(stack, DroppedStack(stack, bytes(24), b""))
            self.checks[key] = CHECK
        self.sites[key] = (allocated + n, was_freed + freed)

    def mark_sites(self, sites):
        for *key, check in sites:
            self.checks[tuple(key)] = check

    def wait_for_programs(self):
        if self.failure:
            raise self.failure
        for act in self.while_waiting:
            act()

    def delete_sites(self, sites):
        for site in sites:
            del self.sites[site], self.checks[site]

    def drop(self, keys):
        return {key: self.new_stacks.pop(key) for key in keys if key in self.new_stacks}


class Traced:
    def __init__(self):
        self.kernel, self.heap, self.queue, self.now_s = Kernel(), HeapLedger(), NamingQueue(), 0.0
        self.retirement = SiteRetirement(
            self.kernel, self.heap, self.queue, LIMITS, self.read, clock=lambda: self.now_s
        )

    def read(self):
        self.heap.read(
            [(*key, value(*counts, self.kernel.checks[key])) for key, counts in self.kernel.sites.items()], 0
        )

    def fill(self, n, *, freed=1):
        for stack in range(1, n + 1):
            self.kernel.allocate(stack, freed=freed)
            self.queue.add(stack, has_runtime=False)
            self.retirement.saw_new_stack()

    def stacks(self):
        return {stack for _, _, stack in self.kernel.sites}


@pytest.fixture
def traced():
    return Traced()


def test_nothing_gives_way_below_three_quarters(traced):
    traced.fill(5)
    for _ in range(3):
        assert traced.retirement.look() == []
    assert len(traced.kernel.sites) == 5
    assert not traced.retirement.is_pressed
    assert not traced.retirement.is_due()


def test_empty_and_quiet_sites_of_a_living_thread_give_way_and_their_totals_stay(traced):
    traced.fill(6)
    traced.kernel.allocate(6)  # holds a block
    assert traced.retirement.is_due()
    traced.retirement.look()
    assert len(traced.kernel.sites) == 6  # nobody had looked at them before
    traced.retirement.look()
    assert traced.stacks() == {6}
    assert traced.heap.allocated() == (7 * 101, 7, 6 * 101, 6)
    assert traced.heap.n_retired == 5
    assert [*traced.queue.batches(1.0)] == [[6]]
    assert set(traced.kernel.new_stacks) == {6}


def test_site_that_gets_a_block_while_it_is_marked_stays_and_is_unmarked(traced):
    traced.fill(6)
    traced.retirement.look()
    traced.kernel.while_waiting = [lambda: traced.kernel.allocate(3)]
    traced.retirement.look()
    assert traced.stacks() == {3}
    assert traced.kernel.checks == {(SLOT, UID, 3): CHECK}
    assert 3 in traced.kernel.new_stacks


def test_site_that_was_used_since_the_look_before_is_not_quiet(traced):
    traced.fill(6)
    traced.retirement.look()
    traced.kernel.allocate(4, freed=1)
    traced.retirement.look()
    assert traced.stacks() == {4}


def test_block_booked_on_the_twin_counts_for_the_site(traced):
    traced.fill(6)
    traced.retirement.look()
    traced.kernel.while_waiting = [lambda: traced.kernel.allocate(2, thread=UID | abi.TWIN)]
    traced.retirement.look()
    traced.read()
    (row,) = traced.heap.snapshot(1.0, 0, lambda _: ((), None))
    assert row.key == SiteKey(Kind.HEAP, SLOT, UID, 2)
    assert (row.allocated_count, row.outstanding_count) == (1, 1)


def test_site_and_its_twin_are_one_in_a_snapshot_and_stay_while_both_are_there(traced):
    traced.fill(6)
    traced.kernel.allocate(2, n=3, freed=1, thread=UID | abi.TWIN)
    traced.retirement.look()
    traced.retirement.look()
    assert {thread for _, thread, _ in traced.kernel.sites} == {UID, UID | abi.TWIN}
    traced.kernel.allocate(2)
    traced.read()
    (row,) = traced.heap.snapshot(1.0, 0, lambda _: ((), None))
    assert row.key == SiteKey(Kind.HEAP, SLOT, UID, 2)
    assert (row.allocated_count, row.outstanding_count) == (5, 3)


def test_stack_of_a_site_that_comes_back_at_once_is_named_after_all(traced):
    traced.fill(6)
    traced.retirement.look()
    traced.retirement.look()
    traced.kernel.sites[SLOT, UID, 5], traced.kernel.checks[SLOT, UID, 5] = (1, 0), CHECK  # found its stack stored
    again = traced.retirement.look()
    assert [stack.key for stack in again] == [5]
    assert traced.retirement.look() == []


def test_looks_between_snapshots_take_a_quarter_of_the_time_at_most(traced):
    traced.fill(6, freed=0)
    read = traced.retirement._read

    def slow():
        read()
        traced.now_s += 1.0

    traced.retirement._read = slow
    traced.retirement.look()
    traced.now_s += 2.9
    assert not traced.retirement.is_due()
    traced.now_s += 0.2
    assert traced.retirement.is_due()


def test_waiting_that_the_kernel_refuses_ends_it_and_takes_the_marks_back(traced):
    traced.fill(6)
    traced.retirement.look()
    traced.kernel.failure = OSError(errno.EINVAL, "nohz_full")
    traced.retirement.look()
    assert len(traced.kernel.sites) == 6
    assert {*traced.kernel.checks.values()} == {CHECK}
    assert not traced.retirement.is_due()


def test_last_look_leaves_only_stacks_with_a_block_to_name_where_room_was_needed_once(traced):
    traced.fill(6)
    traced.retirement.look()
    traced.kernel.allocate(4)
    traced.kernel.allocate(7, freed=1)
    traced.queue.add(7, has_runtime=False)
    assert traced.retirement.look_last() == []
    assert [*traced.queue.batches(1.0)] == [[4]]
    (row,) = traced.heap.snapshot(1.0, 0, lambda _: ((), None))
    assert (row.key.stack_key, row.outstanding_count) == (4, 1)
    assert traced.heap.allocated() == (8 * 101, 8, 7 * 101, 7)


def test_last_look_leaves_all_stacks_to_name_where_there_was_room(traced):
    traced.fill(5)
    traced.retirement.look()
    assert traced.retirement.look_last() == []
    assert [*traced.queue.batches(1.0)] == [[1, 2, 3, 4, 5]]


def test_many_new_sites_are_read_between_snapshots_and_none_gives_way(traced):
    traced.fill(5, freed=0)
    for _ in range(MANY_NEW - 1 - 5):
        traced.retirement.saw_new_stack()
    assert not traced.retirement.has_many_new
    traced.retirement.saw_new_stack()
    assert traced.retirement.has_many_new
    traced.retirement.read_new()
    assert not traced.retirement.has_many_new
    assert traced.heap.n_sites == len(traced.kernel.sites) == 5
