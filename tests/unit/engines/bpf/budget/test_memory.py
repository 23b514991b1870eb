"""Limits that keep recorder and kernel tables inside of ``--max-memory``."""

from __future__ import annotations

import ctypes

import pytest

from nativeleak.engines.bpf.budget.memory import ENTRY_OVERHEAD_BYTES, limits_within
from nativeleak.engines.bpf.kernel import abi
from nativeleak.engines.bpf.kernel.programs import Limits
from nativeleak.errors import UsageError

RSS = 30 << 20


def taken(limits: Limits) -> int:
    """What the two largest tables take in the kernel when they are full."""
    live = limits.n_allocations * (8 + ctypes.sizeof(abi.Live) + ENTRY_OVERHEAD_BYTES)
    sites = limits.n_sites * (16 + ctypes.sizeof(abi.Site) + ENTRY_OVERHEAD_BYTES)
    return live + sites


@pytest.mark.parametrize("bound", [64 << 20, 100 << 20, 1 << 30])
def test_limits_within_a_bound_fit_and_use_it(bound: int):
    limits = limits_within(Limits(n_allocations=1 << 27, n_sites=1 << 22), bound, RSS)
    assert taken(limits) + RSS < bound
    assert limits.n_allocations >= 1000
    larger = limits_within(Limits(n_allocations=1 << 27, n_sites=1 << 22), 2 * bound, RSS)
    assert larger.n_allocations > limits.n_allocations
    assert larger.n_sites > limits.n_sites


def test_limits_that_were_asked_for_never_grow():
    asked = Limits(n_allocations=5000, n_sites=300, n_threads=77, n_stacks=999, n_new_stacks=400)
    assert limits_within(asked, 8 << 30, RSS) == asked


def test_bound_too_small_for_the_least_tables_is_refused_with_what_is_needed():
    with pytest.raises(UsageError, match="--max-memory 32 MiB is too little") as caught:
        limits_within(Limits(), 32 << 20, RSS)
    assert "give at least --max-memory" in str(caught.value.remedy)
