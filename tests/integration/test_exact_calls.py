"""Calls that other tests leave out, each held against a truth of its own: library functions that allocate, edges of the
malloc family, address space with holes and failures, children, calls that never return, threads by the thousand."""

from __future__ import annotations

import os

import pytest

from support import (
    COMPARED,
    Target,
    Trace,
    bpf_objects,
    eventually,
    mismatches,
    nativeleak,
    preload,
    strangers,
    sums,
    target_path,
    totals,
)
from tools.check_report import check

N_LIVES = int(os.environ.get("NATIVELEAK_TEST_LIVES", "20000"))
"""Short-lived threads: 100000 takes a minute."""

LOSSES = (
    "lost_allocations",
    "lost_bytes",
    "lost_stacks",
    "lost_events",
    "stack_collisions",
    "sites_full",
    "threads_full",
    "no_scratch",
    "overwritten",
    "bad_pointer",
)


def traced(target, options=()):
    """Trace all of a target's work: its truth, the report, the report with all sites."""
    with Trace(target, options=options) as trace:
        truth = target.go()
        report = trace.stop()
        everything = trace.all_sites()
    return truth, report, everything


def assert_exact(truth, report, everything, kinds=("heap", "map", "brk")):
    assert check(report) == []
    assert check(everything) == []
    assert mismatches(report, truth, kinds) == []
    assert mismatches(everything, truth, kinds) == []
    assert {name: report["completeness"][name] for name in LOSSES} == dict.fromkeys(LOSSES, 0)


# ---- heap ----


def test_library_functions_that_allocate_are_exact_and_named_by_their_caller():
    # What the C library asks for is its own business: a library that counts says it, in a run without a trace.
    with Target("libcalls", env={"LD_PRELOAD": str(target_path("librecord.so"))}) as recorded:
        truth = recorded.go()
    assert sum(site["allocated_count"] for site in truth["sites"]) > 1000
    with Target("libcalls") as target:
        for site in truth["sites"]:
            site["tid"] = target.pid
        _, report, everything = traced(target)
    assert_exact(truth, report, everything)
    assert strangers(report, truth) == []
    assert totals(report, "heap") == sums(truth, "heap")
    assert report["completeness"]["unmatched_frees"] == 0


def test_calls_at_the_edges_of_the_malloc_family_are_exact():
    with Target("oddcalls") as target:
        truth, report, everything = traced(target)
    assert_exact(truth, report, everything)
    assert strangers(report, truth) == []
    assert totals(report, "heap") == sums(truth, "heap")
    assert report["completeness"]["unmatched_frees"] == truth["unmatched_frees"]
    assert report["completeness"]["abandoned"] == 0


@pytest.mark.parametrize("returns", ["auto", "probes"])
def test_allocator_left_without_a_return_is_exact_from_the_next_call_on(returns):
    with Target("own") as target:
        truth, report, everything = traced(target, ["--returns", returns])
    assert_exact(truth, report, everything)
    # At exits a call that was left counts as failed: an exception leaves its function in the same way.
    names = ("abandoned",) if returns == "probes" else ("abandoned", "failed")
    assert sum(report["completeness"].get(name, 0) for name in names) == truth["abandoned"]
    # Nothing else but what it takes to make threads: stacks, and blocks of the loader for their storage.
    made_by = ("pthread_create", "allocate_dtv")
    assert [line for line in strangers(report, truth) if not any(name in line for name in made_by)] == []
    assert report["target"]["allocators"][0] == "own"


@pytest.mark.parametrize("allocator", ["", "jemalloc", "tcmalloc"])
def test_operator_new_that_throws_leaves_the_program_alive_and_is_exact(allocator):
    with Target("throws", env=preload(allocator) if allocator else None) as target:
        truth, report, everything = traced(target)
        assert target.process.poll() is None
    assert_exact(truth, report, everything)
    assert report["completeness"]["failed"] >= 19


def test_library_with_an_allocator_closed_and_loaded_again_is_exact():
    with Target("dlclose") as target, Trace(target) as trace:
        links = bpf_objects(trace.process.pid)["link"]
        target.send("load")
        assert target.readline() == "LOADED"
        # Of frees, then at exits and entries of realloc, then at exits and entries of all others.
        eventually(lambda: len(bpf_objects(trace.process.pid)["link"] - links) >= 5, "probes in the library")
        truth = target.go()
        report = trace.stop()
        everything = trace.all_sites()
    assert_exact(truth, report, everything)
    # The library's own mappings of all rounds, but for the last, are gone.
    assert report["target"]["allocators"] == ["libc.so.6", "liballoc2.so"]


# ---- address space ----


@pytest.mark.parametrize("options", [(), ("--maps-only",)])
def test_address_space_with_holes_places_and_failures_is_exact(options):
    with Target("maps") as target:
        truth, report, everything = traced(target, options)
    assert_exact(truth, report, everything)
    mapped = [row for row in report["sites"] if row["kind"] == "map"]
    assert strangers({"sites": mapped}, truth) == []
    reserved = sum(site["reserved_bytes"] for site in truth["sites"] if site["kind"] == "map")
    assert report["totals"]["map"]["reserved_bytes"] == reserved > 0
    assert report["totals"]["map"]["outstanding_bytes"] == sum(
        site["outstanding_bytes"] for site in truth["sites"] if site["kind"] == "map"
    )


def test_advice_locks_and_huge_pages_move_resident_bytes_and_nothing_else():
    with Target("maps") as target:
        truth, report, _ = traced(target)
    sites = {f"{site['function']}/{site['tid']}": site for site in truth["sites"]}
    for name, n_bytes in truth["resident"].items():
        site = sites[name]
        rows = [
            row
            for row in report["sites"]
            if row["kind"] == "map"
            and row["thread"]["tid"] == site["tid"]
            and site["function"] in [frame["function"] for frame in row["frames"]]
        ]
        assert sum(row["resident_bytes"] for row in rows) == n_bytes, name
        assert sum(row["outstanding_bytes"] for row in rows) == site["outstanding_bytes"], name
    assert len(truth["resident"]) == 14
    assert 0 < report["totals"]["map"]["resident_bytes"] < report["totals"]["map"]["outstanding_bytes"]


def test_program_break_moved_by_odd_bytes_is_exact_to_the_byte():
    with Target("brk_odd") as target:
        truth, report, everything = traced(target)
    assert_exact(truth, report, everything)
    assert strangers(report, truth) == []
    assert totals(report, "brk") == sums(truth, "brk")


# ---- children and threads ----


def test_children_by_vfork_spawn_fork_and_system_change_nothing_of_the_parent():
    with Target("spawns") as target:
        truth, report, everything = traced(target)
    assert_exact(truth, report, everything)
    assert report["target"]["end"] == "running"
    assert report["totals"]["brk"]["outstanding_bytes"] == 0


# Twenty thousand threads take eight seconds here.
@pytest.mark.timeout(240)
def test_threads_by_the_thousand_that_end_at_once_are_exact():
    with Target("lives", N_LIVES, 4) as target, Trace(target, options=["--interval", "1s"]) as trace:
        truth = target.go(timeout_s=200)
        report = trace.stop()
        text = nativeleak("report", trace.recording).stdout
    assert check(report) == []
    kept = [row for row in report["sites"] if "lives_block" in [frame["function"] for frame in row["frames"]]]
    assert len(kept) == truth["kept_count"]
    assert sum(row["outstanding_bytes"] for row in kept) == truth["kept_bytes"]
    # Each is the block that its thread kept, by the number that is in the thread's name.
    assert {row["thread"]["name"]: row["outstanding_bytes"] for row in kept} == {
        f"life-{number}": 17 + number % 1009 for number in range(0, N_LIVES, 101)
    }
    # Sites of threads that ended with nothing outstanding live on in the totals: what is missing is pthread_create's.
    heap = report["totals"]["heap"]
    assert heap["allocated_count"] >= truth["allocated_count"]
    assert heap["allocated_bytes"] >= truth["allocated_bytes"]
    assert heap["freed_count"] >= truth["allocated_count"] - truth["kept_count"]
    assert {name: report["completeness"][name] for name in LOSSES} == dict.fromkeys(LOSSES, 0)
    assert report["completeness"]["abandoned"] == 0
    assert "ATTENTION" not in text


def test_totals_of_a_truth_are_what_is_compared():
    """Guards the comparison itself: a report that is wrong by one byte or one count is seen."""
    with Target("exits") as target:
        truth, report, _ = traced(target)
    for key in COMPARED[:2]:
        wrong = {**truth, "sites": [{**truth["sites"][0], key: truth["sites"][0][key] + 1}]}
        assert len(mismatches(report, wrong)) == 1
