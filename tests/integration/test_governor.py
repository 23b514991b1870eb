"""A trace that is kept inside of a budget: what it records at each level, and that it says so."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

from support import Target, Trace, mismatches, nativeleak, site_totals

SCRIPTED = str(Path(__file__).parent.parent / "tools" / "scripted_trace.py")
KEPT_BYTES = 1009
START_S = 0.1
"""What the least trace may cost a busy target: probes in, a short window, probes out."""
N_DEEP = 53
"""Times that ten thousand pairs are made: a second or two, of which the kernel times the first half."""


def scripted(target: Target, *plans: str) -> Trace:
    """A trace whose changes of level come when the test wants."""
    return Trace(target, options=["--max-overhead", "5%"], program=[SCRIPTED, ",".join(plans)])


def step(trace: Trace) -> None:
    trace.process.send_signal(signal.SIGUSR1)
    trace.wait_line("from here on")


def held(report: dict[str, Any], truth: dict[str, Any], function: str, kind: str = "heap") -> tuple[int, int]:
    """Outstanding bytes and count that a report shows at a site of the truth."""
    site = next(site for site in truth["sites"] if site["function"] == function)
    totals = site_totals(report, {**site, "kind": kind})
    return totals["outstanding_bytes"], totals["outstanding_count"]


def levels(report: dict[str, Any]) -> list[str]:
    return [window["level"] for window in report["mode"]["windows"]]


def test_affordable_target_is_traced_exactly_under_the_governor():
    with Target("phases") as target, Trace(target, options=["--max-overhead", "5%"]) as trace:
        target.ask("keep 1 1009")
        target.ask("free 1 101")
        truth = target.ask("grow 1 211")
        report = trace.stop()
    assert mismatches(report, truth) == []
    assert levels(report) == ["exact"]
    assert report["mode"]["sampled"] is False
    assert report["completeness"]["uncertain_allocations"] == 0
    [window] = report["mode"]["windows"]
    # Counted roughly: where a program is preempted one may get lost.
    assert 0 <= 2 * (1009 + 211) + 101 - report["overhead"]["probe_hits"] < 20
    assert 0 <= 2 * (1009 + 211) + 101 - window["probe_hits"] < 20
    assert 0 < window["estimated_cost_s"] < 1


def test_deep_stacks_count_in_the_estimate_without_a_budget_too():
    """The kernel says how long our programs run on the target's stacks; those of the calibration are shallow."""
    cost_of_hit = {}
    for depth in (0, 100):
        with Target("pairs_nofp") as target, Trace(target, options=["--max-overhead", "off"]) as trace:
            for _ in range(N_DEEP):
                target.ask(str(depth))
            report = trace.stop()
        assert levels(report) == ["exact"]
        overhead = report["overhead"]
        cost_of_hit[depth] = overhead["estimated_cost_s"] / overhead["probe_hits"]
    assert cost_of_hit[100] > 1.5 * cost_of_hit[0]


def test_burst_is_watched_in_windows_and_everything_comes_back():
    with Target("phases") as target, Trace(target, options=["--max-overhead", "5%"]) as trace:
        target.ask("keep 1 503")
        target.ask("burst 2000 0")
        trace.wait_line("recorded in windows")
        trace.wait_line("every heap block is recorded: there is room", 60.0)
        truth = target.ask("keep 2 307")
        report = trace.stop()
        text = nativeleak("report", trace.recording).stdout
    windows = report["mode"]["windows"]
    assert levels(report)[0] == "exact"
    assert "syscalls" in levels(report)
    assert levels(report)[-1] == "exact"
    # What it takes for a look on a busy machine.
    assert windows[0]["to_s"] < 3
    # Pairs without a pause: each window after the first is a blip, and is ended in time.
    brief = [w["to_s"] - w["from_s"] for w in windows[1:-1] if w["level"] == "exact"]
    assert max(brief[:1] + brief[1:-1]) < 0.3
    assert [w["to_s"] for w in windows[:-1]] == [w["from_s"] for w in windows[1:]]
    # What was outstanding when frees were lost sight of stays in the account.
    assert held(report, truth, "phases_first") == (503 * KEPT_BYTES, 503)
    assert report["completeness"]["uncertain_allocations"] == 0
    assert held(report, truth, "phases_second") == (307 * KEPT_BYTES, 307)
    assert "malloc was watched for" in " ".join(text.split())


def test_frees_are_seen_while_allocations_are_not():
    with Target("phases") as target, scripted(target, "exact", "big-blocks", "exact") as trace:
        target.ask("keep 1 1009")
        step(trace)
        target.ask("free 1 307")
        target.ask("grow 1 101")
        target.ask("keep 2 211")
        target.ask("big 3")
        step(trace)
        target.ask("free 2 11")
        truth = target.ask("keep 3 401")
        report = trace.stop()
    assert levels(report) == ["exact", "big-blocks", "exact"]
    left = 1009 - 307 - 101
    assert held(report, truth, "phases_first") == (left * KEPT_BYTES, left)
    assert held(report, truth, "phases_third") == (401 * KEPT_BYTES, 401)
    for function in ("phases_second", "phases_grown", "phases_big"):
        assert held(report, truth, function) == (0, 0)
    # The allocator mapped the big ones one by one: that is its own, whether its calls are seen or not.
    assert held(report, truth, "phases_big", "map") == (0, 0)
    backing = report["allocator_backing"]["outstanding_bytes"]
    assert backing >= 3 * 5000011
    assert report["completeness"]["unmatched_frees"] == 0
    assert report["completeness"]["unsampled_frees"] == 11
    assert report["completeness"]["uncertain_allocations"] == 0


def test_blocks_that_were_freed_unseen_are_found_by_their_address_or_by_the_walk_of_the_heap():
    with Target("phases") as target, scripted(target, "exact", "syscalls", "exact") as trace:
        target.ask("keep 1 1009")
        step(trace)
        target.ask("free 1 307")
        step(trace)
        target.ask("free 1 101")
        # Some of these get the addresses of the 307: the second window knows then that those were freed.
        truth = target.ask("keep 3 211")
        report = trace.stop()
    left = 1009 - 307 - 101
    assert held(report, truth, "phases_first") == (left * KEPT_BYTES, left)
    assert held(report, truth, "phases_third") == (211 * KEPT_BYTES, 211)
    completeness = report["completeness"]
    assert completeness["uncertain_allocations"] == 0
    assert completeness["unmatched_frees"] == completeness["unsampled_frees"] == 0
    [walk] = [note["text"] for note in report["notes"] if note["what"] == "audit"]
    assert walk.startswith(f"walked the heap: of {1009 - 101 - completeness['overwritten'] + 211:,} blocks")
    assert f"{307 - completeness['overwritten']:,} were gone" in walk
    heap = report["totals"]["heap"]
    assert heap["allocated_count"] - heap["freed_count"] == heap["outstanding_count"] == left + 211


def test_exact_blocks_stay_exact_through_a_sampled_time():
    with Target("phases") as target, scripted(target, "exact", "sampled:65536", "exact") as trace:
        target.ask("keep 1 1009")
        step(trace)
        target.ask("free 1 307")
        target.ask("keep 2 20011")
        step(trace)
        truth = target.ask("keep 3 401")
        report = trace.stop()
    assert report["mode"]["sampled"]
    assert report["mode"]["sample_bytes"] == 65536
    assert held(report, truth, "phases_first") == ((1009 - 307) * KEPT_BYTES, 1009 - 307)
    assert held(report, truth, "phases_third") == (401 * KEPT_BYTES, 401)
    n_bytes, _ = held(report, truth, "phases_second")
    # Some 300 samples: 6 % each way is one standard deviation.
    assert abs(n_bytes / (20011 * KEPT_BYTES) - 1) < 0.3


def test_target_at_full_speed_pays_no_more_than_the_budget():
    """Its hits are enough to count within milliseconds: its CPU time must not be taken for that of a shorter time."""
    with Target("churn", "2000000000", "1") as target:
        target.send("go")
        with Trace(target, options=["--max-overhead", "1%", "--duration", "12s"]) as trace:
            report = trace.wait()
        target.process.kill()
    overhead, windows = report["overhead"], report["mode"]["windows"]
    used_s = sum(window["target_cpu_s"] for window in windows)
    assert 0 < overhead["estimated_cost_s"] <= 0.01 * used_s + START_S
