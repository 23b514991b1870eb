"""A million outstanding allocations at 100 sites in 20 threads, and more than there is room for."""

from __future__ import annotations

import pytest

from support import Target, Trace, mismatches, nativeleak, site_totals, strangers, sums, totals
from tools.check_report import check


# The first of these tests waits for the trace of them all.
@pytest.mark.timeout(240)
def test_million_outstanding_from_100_sites_in_20_threads_is_exact(million):
    assert check(million.report) == []
    assert mismatches(million.report, million.truth) == []
    assert mismatches(million.everything, million.truth) == []
    assert strangers(million.report, million.truth) == []
    assert totals(million.report, "heap") == sums(million.truth, "heap")
    assert million.report["totals"]["heap"]["outstanding_count"] == 1000003
    assert len(million.report["sites"]) == 100
    assert len({site["thread"]["tid"] for site in million.report["sites"]}) == 20


def test_million_outstanding_loses_nothing(million):
    lost = {
        name: n for name, n in million.report["completeness"].items() if n and name.startswith(("lost", "unmatched"))
    }
    assert lost == {}
    assert million.report["window"]["snapshots"] >= 8


def test_allocations_beyond_the_limit_are_lost_and_counted_to_the_byte():
    with (
        Target("million", 3, 5, 10007) as target,
        Trace(target, options=["--max-allocations", 1000]) as trace,
    ):
        truth = target.go()
        report = trace.stop()
        everything = trace.all_sites()
        text = nativeleak("report", trace.recording)
    whole, kept, completeness = sums(truth, "heap"), totals(report, "heap"), report["completeness"]
    assert check(report) == []
    assert check(everything) == []
    assert kept["outstanding_count"] == 1000
    assert kept["allocated_count"] + completeness["lost_allocations"] == whole["allocated_count"]
    assert kept["allocated_bytes"] + completeness["lost_bytes"] == whole["allocated_bytes"]
    freed = whole["allocated_count"] - whole["outstanding_count"]
    assert report["totals"]["heap"]["freed_count"] + completeness["unmatched_frees"] == freed
    for site in truth["sites"]:
        size = site["outstanding_bytes"] // site["outstanding_count"]
        seen = site_totals(everything, site)
        assert seen["outstanding_bytes"] == seen["outstanding_count"] * size
        assert seen["allocated_bytes"] == seen["allocated_count"] * size
        assert seen["allocated_count"] <= site["allocated_count"]
    assert strangers(report, truth) == []

    assert text.returncode == 0
    answer = text.stdout.splitlines()[:6]
    assert any(
        line.startswith("ATTENTION") and f"{completeness['lost_allocations']:,} allocations" in line for line in answer
    )
    assert any("--max-allocations" in line for line in answer)


def test_room_that_was_freed_is_used_again():
    with Target("million", 2, 5, 997) as target, Trace(target, options=["--max-allocations", 1000]) as trace:
        target.go()
        target.ask("free")
        truth = target.ask("again")
        report = trace.stop()
        everything = trace.all_sites()
    assert mismatches(report, truth) == []
    assert mismatches(everything, truth) == []
    assert totals(report, "heap") == sums(truth, "heap")
    assert report["completeness"]["lost_allocations"] == 0
    assert report["completeness"]["unmatched_frees"] == 0


def test_sites_beyond_the_limit_are_counted_and_their_bytes_kept_at_others():
    with Target("million", 5, 7, 1009) as target, Trace(target, options=["--max-sites", 16]) as trace:
        truth = target.go()
        report = trace.stop()
    assert check(report) == []
    assert totals(report, "heap") == sums(truth, "heap")
    assert report["completeness"]["sites_full"] > 0
    assert report["completeness"]["lost_allocations"] == 0
    assert any(frame["function"] == "[stack lost]" for site in report["sites"] for frame in site["frames"])
