"""What is written into the kernel maps and read from them, as far as no kernel is asked."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable
from typing import Any, cast

import pytest

from nativeleak.engines.bpf.kernel import abi
from nativeleak.engines.bpf.kernel.limits import Limits, map_sizes
from nativeleak.engines.bpf.kernel.loaders.libbpf import BpfMap
from nativeleak.engines.bpf.kernel.maps import CounterTable, TargetTable, ThreadTable

PID = 4242


class Map:
    """A map in this process."""

    def __init__(self, key_bytes: int, value_bytes: int) -> None:
        self.key_bytes, self.value_bytes = key_bytes, value_bytes
        self.pairs: dict[bytes, bytes] = {}

    def update(self, key: bytes, value: bytes) -> None:
        assert (len(key), len(value)) == (self.key_bytes, self.value_bytes)
        self.pairs[key] = value

    def lookup(self, key: bytes) -> bytes | None:
        return self.pairs.get(key)

    def delete(self, key: bytes) -> bool:
        return self.pairs.pop(key, None) is not None


class Maps:
    """Maps by name, made when they are first asked for."""

    def __init__(self) -> None:
        self.by_name: dict[str, Map] = {}

    def take(self, name: str, key_bytes: int, value_bytes: int) -> BpfMap:
        return cast("BpfMap", self.by_name.setdefault(name, Map(key_bytes, value_bytes)))

    def of(self, name: str, number: int) -> bytes:
        return self.by_name[name].pairs[struct.pack("=I", number)]

    def target(self, slot: int) -> abi.Target:
        return abi.Target.from_buffer_copy(self.of("targets", slot))


@pytest.fixture
def maps() -> Maps:
    return Maps()


@pytest.fixture
def targets(maps: Maps) -> TargetTable:
    table = TargetTable(maps.take)
    table.add(5, PID, abi.Target(max_depth=127))
    return table


def test_target_table_added_target_is_found_by_its_tgid_and_its_window_stays_closed(
    maps: Maps, targets: TargetTable
) -> None:
    assert (maps.target(5).tgid, maps.target(5).max_depth) == (PID, 127)
    assert maps.of("slots", PID) == struct.pack("=I", 5)
    assert maps.by_name["windows"].pairs == {}
    targets.open_window(5, 10**9)
    assert maps.target(5).start_ns == 10**9
    assert maps.of("windows", 5) == struct.pack("=I", abi.WindowState.ON)


def test_target_table_removed_target_is_found_no_more(maps: Maps, targets: TargetTable) -> None:
    assert targets.remove(5) == PID
    assert maps.by_name["slots"].pairs == {}


@pytest.mark.parametrize(
    ("change", "field", "value"),
    [
        (lambda table: table.set_generation(3), "generation", 3),
        (lambda table: table.set_sampling(4096, 8192, abi.TargetFlag.PARTIAL), "sample_rate", 4096),
        (lambda table: table.set_sampling(4096, 8192, abi.TargetFlag.PARTIAL), "sample_above", 8192),
        (lambda table: table.set_sampling(4096, 8192, abi.TargetFlag.PARTIAL), "flags", 1),
    ],
)
def test_target_table_change_reaches_every_target(
    maps: Maps, targets: TargetTable, change: Callable[[TargetTable], Any], field: str, value: int
) -> None:
    targets.add(6, PID + 1, abi.Target())
    change(targets)
    assert [getattr(maps.target(slot), field) for slot in (5, 6)] == [value, value]


def test_target_table_mappings_are_whole_before_the_target_names_their_bank(maps: Maps, targets: TargetTable) -> None:
    targets.set_mappings(5, [(0x1000, 0x2000, -0x1000, 7)])
    targets.set_mappings(5, [(0x1000, 0x2000, 0, 7), (0x3000, 0x4000, 0x3000, abi.NO_TABLE)])
    banks = {epoch & 1: abi.Mappings.from_buffer_copy(maps.of("mappings", 10 + (epoch & 1))) for epoch in (1, 2)}
    assert [banks[bank].n for bank in (1, 0)] == [1, 2]
    assert banks[1].mappings[0].bias == (1 << 64) - 0x1000
    assert [entry.table for entry in banks[0].mappings[:2]] == [7, abi.NO_TABLE]
    assert maps.target(5).epoch == 2


def test_target_table_more_mappings_than_fit_are_cut(maps: Maps, targets: TargetTable) -> None:
    targets.set_mappings(5, [(n << 12, n + 1 << 12, 0, 0) for n in range(abi.MAX_MAPPINGS + 1)])
    assert abi.Mappings.from_buffer_copy(maps.of("mappings", 11)).n == abi.MAX_MAPPINGS


@pytest.mark.parametrize(("tid", "is_dropped"), [(PID, True), (PID + abi.THREAD_CACHE_SIZE, False)])
def test_thread_table_forgets_the_cached_thread_only_where_it_is_the_same(
    maps: Maps, tid: int, is_dropped: bool
) -> None:
    table = ThreadTable(maps.take)
    thread = bytearray(abi.THREAD_BYTES)
    struct.pack_into("=I", thread, abi.THREAD_TID_AT, tid)
    maps.by_name["thread_cache"].update(struct.pack("=I", 1 + PID % abi.THREAD_CACHE_SIZE), bytes(thread))
    maps.by_name["threads"].update(struct.pack("=I", PID), bytes(abi.THREAD_BYTES))
    table.forget(PID)
    assert maps.by_name["threads"].pairs == {}
    assert (maps.of("thread_cache", 1 + PID % abi.THREAD_CACHE_SIZE) == bytes(abi.THREAD_BYTES)) is is_dropped


def test_counter_table_sums_over_the_processors(maps: Maps) -> None:
    table = CounterTable(maps.take, 3)
    maps.by_name["counters"].update(struct.pack("=I", abi.Counter.FREES), struct.pack("=3Q", 1, 10, 100))
    assert table.read([abi.Counter.FREES, abi.Counter.CALLS]) == {abi.Counter.FREES: 111, abi.Counter.CALLS: 0}


def test_map_sizes_caches_only_where_the_kernel_has_what_they_need() -> None:
    def sizes(*, has_atomics: bool, has_exchange: bool) -> list[int]:
        found = map_sizes(Limits(), 4, has_atomics=has_atomics, has_exchange=has_exchange)
        return [found["live_cache"], found["thread_cache"]]

    every = 1 + (1 << abi.LIVE_CACHE_BITS)
    assert sizes(has_atomics=True, has_exchange=True) == [every, 1 + abi.THREAD_CACHE_SIZE]
    assert sizes(has_atomics=True, has_exchange=False) == [1, 1 + abi.THREAD_CACHE_SIZE]
    assert sizes(has_atomics=False, has_exchange=False) == [1, 1]


def test_map_sizes_follow_the_limits() -> None:
    limits = Limits(n_targets=3, n_allocations=11, n_sites=13, n_new_stacks=17, ring_bytes=4096)
    found = map_sizes(limits, 4, has_atomics=True, has_exchange=True)
    assert (found["live"], found["sites"], found["stacks"], found["stack_frames"]) == (11, 13, 17, 34)
    assert (found["mappings"], found["events"], found["scratch"]) == (6, 4096, 4 * abi.SCRATCH_PER_CPU)
    assert (found["live_cache"], found["site_cache"]) == (1, 1)


def test_target_structure_is_the_size_of_the_map() -> None:
    assert ctypes.sizeof(abi.Target) == 192
