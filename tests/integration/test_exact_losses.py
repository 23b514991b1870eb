"""More than there is room for: what is lost is counted exactly, what is kept stays true, and the report says so first.

Losses of heap allocations and of call sites alone are in test_million.py; here is all the rest.
"""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from nativeleak.process.procfs import read_maps
from support import Target, Trace, eventually, mismatches, nativeleak, site_totals, strangers, sums, totals
from tools.check_report import check

MAP_BYTES = 3 * 4096
BLOCK_BYTES = 127
EVENT_BYTES = 96 + 8
"""``struct nl_event`` and the kernel's header of a record in the ring buffer."""


def first_lines(trace):
    """The answer of the text report, its wrapped lines joined."""
    shown = nativeleak("report", trace.recording)
    assert shown.returncode == 0
    return " ".join(shown.stdout.split("\n\n")[0].split())


class Stopped:
    """A tracer that stands still: what happens meanwhile has only the kernel's buffers to go to."""

    def __init__(self, trace):
        self.trace = trace

    def __enter__(self):
        self.trace.process.send_signal(signal.SIGSTOP)
        stat = Path(f"/proc/{self.trace.process.pid}/stat")
        eventually(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", "the tracer stopped")

    def __exit__(self, *_):
        self.trace.process.send_signal(signal.SIGCONT)


def storm_row(report, kind="map", function="storm_map"):
    return [
        row
        for row in report["sites"]
        if row["kind"] == kind and function in [frame["function"] for frame in row["frames"]]
    ]


def mapped_bytes(pid):
    return sum(entry.end - entry.start for entry in read_maps(pid) if entry.perms[:3] != "---")


@pytest.mark.parametrize("ring_bytes", [4096, 65536])
def test_events_beyond_the_ring_are_counted_and_the_map_is_read_again(ring_bytes):
    n = 3001
    with Target("storm") as target, Trace(target, options=["--ring-size", ring_bytes, "--interval", "0.2s"]) as trace:
        with Stopped(trace):
            target.ask(f"maps {n}")
        report = trace.stop()
        answer = first_lines(trace)
    assert check(report) == []
    (row,) = storm_row(report)
    completeness = report["completeness"]
    assert completeness["lost_events"] > 0
    # Each mapping is one event, kept or lost; those that were lost are mapped, and nobody's.
    assert row["outstanding_count"] + completeness["lost_events"] == n
    assert row["outstanding_bytes"] == row["outstanding_count"] * MAP_BYTES
    assert completeness["resync_unknown_bytes"] == completeness["lost_events"] * MAP_BYTES
    assert row["outstanding_count"] <= ring_bytes // EVENT_BYTES
    assert "ATTENTION" in answer
    assert f"{completeness['lost_events']:,} mapping events were dropped (ring buffer full)" in answer
    assert "--ring-size" in answer


def test_unmappings_beyond_the_ring_leave_no_ghosts():
    n = 2003
    with Target("storm") as target, Trace(target, options=["--ring-size", 4096, "--interval", "0.2s"]) as trace:
        # Few at a time, so that all of them are seen; then all of them go at once, most of it unseen.
        target.ask("maps 17")
        with Stopped(trace):
            target.ask("unmap")
            target.ask(f"maps {n}")
            truth = target.ask("unmap")
        report = trace.stop()
        everything = trace.all_sites()
    assert check(report) == []
    assert report["completeness"]["lost_events"] > 0
    assert sums(truth, "map")["outstanding_bytes"] == 0
    assert storm_row(report) == []
    assert report["completeness"]["resync_unknown_bytes"] == 0
    assert report["totals"]["map"]["outstanding_bytes"] == 0
    for row in storm_row(everything):
        assert row["allocated_bytes"] == row["freed_bytes"] == row["allocated_count"] * MAP_BYTES


def test_trace_goes_on_exactly_after_a_loss():
    with Target("storm") as target, Trace(target, options=["--ring-size", 4096, "--interval", "0.2s"]) as trace:
        with Stopped(trace):
            target.ask("maps 997")
        eventually(lambda: "events were lost" in trace.said(), "the tracer looked anew")
        target.ask("maps 13")
        target.ask("stacks")
        report = trace.stop()
    assert check(report) == []
    (row,) = storm_row(report)
    assert row["outstanding_count"] + report["completeness"]["lost_events"] == 997 + 13
    assert report["completeness"]["resync_unknown_bytes"] == report["completeness"]["lost_events"] * MAP_BYTES
    assert sum(row["outstanding_count"] for row in storm_row(report, "heap", "storm_block")) == 128


def test_stacks_beyond_the_store_are_counted_and_their_bytes_kept():
    limit = 32
    with Target("storm") as target, Trace(target, options=["--max-new-stacks", limit]) as trace:
        with Stopped(trace):
            truth = target.ask("stacks")
        report = trace.stop()
        answer = first_lines(trace)
    assert check(report) == []
    assert totals(report, "heap") == sums(truth, "heap")
    completeness = report["completeness"]
    named = storm_row(report, "heap", "storm_block")
    lost = [row for row in report["sites"] if row["frames"][0]["function"] == "[stack lost]"]
    assert completeness["lost_stacks"] == len(lost) == 128 - limit
    assert len(named) == limit
    assert {row["outstanding_bytes"] for row in [*named, *lost]} == {BLOCK_BYTES}
    assert f"{len(lost)} stacks were dropped (map full)" in answer
    assert "--max-new-stacks" in answer


def test_sites_beyond_the_table_are_counted_one_by_one():
    limit = 40
    with Target("storm") as target, Trace(target, options=["--max-sites", limit]) as trace:
        truth = target.ask("stacks")
        report = trace.stop()
        answer = first_lines(trace)
    assert check(report) == []
    assert totals(report, "heap") == sums(truth, "heap")
    # One of the sites is that for all others.
    assert report["completeness"]["sites_full"] == 128 - (limit - 1)
    named = storm_row(report, "heap", "storm_block")
    assert [row["outstanding_bytes"] for row in named] == [BLOCK_BYTES] * (limit - 1)
    (others,) = [row for row in report["sites"] if row["frames"][0]["function"] == "[stack lost]"]
    assert others["outstanding_count"] == 128 - (limit - 1)
    assert others["outstanding_bytes"] == others["outstanding_count"] * BLOCK_BYTES
    assert "--max-sites" in answer


def test_threads_beyond_the_table_are_lost_and_counted_and_the_map_stays_true():
    limit, n = 8, 20
    with Target("storm", n) as target, Trace(target, options=["--max-threads", limit]) as trace:
        before = mapped_bytes(target.pid)
        truth = target.ask("threads")
        truth = target.ask("threads")
        after = mapped_bytes(target.pid)
        report = trace.stop()
        everything = trace.all_sites()
        answer = first_lines(trace)
    assert check(report) == []
    completeness = report["completeness"]
    kept = {row["thread"]["tid"] for row in storm_row(report, "heap", "storm_thread_block")}
    inside = {**truth, "sites": [site for site in truth["sites"] if site["tid"] in kept]}
    outside = [site for site in truth["sites"] if site["tid"] not in kept]
    assert 0 < len(kept) <= limit
    assert mismatches(report, inside) == []
    assert mismatches(everything, inside) == []
    assert all(site_totals(report, site)["outstanding_bytes"] == 0 for site in outside)
    lost = {
        key: sum(site[key] for site in outside if site["kind"] == "heap")
        for key in ("outstanding_bytes", "outstanding_count")
    }
    assert completeness["lost_allocations"] == lost["outstanding_count"]
    assert completeness["lost_bytes"] == lost["outstanding_bytes"]
    assert completeness["threads_full"] > 0
    # What the unseen threads mapped is known to be mapped, and nobody's.
    assert completeness["resync_unknown_bytes"] >= sum(s["outstanding_bytes"] for s in outside if s["kind"] == "map")
    assert after - before >= sum(s["outstanding_bytes"] for s in truth["sites"] if s["kind"] == "map")
    assert [line for line in strangers(report, truth) if "storm_" in line] == []
    assert "--max-threads" in answer
    assert "--max-allocations" in answer


def test_losses_leave_the_status_0_and_stand_first_in_every_format():
    with Target("million", 3, 5, 10007) as target, Trace(target, options=["--max-allocations", 1000]) as trace:
        target.go()
        report = trace.stop()
        as_text = nativeleak("report", trace.recording)
        as_json = nativeleak("report", trace.recording, "--format", "json")
        as_folded = nativeleak("report", trace.recording, "--format", "folded")
    assert trace.process.returncode == as_text.returncode == as_json.returncode == as_folded.returncode == 0
    assert "\nATTENTION " in as_text.stdout.split("\n\n")[0]
    assert json.loads(as_json.stdout)["completeness"]["lost_allocations"] == report["completeness"]["lost_allocations"]
    folded = sum(int(line.rpartition(" ")[2]) for line in as_folded.stdout.splitlines())
    assert folded == report["totals"]["heap"]["outstanding_bytes"]
