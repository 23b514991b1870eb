"""operator new that throws: the target lives, and the counts stay exact, by default and within a budget.

Five cases run always; ``NATIVELEAK_TEST_LONG=1`` runs all.
"""

from __future__ import annotations

import pytest

from support import IS_LONG, Target, Trace, mismatches, preload

N_THROWS = 211
CASES = [
    ("", "limit"),
    ("", "absurd"),
    ("jemalloc", "limit"),
    ("jemalloc", "handler"),
    ("jemalloc", "absurd"),
    ("jemalloc", "nothrow"),
    ("tcmalloc", "limit"),
    ("tcmalloc", "handler"),
    ("tcmalloc", "absurd"),
    ("tcmalloc", "nothrow"),
    ("mimalloc", "nothrow"),
]
"""mimalloc's operator new does not throw: built as C, it ends the process where it would have to."""


def traced(target, *options):
    with Trace(target, options=options) as trace:
        truth = target.go()
        report = trace.stop()
        everything = trace.all_sites()
    target.close()
    assert target.process.returncode == 0
    return truth, report, everything


SAMPLE = [
    ("auto", "", "limit"),
    ("auto", "jemalloc", "handler"),
    ("auto", "tcmalloc", "absurd"),
    ("auto", "mimalloc", "nothrow"),
    ("exits", "jemalloc", "limit"),
]
"""``operator new`` is seen at its exits either way."""
RUNS = [(returns, *case) for returns in ("auto", "exits") for case in CASES]
CHOSEN = RUNS if IS_LONG else SAMPLE


@pytest.mark.parametrize(("returns", "allocator", "why"), CHOSEN)
def test_operator_new_that_throws_leaves_the_target_alive_and_is_exact(allocator, why, returns):
    with Target("throwing_new", why, env=preload(allocator) if allocator else None) as target:
        truth, report, everything = traced(target, "--returns", returns)
    assert truth["caught"] == N_THROWS
    assert mismatches(report, truth) == []
    assert mismatches(everything, truth) == []
    assert report["completeness"]["failed"] >= N_THROWS - 1


@pytest.mark.parametrize("returns", ["auto", "exits"])
def test_operator_new_of_its_own_over_a_quota_is_exact(returns):
    with Target("throwing_new_quota", "quota") as target:
        truth, report, everything = traced(target, "--returns", returns)
    assert truth["caught"] == N_THROWS
    assert mismatches(report, truth) == []
    assert mismatches(everything, truth) == []
    assert report["target"]["allocators"][0] == "throwing_new_quota"


@pytest.mark.parametrize(
    ("name", "allocator", "why"), [("throwing_new", "jemalloc", "limit"), ("throwing_new_quota", "", "quota")]
)
def test_operator_new_that_throws_inside_a_budget_leaves_the_target_alive(name, allocator, why):
    with Target(name, why, env=preload(allocator) if allocator else None) as target:
        truth, _, _ = traced(target, "--max-overhead", "5%")
    assert truth["caught"] == N_THROWS
