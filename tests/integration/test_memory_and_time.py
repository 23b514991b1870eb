"""What the recorder itself takes. Bounds on memory are the promised ones; those on time only catch another order."""

from __future__ import annotations

import statistics
from itertools import pairwise

from nativeleak.recording import open_recording
from support import Target, Trace, mismatches

MAX_RSS_BYTES = 45_000_000


def test_recorder_with_a_thousand_sites_stays_below_45_megabytes():
    with Target("million", 64, 16, 10007) as target, Trace(target, options=["--interval", "0.5s"]) as trace:
        truth = target.go()
        report = trace.stop()
    assert len(report["sites"]) == 64 * 16
    assert mismatches(report, truth) == []
    assert 0 < report["overhead"]["tracer_max_rss_bytes"] <= MAX_RSS_BYTES


def test_recorder_with_a_million_outstanding_stays_below_45_megabytes(million):
    assert 0 < million.report["overhead"]["tracer_max_rss_bytes"] <= MAX_RSS_BYTES


def test_snapshot_with_a_million_outstanding_reads_sites_only(million):
    with open_recording(million.recording) as recording:
        snapshots = recording.snapshots[million.full_snapshots : -1]
    cpu_s = [after.tracer_cpu_s - before.tracer_cpu_s for before, after in pairwise(snapshots)]
    # To read a million blocks takes 0.3 s at best; 100 sites take some milliseconds, with all else that is to do.
    assert len(cpu_s) >= 3
    assert statistics.median(cpu_s) < 0.1


def test_overhead_counts_every_hit_of_a_probe():
    with Target("million", 2, 5, 1009) as target, Trace(target) as trace:
        truth = target.go()
        report = trace.stop()
    calls = sum(site["allocated_count"] for site in truth["sites"])
    frees = sum(site["allocated_count"] - site["outstanding_count"] for site in truth["sites"])
    assert report["overhead"]["probe_hits"] == 2 * calls + frees
