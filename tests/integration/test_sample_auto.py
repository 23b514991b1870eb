"""Samples at a distance that the budget chooses: estimates against the truth, and the cost that is stated."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

from support import Target, Trace

SCRIPTED = str(Path(__file__).parent.parent / "tools" / "scripted_trace.py")
DURATION_S = 6
SIGMAS = 4
"""A right sampler fails once in some ten thousand runs."""


def outstanding(truth: dict[str, Any]) -> int:
    """Heap bytes that the target says it holds."""
    return sum(site["outstanding_bytes"] for site in truth["sites"] if site["kind"] == "heap")


def step(trace: Trace) -> None:
    """Go over to the next plan of a script."""
    trace.process.send_signal(signal.SIGUSR1)
    trace.wait_line("from here on")


def check_estimate(report: dict[str, Any], truth: dict[str, Any]) -> None:
    """The truth lies in the stated interval, drawn out to as many standard deviations."""
    heap, true = report["totals"]["heap"], outstanding(truth)
    low, high = heap["sampling"]["outstanding_bytes_ci95"]
    estimate = heap["outstanding_bytes"]
    assert low < estimate < high
    wider = SIGMAS / 1.96
    assert estimate - wider * (estimate - low) <= true <= estimate + wider * (high - estimate), (true, heap)


def test_estimate_stays_unbiased_where_the_distance_changes() -> None:
    """Blocks of each distance are freed at another: each takes along the weight that it came with."""
    program = [SCRIPTED, "sampled:2048,sampled:65536,sampled:16384"]
    with Target("phases") as target, Trace(target, options=["--max-overhead", "5%"], program=program) as trace:
        target.ask("keep 1 10007")
        step(trace)
        target.ask("free 1 4001")
        target.ask("keep 2 20011")
        step(trace)
        target.ask("free 2 5003")
        truth = target.ask("keep 3 10007")
        report = trace.stop()
    assert [window["sample_bytes"] for window in report["mode"]["windows"]] == [2048, 65536, 16384]
    check_estimate(report, truth)


def test_estimate_lies_in_its_interval() -> None:
    options = ("--sample", "auto", "--max-overhead", "100%", "--max-blip", "60s")
    with Target("churn", 5003, 2, 2503, 10007) as target, Trace(target, options=options) as trace:
        truth = target.go()
        report = trace.stop()
    assert {window["level"] for window in report["mode"]["windows"]} == {"sampled"}
    assert all(window["sample_bytes"] >= 1024 for window in report["mode"]["windows"])
    assert report["mode"]["sampled"]
    assert report["mode"]["options"]["sample"] == "auto"
    assert report["completeness"]["unmatched_frees"] == report["completeness"]["uncertain_allocations"] == 0
    check_estimate(report, truth)


def test_stated_cost_stays_within_the_budget_however_frequent_snapshots_are() -> None:
    """What a snapshot reads is paid for too: no look at the load comes between two of these."""
    options = ("--sample", "auto", "--max-overhead", "5%", "--duration", f"{DURATION_S}s", "--interval", "0.1s")
    with Target("churn", 60013, 2, 20011) as target, Trace(target, options=options) as trace:
        target.go()
        report = trace.stop()
    windows = report["mode"]["windows"]
    used_s = sum(window["target_cpu_s"] for window in windows)
    budget_s = 0.05 * max(0.4 * DURATION_S, used_s)
    # A last look may come late.
    assert 0 < report["overhead"]["estimated_cost_s"] <= 1.25 * budget_s
    assert {window["level"] for window in windows} & {"sampled"}
