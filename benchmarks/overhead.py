"""Measures the cost of a trace for the target: nanoseconds added to a malloc/free pair.

    benchmarks/overhead.py [ROUNDS]

One thread makes pairs of 16 to 1,024 bytes and does nothing else: the worst case. Each round runs it untraced, traced
with unwind tables, and traced with frame pointers. Prints medians. Run as root in a checkout after scripts/setup
--tests.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from support import Target, Trace

PAIRS = 300_000


@contextlib.contextmanager
def nativeleak(pid: int, *options: str) -> Iterator[None]:
    """A trace with these options."""
    with Trace(pid, options=options) as trace:
        yield
        trace.stop()


def pair_ns(tracer: str) -> float:
    """Nanoseconds per pair under one tracer, by the target's own clock."""
    with Target("churn", str(PAIRS), "1", "0", "1") as target:
        traced = {
            "untraced": contextlib.nullcontext,
            "nativeleak": lambda: nativeleak(target.pid),
            "nativeleak --unwind fp": lambda: nativeleak(target.pid, "--unwind", "fp"),
        }[tracer]
        with traced():
            return float(target.go(timeout_s=300)["ns_per_pair"])


def main() -> None:
    """Run all tracers in turn, several times."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    times: dict[str, list[float]] = {"untraced": [], "nativeleak": [], "nativeleak --unwind fp": []}
    for _ in range(rounds):
        for tracer, measured in times.items():
            measured.append(pair_ns(tracer))
    untraced = statistics.median(times["untraced"])
    print(f"{'':<24} {'ns a pair':>10} {'added':>10}   ({rounds} rounds, medians)")
    for tracer, measured in times.items():
        median = statistics.median(measured)
        print(f"{tracer:<24} {median:>10,.1f} {median - untraced:>10,.1f}")


if __name__ == "__main__":
    main()
