"""Measures the cost of a trace for a starting JVM: it loads classes, interprets everything, and its compilers allocate.

    benchmarks/java_start.py [ROUNDS [COMPILATIONS [parts]]]

A new JVM compiles a Java source in memory a number of times. The benchmark compares the time: untraced, traced with
default settings (with the budget), and traced without a budget. The amount of work is fixed, because in a fixed time a
slowed JVM would not get as far in its warm-up, and would be compared by its slow part. The trace attaches before the
work begins, so neither its own start nor the JVM's first 0.1 s count.

Each round runs all three in turn, in changing order. Ratios compare runs of one round. The first round does not count.
Beside the time stands the CPU time of the JVM and of the recorder: with idle cores only the JVM's would show. ``parts``
adds traces without Java stacks, sampled, and without allocator probes, to show what each part adds. Run as root in a
checkout after scripts/setup --tests.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from nativeleak.process.procfs import read_cpu_s
from support import Report, Target, Trace, target_path

LIMIT_PCT = 95
OFF = ("--max-overhead", "off")
MODES: dict[str, tuple[str, ...] | None] = {"untraced": None, "default": ("--max-overhead", "5%"), "no budget": OFF}
"""Name of a run -> options of its trace; None: untraced."""
PARTS = {
    "no budget, frame pointers": (*OFF, "--unwind", "fp"),
    "sampled": (*OFF, "--sample", "512K"),
    "mappings only": (*OFF, "--maps-only"),
}


@dataclass(frozen=True, slots=True)
class Start:
    """The first compilations of one JVM: seconds, CPU seconds of JVM and recorder, and the report."""

    seconds: float
    cpu_s: float
    recorder_cpu_s: float
    report: Report | None


def start(n_compilations: int, options: Sequence[str] | None) -> Start:
    """Start a JVM, trace it or not, and time its work."""
    command = ["java", "-cp", target_path("Stress"), "Stress", target_path("libnofp.so"), "javac"]
    with Target("Stress", command=command) as target, contextlib.ExitStack() as stack:
        trace = None if options is None else stack.enter_context(Trace(target, options=list(options)))
        pids = [target.pid] + ([trace.process.pid] if trace is not None else [])
        cpu_s, start_s = [read_cpu_s(pid) for pid in pids], time.perf_counter()
        for _ in range(n_compilations):
            target.ask("go 0")
        elapsed_s = time.perf_counter() - start_s
        used_s = [read_cpu_s(pid) - before for pid, before in zip(pids, cpu_s, strict=True)]
        report = trace.stop() if trace is not None else None
    return Start(elapsed_s, used_s[0], sum(used_s[1:]), report)


def trace_in_words(report: Report, seconds: float) -> str:
    """Amount of work of a trace, in words."""
    calls, heap = report["overhead"]["probe_hits"], report["totals"]["heap"]
    levels = " ".join(dict.fromkeys(window["level"] for window in report["mode"]["windows"]))
    return (
        f"{heap['allocated_count']:,} allocations in the totals, {calls:,} hits, {calls / seconds:,.0f} a second; "
        f"levels: {levels}"
    )


def median(starts: Sequence[Start], base: Sequence[Start], name: str) -> float:
    """Median over the rounds of a figure, divided by the untraced figure of the same round."""
    return statistics.median(getattr(one, name) / getattr(other, name) for one, other in zip(starts, base, strict=True))


def main() -> None:
    """Run all modes in turn, several times."""
    n_rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    n_compilations = int(sys.argv[2]) if len(sys.argv) > 2 else 30
    modes = MODES | (PARTS if sys.argv[3:] == ["parts"] else {})
    found: dict[str, list[Start]] = {name: [] for name in modes}
    for i in range(n_rounds + 1):
        for name in modes if i % 2 else reversed(modes):
            one = start(n_compilations, modes[name])
            found[name] += [one] if i else []
    base = found["untraced"]
    print(f"load average {os.getloadavg()[0]:.1f}, {n_rounds} rounds of {n_compilations} compilations, medians")
    print(f"untraced: {statistics.median(one.seconds for one in base):.2f} s", end=", ")
    print(f"{statistics.median(one.cpu_s for one in base):.2f} s of CPU")
    for name, starts in found.items():
        last = starts[-1]
        if last.report is None:
            continue
        pct = 100 / median(starts, base, "seconds")
        cpu = median(starts, base, "cpu_s")
        recorder_s = statistics.median(one.recorder_cpu_s for one in starts)
        print(f"{name}: {pct:.1f} % of the untraced speed (limit {LIMIT_PCT} %)", end=" ")
        print(f"{'ok' if pct >= LIMIT_PCT else 'MISSED'}; {cpu:.2f} times its CPU time, recorder {recorder_s:.2f} s;")
        print(f"  last run: {trace_in_words(last.report, last.seconds)}")


if __name__ == "__main__":
    main()
