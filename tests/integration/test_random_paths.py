"""Call stacks without end: sites of which nothing is left give way, and a leak that begins late is named."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from nativeleak.recording.reader import open_recording
from stacks import await_snapshots
from support import IS_LONG, Target, Trace, eventually, site_totals, sums, totals
from tools.check_report import check

MAX_SITES = 4096
N_ROUNDS, N_PATHS = 12, 2503
N_SHORT = 4**4
N_STORM = 40_009
LATE = "late_leak"
N_LATE, LATE_BYTES = 307, 1009
LONGEST_CPU_S = 0.5
"""Of a snapshot. CPU time: on a busy machine a snapshot waits for a processor."""
DURATION_S = 8
N_PARTS, N_PART, N_KEPT = (16, 45_161, 65_536) if IS_LONG else (8, 5003, MAX_SITES)
"""The case of the field has 722,576 paths; as many of them hold a block as there is room for sites."""
MOST_RECORDER_BYTES = 120 << 20


def counters(trace: Trace) -> Mapping[str, int]:
    """Those of the last snapshot, nothing before the first."""
    with open_recording(trace.recording) as opened:
        return opened.snapshots[-1].counters if opened.snapshots else {}


def wait_for_room(trace: Trace, n_paths: int) -> None:
    """Wait until the sites that are there take less than the table, by what has been retired or got no site.

    Seven paths in eight are long, and make a site that only they have; the others share ``N_SHORT`` sites.
    """
    most_sites = n_paths * 7 // 8 + N_SHORT

    def is_there() -> bool:
        now = counters(trace)
        return most_sites - now.get("sites_retired", 0) - now.get("sites_full", 0) <= MAX_SITES * 3 // 4 + 2 * N_SHORT

    eventually(is_there, f"room for new sites after {n_paths} paths")


def wait_for_retirement(trace: Trace, n_before: int) -> None:
    """Wait until some more sites have given way."""
    eventually(lambda: counters(trace).get("sites_retired", 0) > n_before, "sites that give way")


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
            wait_for_room(trace, (k + 2) * N_PATHS)
            if k >= N_ROUNDS // 2:
                target.ask(f"leak {N_LATE}")
        truth = target.ask("leak 1")
        report = trace.stop()
        yield report, trace.all_sites(), truth, longest_snapshot_cpu_s(trace)


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
    *_, longest_cpu_s = rounds
    assert longest_cpu_s < LONGEST_CPU_S


def test_storm_of_paths_leaves_the_totals_exact_and_the_duration_holds():
    with Target("random_paths", N_STORM) as target, traced(target, "--duration", f"{DURATION_S}s") as trace:
        target.go()
        wait_for_room(trace, N_STORM)
        target.ask(f"leak {N_LATE}")
        truth = target.ask(f"paths {N_PATHS}")
        report = trace.wait()
        longest_cpu_s = longest_snapshot_cpu_s(trace)
    assert totals(report, "heap") == sums(truth, "heap")
    assert late_site(report, truth)["outstanding_bytes"] == N_LATE * LATE_BYTES
    assert longest_cpu_s < LONGEST_CPU_S
    assert DURATION_S <= report["window"]["duration_s"] < DURATION_S + 1


def test_late_leak_is_a_suspect_where_as_many_sites_hold_memory_as_there_is_room_for():
    options = ["--interval", "0.2s", "--max-sites", N_KEPT]
    with Target("random_paths", N_PART, N_KEPT) as target, Trace(target, options=options) as trace:
        target.go()
        for k in range(1, N_PARTS):
            n_retired = counters(trace).get("sites_retired", 0)
            truth = target.ask(f"paths {N_PART}")
            if k >= N_PARTS // 2:
                wait_for_retirement(trace, n_retired)
                truth = target.ask(f"leak {N_LATE}")
                await_snapshots(trace, 2)  # on a fast machine all is over in a second, and nothing can be certain
        report = trace.stop()
        with open_recording(trace.recording) as opened:
            recorder_bytes = max(snapshot.tracer_max_rss_bytes for snapshot in opened.snapshots)
        longest_cpu_s = longest_snapshot_cpu_s(trace)
    assert totals(report, "heap") == sums(truth, "heap")
    (late,) = (suspect for suspect in report["suspects"] if suspect["name"] == LATE)
    assert late["outstanding_count"] == N_LATE * (N_PARTS - N_PARTS // 2)
    assert longest_cpu_s < LONGEST_CPU_S
    assert recorder_bytes < MOST_RECORDER_BYTES
