"""Measures the recorder itself: time to the first probe, memory, CPU, snapshots of many blocks and of many stacks.

    benchmarks/recorder.py [first-probe] [memory] [cpu] [snapshot] [random-paths]

Prints one line per figure, with the median of all rounds and its limit (docs/performance.md). Run as root in a checkout
after scripts/setup --tests.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from nativeleak.recording import open_recording
from support import Target, Trace, leaker, nativeleak

ROUNDS = 5


def first_probe() -> None:
    """Time from the start of the process to the message that all probes are in place."""
    for name, make, limit_s in (("C program", lambda: Target("exits"), 0.6), ("JVM", lambda: leaker(), 1.0)):
        times_s = []
        for _ in range(ROUNDS):
            with make() as target:
                start_s = time.perf_counter()
                with Trace(target) as trace:
                    times_s.append(time.perf_counter() - start_s)
                    trace.stop()
        show(f"start to first probe, {name}", statistics.median(times_s), "s", limit_s)


def memory() -> None:
    """Resident memory of the recorder with 1,024 sites."""
    with Target("million", "64", "16", "100000") as target, Trace(target) as trace:
        target.go()
        report = trace.stop()
    show("recorder's resident memory, 1,024 sites", report["overhead"]["tracer_max_rss_bytes"] / (1 << 20), "MiB", 45)


def cpu() -> None:
    """CPU time of the recorder while a program makes 10,000 allocations a second, for 30 s."""
    with Target("churn", "150000", "2", "5000") as target, Trace(target) as trace:
        start_s = time.perf_counter()
        target.go(timeout_s=300)
        elapsed_s = time.perf_counter() - start_s
        report = trace.stop()
    tracer_s = report["overhead"]["tracer_cpu_s"]
    allocations = report["totals"]["heap"]["allocated_count"]
    with Target("exits") as idle, Trace(idle) as trace:
        start_only_s = trace.stop()["overhead"]["tracer_cpu_s"]
    print(f"# {allocations:,} allocations in {elapsed_s:.1f} s; start and end of a trace alone: {start_only_s:.2f} s")
    show("recorder's CPU at 10,000 allocations/s", 100 * (tracer_s - start_only_s) / elapsed_s, "% of a core", 1)


def snapshot() -> None:
    """A snapshot while 5 million blocks from 100 sites are outstanding."""
    with (
        Target("million", "20", "5", "5000000") as target,
        Trace(target, options=("--max-allocations", "6000000", "--interval", "1s")) as trace,
    ):
        truth = target.go(timeout_s=600)
        report = trace.stop(timeout_s=300)
        wanted = sum(site["outstanding_count"] for site in truth["sites"])
        assert report["totals"]["heap"]["outstanding_count"] == wanted, "blocks were lost"
        with open_recording(trace.recording) as recording:
            costs_ms = [info.counters["snapshot_us"] / 1000 for info in recording.snapshots[1:-1]]
    show(f"a snapshot with {wanted:,} outstanding blocks", statistics.median(costs_ms), "ms", 50)


def random_paths() -> None:
    """Call stacks without end, 65,536 of which hold a block: longest snapshot, memory, end of the window."""
    n_sites, n_paths, duration_s = 65_536, 722_584, 30
    with (
        Target("random_paths", n_sites, n_sites) as target,
        Trace(target, options=("--duration", f"{duration_s}s")) as trace,
    ):
        target.go()
        time.sleep(5)  # all of them hold a block: several snapshots, and a change of width of the birth slices soon
        target.send(f"paths {n_paths - n_sites}")
        report = trace.wait(timeout_s=300)
        with open_recording(trace.recording) as recording:
            snapshots = recording.snapshots
    took_s = [info.counters["snapshot_us"] / 1e6 for info in snapshots]
    cpu_s = [info.counters["snapshot_cpu_us"] / 1e6 for info in snapshots]
    print(f"# {len(took_s)} snapshots, {report['totals']['heap']['allocated_count']:,} allocations")
    show("random recursion: the longest snapshot", max(took_s), "s", 0.5)
    show("the same, its CPU time", max(cpu_s), "s", 0.5)
    show("recorder's resident memory", report["overhead"]["tracer_max_rss_bytes"] / (1 << 20), "MiB", 120)
    show("end of the window", report["window"]["duration_s"], "s", duration_s + 1)


def show(what: str, value: float, unit: str, limit: float) -> None:
    """Print one figure with its limit."""
    print(f"{what}: {value:.3g} {unit} (limit {limit:g}) {'ok' if value <= limit else 'MISSED'}", flush=True)


FIGURES: dict[str, Callable[[], None]] = {
    "first-probe": first_probe,
    "memory": memory,
    "cpu": cpu,
    "snapshot": snapshot,
    "random-paths": random_paths,
}

if __name__ == "__main__":
    if nativeleak("--version").returncode:
        sys.exit("nativeleak does not run: scripts/setup --tests first")
    for name in sys.argv[1:] or FIGURES:
        FIGURES[name]()
