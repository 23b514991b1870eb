"""Measures the cost of a stack walk: nanoseconds added to a malloc/free pair, by the depth of the stack.

    benchmarks/unwind_cost.py [ROUNDS=5]

The same program runs in turns: untraced, walked with unwind tables (built without frame pointers), and walked with
frame pointers (built with them). Each figure is the median CPU time of all rounds. It includes all of tracing: probes,
ledger, totals. Run as root in a checkout after scripts/setup --tests, on an idle machine.
"""

from __future__ import annotations

import os
import statistics
import sys
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from stacks import await_snapshots
from support import Target, Trace, nativeleak

DEPTHS = (0, 8, 16, 32, 64, 100)
MODES = {"untraced": "pairs_nofp", "tables": "pairs_nofp", "fp": "pairs"}
"""Kind of walk -> target."""

FRAMES_AT_0 = 5
"""Return addresses above malloc at depth 0."""

MAX_FRAME_NS = 100
MAX_PAIR_NS = 2200

Costs = dict[tuple[str, int], list[float]]


def measure(target: Target, mode: str, costs: Costs) -> None:
    """Measure one pair at each depth; the first pair of a depth creates the site and does not count."""
    for depth in DEPTHS:
        target.ask(str(depth))
        costs[mode, depth].append(target.ask(str(depth))["ns"])


def run(rounds: int) -> Costs:
    """Run all modes in turns."""
    costs: Costs = defaultdict(list)
    for _ in range(rounds):
        for mode, name in MODES.items():
            with Target(name) as target:
                if mode == "untraced":
                    measure(target, mode, costs)
                    continue
                with Trace(target, options=["--unwind", mode, "--interval", "0.5s"]) as trace:
                    # By then all unwind tables are ready, and the calibration probes are gone.
                    await_snapshots(trace, 3)
                    measure(target, mode, costs)
                    trace.stop()
    return costs


def main(rounds: int) -> None:
    before = os.getloadavg()[0]
    costs = run(rounds)
    pair_ns = {key: statistics.median(values) for key, values in costs.items()}
    print(f"{rounds} rounds, load average {before:.1f} before, {os.getloadavg()[0]:.1f} after; ns a pair")
    print(f"{'depth':<10}" + "".join(f"{depth:>8}" for depth in DEPTHS) + f"{'a frame':>10}")
    for mode in MODES:
        row = [pair_ns[mode, depth] for depth in DEPTHS]
        print(f"{mode:<10}" + "".join(f"{ns:8.0f}" for ns in row))
        if mode != "untraced":
            added = [ns - pair_ns["untraced", depth] for ns, depth in zip(row, DEPTHS, strict=True)]
            frame_ns = statistics.linear_regression(DEPTHS, added).slope
            print(f"{'  added':<10}" + "".join(f"{ns:8.0f}" for ns in added) + f"{frame_ns:10.1f}")
            if mode == "tables":
                show("a frame by tables", frame_ns, MAX_FRAME_NS)
                show(f"added to a pair with {FRAMES_AT_0} frames", added[0], MAX_PAIR_NS)


def show(what: str, value_ns: float, limit_ns: float) -> None:
    """Print one figure with its limit."""
    print(f"{what}: {value_ns:.0f} ns (limit {limit_ns:g}) {'ok' if value_ns <= limit_ns else 'MISSED'}", flush=True)


if __name__ == "__main__":
    if nativeleak("--version").returncode:
        sys.exit("nativeleak does not run: scripts/setup --tests first")
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
