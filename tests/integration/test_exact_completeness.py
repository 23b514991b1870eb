"""What a report says of its own completeness: each counter by a number that the target knows."""

from __future__ import annotations

import pytest

from stacks import read_snapshot_count
from support import Target, Trace, eventually, nativeleak
from tools.check_report import check


def wait_for_first_snapshot(trace):
    """Growth is told from the first snapshot on."""
    eventually(lambda: read_snapshot_count(trace.recording), "the first snapshot")


def test_resident_growth_is_explained_by_the_sites_in_percent():
    with Target("grows") as target, Trace(target, options=["--interval", "0.2s"]) as trace:
        wait_for_first_snapshot(trace)
        target.ask("heap 61")
        target.ask("map 31")
        report = trace.stop()
        text = nativeleak("report", trace.recording).stdout
    resident = report["resident"]
    grown = resident["last_bytes"] - resident["first_bytes"]
    assert check(report) == []
    assert 92 << 20 <= grown < 100 << 20
    assert resident["explained_pct"] == pytest.approx(100 * resident["explained_bytes"] / grown, abs=0.1)
    assert 95 <= resident["explained_pct"] <= 105
    text = " ".join(text.split())
    assert "live blocks +61" in text
    assert "mapped by the program +31 MiB" in text


def test_resident_growth_that_no_call_made_is_not_explained():
    with Target("grows") as target, Trace(target, options=["--interval", "0.2s"]) as trace:
        wait_for_first_snapshot(trace)
        # Touches memory that was mapped before the trace.
        target.ask("touch 47")
        report = trace.stop()
    resident = report["resident"]
    assert resident["last_bytes"] - resident["first_bytes"] >= 47 << 20
    assert 0 <= resident["explained_pct"] < 1


def test_resident_memory_that_did_not_grow_has_no_percentage():
    with Target("exits") as target, Trace(target) as trace:
        target.go()
        report = trace.stop()
    assert report["resident"]["explained_pct"] is None


def test_counters_of_calls_without_return_and_of_unmatched_frees_are_exact():
    with Target("own") as own, Trace(own, options=["--returns", "probes"]) as trace:
        truth = own.go()
        abandoned = trace.stop()["completeness"]["abandoned"]
    with Target("oddcalls") as odd, Trace(odd) as trace:
        unmatched = odd.go()["unmatched_frees"]
        found = trace.stop()["completeness"]
    assert abandoned == truth["abandoned"]
    assert found["unmatched_frees"] == unmatched
    assert (found["abandoned"], found["truncated_stacks"], found["unresolved_frames"]) == (0, 0, 0)


def test_frames_without_a_name_are_counted():
    with Target("static_stripped") as target, Trace(target, options=["--maps-only"]) as trace:
        target.go()
        report = trace.stop()
    frames = {frame["ip"] for row in report["sites"] for frame in row["frames"]}
    assert report["completeness"]["unresolved_frames"] >= len(frames) > 0
    assert report["completeness"]["resolved_frames"] == 0
