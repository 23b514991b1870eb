"""Races and rates: many threads at the same addresses, and more calls than any program makes, not one of them lost.

NATIVELEAK_TEST_OPERATIONS=10000000 for the long race; benchmarks/soak.py holds the rate for a minute.
"""

from __future__ import annotations

import os

import pytest

from support import Target, Trace, mismatches, one_processor, processors_of, strangers, sums, totals
from tools.check_report import check

N_OPERATIONS = int(os.environ.get("NATIVELEAK_TEST_OPERATIONS", "2000000"))
"""Allocations and frees of the race together."""

N_THREADS = 8
RATE = 200_000
"""Allocations a second, of two threads together."""

NOTHING = (
    "lost_allocations",
    "lost_bytes",
    "lost_stacks",
    "lost_events",
    "unmatched_frees",
    "overwritten",
    "abandoned",
    "failed",
    "nested",
    "skipped",
    "no_scratch",
    "sites_full",
    "threads_full",
    "stack_collisions",
)


def assert_exact(truth, report, everything):
    assert check(report) == []
    assert mismatches(report, truth) == []
    assert mismatches(everything, truth) == []
    assert strangers(report, truth) == []
    assert totals(report, "heap") == sums(truth, "heap")
    assert {name: report["completeness"][name] for name in NOTHING} == dict.fromkeys(NOTHING, 0)


def race(n_operations):
    """Exact, whatever the threads do to each other; the processors that they and the tracer could run on."""
    rounds = n_operations // 2 // N_THREADS
    with Target("race", rounds, N_THREADS) as target, Trace(target, options=["--interval", "0.5s"]) as trace:
        processors = processors_of(target.pid) | processors_of(trace.process.pid)
        truth = target.go(timeout_s=100 + n_operations / 20_000)
        report = trace.stop()
        everything = trace.all_sites()
    assert_exact(truth, report, everything)
    assert len(truth["sites"]) == N_THREADS
    assert report["totals"]["heap"]["allocated_count"] == rounds * N_THREADS
    # Blocks come back to the allocator from whoever got them: all but the kept ones, and what lies in the slots.
    kept = N_THREADS * (rounds // 1009)
    assert kept <= report["totals"]["heap"]["outstanding_count"] <= kept + 5
    return processors


# Two million take some ten seconds on two cores.
@pytest.mark.timeout(120 + N_OPERATIONS // 20_000)
def test_eight_threads_racing_for_one_size_class_are_exact():
    race(N_OPERATIONS)


@pytest.mark.timeout(120 + N_OPERATIONS // 20_000)
def test_eight_threads_racing_on_one_processor_are_exact():
    with one_processor():
        processors = race(N_OPERATIONS // 5)
    assert len(processors) == 1


def test_two_hundred_thousand_allocations_a_second_lose_nothing():
    seconds = 4
    with Target("churn", RATE // 2 * seconds, 2, RATE // 2) as target, Trace(target) as trace:
        truth = target.go()
        report = trace.stop()
        everything = trace.all_sites()
    assert_exact(truth, report, everything)
    assert report["totals"]["heap"]["allocated_count"] == RATE * seconds + 2 * 101
    # Two cores and another test beside it may take longer; a tracer that slows it down to a tenth is another matter.
    assert truth["elapsed_ns"] < 10 * seconds * 1e9
