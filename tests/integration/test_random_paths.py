"""Call stacks without end: sites of which nothing is left give way, and a leak that begins late is named."""

from __future__ import annotations

import statistics

import pytest

from nativeleak.recording.reader import open_recording
from support import Target, Trace, eventually, site_totals, sums, totals
from tools.check_report import check

MAX_SITES = 4096
N_ROUNDS, N_PATHS = 12, 2503
N_LOOKS = 3
N_STORM = 40_009
LATE = "late_leak"
N_LATE, LATE_BYTES = 307, 1009
USUAL_SNAPSHOT_S = LONGEST_CPU_S = 0.5
DURATION_S = 8


def wait_for_snapshots(trace: Trace, n: int) -> None:
    """Wait for more snapshots: the first sees that room is needed, the next two make it."""

    def count() -> int:
        with open_recording(trace.recording) as opened:
            return len(opened.snapshots)

    before = count()
    eventually(lambda: count() >= before + n, "snapshots")


def usual_snapshot_s(trace: Trace) -> float:
    """The median: on a busy machine a snapshot waits for a processor."""
    with open_recording(trace.recording) as opened:
        return statistics.median(snapshot.counters["snapshot_us"] for snapshot in opened.snapshots) / 1e6


def longest_snapshot_cpu_s(trace: Trace) -> float:
    with open_recording(trace.recording) as opened:
        return max(snapshot.counters["snapshot_cpu_us"] for snapshot in opened.snapshots) / 1e6


def late_site(report, truth):
    (site,) = (each for each in truth["sites"] if each["function"] == LATE)
    return site_totals(report, site)


def traced(target: Target, *more: object) -> Trace:
    return Trace(target, options=["--max-sites", MAX_SITES, "--interval", "0.2s", *more])


@pytest.fixture(scope="module")
def rounds():
    """Many more sites than room, a part at a time, and a leak that goes on from the middle to the end."""
    with Target("random_paths", N_PATHS) as target, traced(target) as trace:
        target.go()
        for k in range(N_ROUNDS):
            target.ask(f"paths {N_PATHS}")
            wait_for_snapshots(trace, N_LOOKS)
            if k >= N_ROUNDS // 2:
                target.ask(f"leak {N_LATE}")
        truth = target.ask("leak 1")
        report = trace.stop()
        yield report, trace.all_sites(), truth, usual_snapshot_s(trace)


def test_totals_stay_exact_while_sites_are_retired(rounds):
    report, everything, truth, _ = rounds
    assert check(report) == []
    assert totals(report, "heap") == totals(everything, "heap") == sums(truth, "heap")
    completeness = report["completeness"]
    assert completeness["sites_retired"] > N_ROUNDS * N_PATHS / 2
    assert completeness["lost_allocations"] == completeness["unmatched_frees"] == 0


def test_late_leak_is_named_and_exact(rounds):
    report, _, truth, _ = rounds
    n = N_LATE * (N_ROUNDS - N_ROUNDS // 2) + 1
    late = late_site(report, truth)
    assert (late["outstanding_bytes"], late["outstanding_count"]) == (n * LATE_BYTES, n)
    largest = max(report["sites"], key=lambda site: site["outstanding_bytes"])
    assert LATE in [frame["function"] for frame in largest["frames"]]


def test_what_is_outstanding_at_random_paths_is_counted_once(rounds):
    report, _, truth, _ = rounds
    others = [site for site in report["sites"] if LATE not in [frame["function"] for frame in site["frames"]]]
    expected = [site for site in truth["sites"] if site["function"] != LATE]
    for name in ("outstanding_bytes", "outstanding_count"):
        assert sum(site[name] for site in others) == sum(site[name] for site in expected)


def test_snapshots_are_short(rounds):
    *_, usual_s = rounds
    assert usual_s < USUAL_SNAPSHOT_S


def test_storm_of_paths_leaves_the_totals_exact_and_the_duration_holds():
    with Target("random_paths", N_STORM) as target, traced(target, "--duration", f"{DURATION_S}s") as trace:
        target.go()
        wait_for_snapshots(trace, N_LOOKS)
        target.ask(f"leak {N_LATE}")
        truth = target.ask(f"paths {N_PATHS}")
        report = trace.wait()
        usual_s, longest_cpu_s = usual_snapshot_s(trace), longest_snapshot_cpu_s(trace)
    assert totals(report, "heap") == sums(truth, "heap")
    assert late_site(report, truth)["outstanding_bytes"] == N_LATE * LATE_BYTES
    assert usual_s < USUAL_SNAPSHOT_S
    assert longest_cpu_s < LONGEST_CPU_S
    assert DURATION_S <= report["window"]["duration_s"] < DURATION_S + 1
