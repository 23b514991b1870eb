"""A snapshot from what a made-up kernel has counted, of this very process."""

from __future__ import annotations

import os
import struct

import pytest

from nativeleak.engines.bpf.collector import Collector
from nativeleak.engines.bpf.kernel import abi
from nativeleak.engines.threads import OVERFLOW
from nativeleak.ledger.slices import BANKS_BYTES
from nativeleak.model import Kind, Level, Owner, SiteKey, TargetInfo
from nativeleak.process import procfs
from nativeleak.process.check import TargetFacts
from unit.engines.bpf.kernels import MadeUpKernel

SLOT, UID, STACK = 0, 17, 0x1009
SITE = SiteKey(Kind.HEAP, SLOT, UID, STACK)
PAGE = 4096
PLACE = 0x10_0000_0000
"""Where nothing of a Python process lies."""


def site(freed, allocated):
    """A ``struct nl_site``: (bytes, count) freed and allocated, all of it outstanding from the first slice."""
    slices = [allocated[0] - freed[0], allocated[1] - freed[1]] + [0] * (BANKS_BYTES // 8 - 2)
    return struct.pack("=QQQQII", *freed, *allocated, 0, 0) + struct.pack(f"={len(slices)}q", *slices)


def live_block(born, n_bytes, kept=0):
    """One entry of the live set of ``SITE``."""
    key = struct.pack("=Q", 0xABC000 | SLOT << abi.SLOT_SHIFT)
    value = struct.pack("=QQIIII", n_bytes, STACK, UID, born, 1, kept)
    return memoryview(key), memoryview(value), 1


class Traced:
    def __init__(self):
        self.notes = []
        self.kernel = MadeUpKernel()
        self.collector = Collector(
            self.kernel, lambda _stacks: None, lambda *note: self.notes.append(note), lambda _frames: None
        )
        pid = os.getpid()
        facts = TargetFacts(pid, "python3", procfs.read_exe(pid), procfs.read_start_ticks(pid), pid, True, True)
        self.state = self.collector.add_target(SLOT, facts, TargetInfo(SLOT, pid, "python3", facts.exe))
        self.collector.open_window(self.state)
        self.collector.on_event(self.event(abi.EventType.THREAD))
        self.kernel.sites[SLOT, UID, STACK] = site((101, 1), (1009, 8))

    def event(self, kind, **values):
        return abi.Event(type=kind, slot=SLOT, tid=4242, thread=UID, **values)

    def map(self, n_pages, *, in_allocator=False):
        flags = abi.IN_ALLOCATOR if in_allocator else 0
        event = self.event(abi.EventType.MMAP, ret=PLACE, flags=flags, time_ns=self.state.start_ns + 1)
        event.args[1], event.args[2], event.args[3] = n_pages * PAGE, 3, 0x22
        self.collector.on_event(event)

    def unmap(self, n_pages):
        event = self.event(abi.EventType.MUNMAP, time_ns=self.state.start_ns + 2)
        event.args[0], event.args[1] = PLACE, n_pages * PAGE
        self.collector.on_event(event)


@pytest.fixture
def traced():
    traced = Traced()
    yield traced
    traced.collector.close()


def sites(snapshot):
    return {each.key: each for each in snapshot.sites}


def test_snapshot_has_the_kernels_totals_and_threads(traced):
    snapshot = traced.collector.snapshot()
    assert (sites(snapshot)[SITE].outstanding_bytes, sites(snapshot)[SITE].outstanding_count) == (908, 7)
    assert [thread.uid for thread in snapshot.threads] == [0, UID]
    assert snapshot.threads[0] == OVERFLOW
    assert snapshot.rss_bytes > 0
    assert 0 < snapshot.elapsed_s < 60
    assert snapshot.counters["kernel_map_bytes"] == traced.kernel.map_memory_bytes()
    assert traced.collector.snapshot().threads == ()


def test_snapshot_of_an_ended_thread_retires_what_it_gave_back(traced):
    traced.map(7)
    traced.unmap(7)
    traced.kernel.sites[SLOT, UID, STACK] = site((1009, 8), (1009, 8))
    traced.collector.on_event(traced.event(abi.EventType.THREAD_EXIT))
    snapshot = traced.collector.snapshot()
    assert SITE not in sites(snapshot)
    assert traced.kernel.sites == {}
    sums = {(each.key.kind, each.owner): each.allocated_bytes for each in snapshot.retired}
    assert sums == {(Kind.HEAP, Owner.PROGRAM): 1009, (Kind.MAP, Owner.PROGRAM): 7 * PAGE}
    assert all(each.outstanding_bytes == 0 for each in snapshot.retired)
    assert traced.collector.snapshot().retired == snapshot.retired


def test_snapshot_of_an_ended_thread_keeps_what_is_outstanding(traced):
    traced.collector.on_event(traced.event(abi.EventType.THREAD_EXIT))
    snapshot = traced.collector.snapshot()
    assert sites(snapshot)[SITE].outstanding_bytes == 908
    assert [thread.alive for thread in snapshot.threads if thread.uid == UID] == [False]


def test_snapshot_has_mappings_with_what_is_resident_of_them(traced):
    traced.map(7)
    (mapping,) = (each for each in traced.collector.snapshot().sites if each.key.kind is Kind.MAP)
    assert (mapping.outstanding_bytes, mapping.resident_bytes, mapping.owner) == (7 * PAGE, 0, Owner.PROGRAM)


def test_snapshot_reads_exact_ages_only_at_the_end(traced):
    traced.kernel.live = [live_block(born=0, n_bytes=908)]
    elapsed_s = traced.collector.elapsed_s()
    oldest_s = sites(traced.collector.snapshot(final=True))[SITE].oldest_s
    assert elapsed_s <= oldest_s + 0.001
    traced.kernel.live = [live_block(born=1 << 31, n_bytes=908)]  # after the end: an age of nothing
    assert sites(traced.collector.snapshot())[SITE].oldest_s > 0
    assert sites(traced.collector.snapshot(final=True))[SITE].oldest_s <= 0


def test_snapshot_of_sampled_blocks_says_how_certain_it_is(traced):
    traced.kernel.live = [live_block(born=0, n_bytes=908, kept=1 << 31)]
    assert sites(traced.collector.snapshot())[SITE].uncertainty.n_sampled == 0
    traced.collector.set_level(Level.SAMPLED)
    uncertainty = sites(traced.collector.snapshot())[SITE].uncertainty
    assert uncertainty == (1, 0.5 * 908 * 908, 2.0)


def test_snapshot_counts_since_the_counters_were_started(traced):
    traced.kernel.counters |= {abi.Counter.CALLS: 100, abi.Counter.DECLINED: 30, abi.Counter.FREES: 50}
    traced.collector.start_counters()
    traced.kernel.counters |= {abi.Counter.CALLS: 107, abi.Counter.DECLINED: 33, abi.Counter.FREES: 61}
    snapshot = traced.collector.snapshot()
    assert snapshot.probe_hits == 2 * 7 - 3 + 11
    assert (snapshot.counters["calls"], snapshot.counters["frees"]) == (7, 11)


def test_snapshot_after_lost_events_looks_at_the_address_space_anew(traced):
    traced.map(7)  # this process has nothing there: the event of its munmap was lost
    traced.kernel.counters[abi.Counter.LOST_EVENTS] = 3
    snapshot = traced.collector.snapshot()
    assert [each.outstanding_bytes for each in snapshot.sites if each.key.kind is Kind.MAP] == [0]
    assert [what for what, _ in traced.notes] == ["resync"]
    traced.collector.snapshot()
    assert len(traced.notes) == 1


def test_snapshot_after_the_targets_end_asks_nothing_of_it(traced):
    traced.collector.target_exited(traced.state)
    snapshot = traced.collector.snapshot()
    assert snapshot.rss_bytes == 0
    assert [target.end.value for target in snapshot.targets] == ["exited"]
