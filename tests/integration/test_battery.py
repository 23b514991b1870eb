"""Every way to allocate, resize, free and fail: equal to the target's own ledger, by site and thread, to the byte."""

from __future__ import annotations

import pytest

from support import (
    IS_LONG,
    PRELOADS,
    Target,
    TargetError,
    Trace,
    mismatches,
    one_processor,
    preload,
    processors_of,
    require,
    seen_as,
    site_totals,
    strangers,
    sums,
    totals,
)
from tools.check_report import check

PAGE_BYTES = 4096

SBRK = dict.fromkeys(("brk_first", "brk_second", "brk_dropped", "brk_shrink"), "sbrk")

LOSSES = (
    "lost_allocations",
    "lost_bytes",
    "lost_stacks",
    "lost_events",
    "truncated_stacks",
    "unresolved_frames",
    "stack_collisions",
    "sites_full",
    "threads_full",
    "no_scratch",
    "abandoned",
    "overwritten",
    "bad_pointer",
    "skipped",
)
"""Counters of a report that stay 0 where every call is seen, finds room and returns."""


def losses(report):
    return {name: report["completeness"][name] for name in LOSSES if report["completeness"].get(name)}


MODES = {
    "session": "uprobe session",
    "multi": "uprobe multi",
    "perf": "perf events",
    "tracefs": "perf events by tracefs",
}


@pytest.mark.parametrize("mode", MODES)
def test_battery_attached_in_each_mode_is_exact_site_for_site(mode):
    with Target("battery") as target:
        try:
            trace = Trace(target, options=["--attach", mode, "-v"])
        except TargetError as error:
            require("loading the BPF programs failed" not in str(error), f"this kernel cannot attach by {mode}")
            raise
        with trace:
            truth = target.go()
            report = trace.stop()
            everything = trace.all_sites()
    assert check(report) == []
    assert check(everything) == []
    assert mismatches(report, truth) == []
    assert mismatches(everything, truth) == []
    assert strangers(report, truth) == []
    assert totals(report, "heap") == sums(truth, "heap")
    for key in ("outstanding_bytes", "outstanding_count"):
        assert report["totals"]["map"][key] == sums({"sites": report["sites"]}, "map")[key]
    assert totals(report, "brk") == dict.fromkeys(totals(report, "brk"), 0)
    assert report["completeness"]["unmatched_frees"] == truth["unmatched_frees"] + truth["unmatched_reallocs"]
    assert losses(report) == {}
    assert f"attached by {MODES[mode]}\n" in trace.stderr


def run_battery_on(allocator):
    """The battery's truth and both reports, and the processors that it and its tracer could run on."""
    name = "battery_musl" if allocator == "musl" else "battery"
    with Target(name, env=preload(allocator) if allocator in PRELOADS else None) as target, Trace(target) as trace:
        processors = processors_of(target.pid) | processors_of(trace.process.pid)
        truth = target.go()
        report = trace.stop()
        return truth, report, trace.all_sites(), processors


def assert_exact_on(allocator, truth, report, everything):
    assert mismatches(report, truth) == []
    assert mismatches(everything, truth) == []
    assert strangers(report, truth) == []
    assert totals(report, "heap") == sums(truth, "heap")
    # Inner functions of libraries without a full symbol table have no names.
    lost = losses(report)
    if allocator != "glibc":
        lost.pop("unresolved_frames", None)
    assert lost == {}


@pytest.mark.parametrize("allocator", [*sorted(PRELOADS), "musl"])
def test_battery_on_another_allocator_is_exact_site_for_site(allocator):
    truth, report, everything, _ = run_battery_on(allocator)
    assert_exact_on(allocator, truth, report, everything)


# Threads that take turns are interrupted anywhere, in the middle of an allocator's call too.
@pytest.mark.parametrize("allocator", ["glibc", *sorted(PRELOADS), "musl"] if IS_LONG else ["glibc", "jemalloc"])
def test_battery_on_one_processor_is_exact_site_for_site(allocator):
    with one_processor():
        truth, report, everything, processors = run_battery_on(allocator)
    assert len(processors) == 1
    assert_exact_on(allocator, truth, report, everything)


def test_battery_mapped_memory_says_what_is_reserved_and_what_is_resident():
    with Target("battery") as target, Trace(target) as trace:
        truth = target.go()
        report = trace.stop()
        everything = trace.all_sites()
    reserved = sum(site.get("reserved_bytes", 0) for site in truth["sites"])
    assert report["totals"]["map"]["reserved_bytes"] == reserved
    for site in truth["sites"]:
        rows = [
            row
            for row in everything["sites"]
            if row["thread"]["tid"] == site["tid"] and site["function"] in [f["function"] for f in row["frames"]]
        ]
        if "reserved_bytes" in site and site["outstanding_bytes"]:
            assert sum(row["reserved_bytes"] for row in rows) == site["reserved_bytes"], site
        # Written whole, then all but 6 of 19 pages given back by madvise.
        if site["function"] == "map_advised":
            assert [row["resident_bytes"] for row in rows] == [site["allocated_count"] * 6 * PAGE_BYTES]
            assert site_totals(report, site)["outstanding_bytes"] == site["allocated_count"] * 19 * PAGE_BYTES


def test_battery_traced_by_maps_only_is_exact_for_mapped_memory():
    with Target("battery") as target, Trace(target, options=["--maps-only"]) as trace:
        truth = target.go()
        report = trace.stop()
    assert check(report) == []
    assert mismatches(report, truth, kinds=["map"]) == []
    assert report["mode"]["probes"] == ["mmap", "brk"]
    assert report["totals"]["heap"]["allocated_count"] == 0
    assert report["overhead"]["probe_hits"] == 0


def test_brk_moved_up_and_down_without_a_heap_is_exact():
    with Target("brk") as target, Trace(target) as trace:
        truth = seen_as(target.go(), SBRK)
        report = trace.stop()
        everything = trace.all_sites()
    assert check(report) == []
    assert mismatches(report, truth) == []
    assert mismatches(everything, truth) == []
    assert strangers(report, truth) == []
    assert totals(report, "brk") == sums(truth, "brk")
    assert totals(report, "heap") == totals(report, "map") == dict.fromkeys(totals(report, "heap"), 0)
    assert losses(report) == {}


@pytest.mark.parametrize(("depth", "n_frames"), [(127, 127), (11, 11)])
def test_stack_deeper_than_the_limit_is_cut_and_counted(depth, n_frames):
    with Target("deep") as target, Trace(target, options=["--max-depth", depth]) as trace:
        truth = target.go()
        report = trace.stop()
    assert mismatches(report, truth) == []
    (site,) = report["sites"]
    # A line that only says how many were left out is none of them.
    assert len([frame for frame in site["frames"] if "left out" not in frame["function"]]) == n_frames
    assert [frame["function"] for frame in site["frames"][:4]] == [
        "malloc",
        "deep_keep",
        "deep_descend",
        "deep_descend",
    ]
    assert site["truncated"]
    # The allocator's own growth happens at the same depth: two calls of sbrk, at stacks of their own.
    assert report["completeness"]["truncated_stacks"] in (1, 2, 3)


def test_size_limits_leave_smaller_and_larger_blocks_out():
    with Target("million", 2, 5, 1009) as target, Trace(target, options=["--min-size", 61, "--max-size", 97]) as trace:
        truth = target.go()
        freed = target.ask("free")
        report = trace.stop()
        everything = trace.all_sites()
    sizes = {"million_site_2": 61, "million_site_3": 97}
    inside = {**freed, "sites": [site for site in freed["sites"] if site["function"] in sizes]}
    outside = [site for site in truth["sites"] if site["function"] not in sizes]
    assert report["sites"] == []
    assert mismatches(everything, inside) == []
    assert totals(report, "heap") == sums(inside, "heap")
    assert report["completeness"]["skipped"] == sum(site["allocated_count"] for site in outside)
    assert report["completeness"]["unmatched_frees"] == sum(site["allocated_count"] for site in outside)
    assert (report["mode"]["min_size"], report["mode"]["max_size"]) == (61, 97)
