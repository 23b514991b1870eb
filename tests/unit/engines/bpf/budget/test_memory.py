"""Limits that keep recorder and kernel tables inside of ``--max-memory``."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import pytest

from nativeleak.engines.bpf.budget.memory import (
    ENTRY_OVERHEAD_BYTES,
    fixed_map_bytes,
    limits_in_group,
    limits_within,
    parse_cpus,
    read_possible_cpus,
)
from nativeleak.engines.bpf.kernel import abi
from nativeleak.engines.bpf.kernel.programs import Limits
from nativeleak.errors import MendableError, UsageError
from nativeleak.process.cgroups import MemoryGroup

RSS = 30 << 20
N_CPUS = 2


def taken(limits: Limits) -> int:
    """What the two largest tables take in the kernel when they are full."""
    live = limits.n_allocations * (8 + ctypes.sizeof(abi.Live) + ENTRY_OVERHEAD_BYTES)
    sites = limits.n_sites * (16 + ctypes.sizeof(abi.Site) + ENTRY_OVERHEAD_BYTES)
    return live + sites


@pytest.mark.parametrize("bound", [64 << 20, 100 << 20, 1 << 30])
def test_limits_within_a_bound_fit_and_use_it(bound: int):
    limits = limits_within(Limits(n_allocations=1 << 27, n_sites=1 << 22), bound, RSS, N_CPUS)
    assert taken(limits) + RSS < bound
    assert limits.n_allocations >= 1000
    larger = limits_within(Limits(n_allocations=1 << 27, n_sites=1 << 22), 2 * bound, RSS, N_CPUS)
    assert larger.n_allocations > limits.n_allocations
    assert larger.n_sites > limits.n_sites


def test_limits_that_were_asked_for_never_grow():
    asked = Limits(n_allocations=5000, n_sites=300, n_threads=77, n_stacks=999, n_new_stacks=400)
    assert limits_within(asked, 8 << 30, RSS, N_CPUS) == asked


def test_bound_too_small_for_the_least_tables_is_refused_with_what_is_needed():
    with pytest.raises(UsageError, match="--max-memory 32 MiB is too little") as caught:
        limits_within(Limits(), 32 << 20, RSS, N_CPUS)
    assert "give at least --max-memory" in str(caught.value.remedy)


def test_bound_leaves_room_for_the_walks_of_every_processor():
    asked, bound = Limits(n_allocations=1 << 27, n_sites=1 << 22), 100 << 20
    few, many = limits_within(asked, bound, RSS, 2), limits_within(asked, bound, RSS, 128)
    # Blocks alone get 55 % of what is left for tables.
    assert taken(few) - taken(many) > 0.55 * (fixed_map_bytes(128) - fixed_map_bytes(2)) > 10 << 20
    assert taken(many) + fixed_map_bytes(128) + RSS < bound


@pytest.mark.parametrize(("text", "n"), [("0\n", 1), ("0-1\n", 2), ("0-15", 16), ("0-3,8,10-11", 7)])
def test_parse_cpus_counts_what_is_listed(text: str, n: int):
    assert parse_cpus(text) == n


@pytest.mark.parametrize("text", ["", "all", "0-"])
def test_parse_cpus_refuses_what_is_no_list(text: str):
    with pytest.raises(ValueError):
        parse_cpus(text)


def test_read_possible_cpus_has_all_that_may_be_used_here():
    assert read_possible_cpus() >= len(os.sched_getaffinity(0))


def group_with_room(room_bytes: int) -> MemoryGroup:
    return MemoryGroup(Path("/g"), 1 << 40, (1 << 40) - room_bytes, 0)


@pytest.mark.parametrize("room", [40 << 20, 100 << 20, 1 << 30])
def test_limits_in_a_group_fit_and_leave_a_quarter_of_the_room_to_the_target(room: int):
    asked = Limits(n_allocations=1 << 27, n_sites=1 << 22)
    limits = limits_in_group(asked, group_with_room(room), N_CPUS)
    assert taken(limits) + fixed_map_bytes(N_CPUS) + limits.ring_bytes < 0.75 * room
    assert 1000 <= limits.n_allocations < asked.n_allocations


def test_limits_in_a_group_with_room_are_those_asked_for():
    assert limits_in_group(Limits(), group_with_room(4 << 30), N_CPUS) == Limits()


def test_group_too_full_for_the_least_tables_is_refused_with_both_figures():
    with pytest.raises(MendableError, match=r"/g has 20 MiB left of .* smallest tables take 29\.9 MiB") as caught:
        limits_in_group(Limits(), group_with_room(20 << 20), N_CPUS)
    assert "run nativeleak outside of the group" in caught.value.remedy
