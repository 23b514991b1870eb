"""Does anything get lost? The rate and the race that docs/accuracy.md tells of, at their full length.

    benchmarks/soak.py [rate] [race] [lives] [sequences]

Run as root in a checkout after scripts/setup --tests. `rate`: 200,000 allocations a second for 60 s; `race`: 8 threads
at one size class, 10 million operations; `lives`: 100,000 threads; `sequences`: 5,000 random ones. Each is exact or
MISSED.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from support import ROOT, Target, Trace, mismatches, nativeleak, sums, totals

TESTS = ROOT / "tests" / "integration"
RATE = 200_000
SECONDS = 60


def rate() -> bool:
    """The rate is that of the target's own clock; every allocation is in the totals."""
    with Target("churn", RATE // 2 * SECONDS, 2, RATE // 2) as target, Trace(target) as trace:
        truth = target.go(timeout_s=10 * SECONDS)
        report = trace.stop()
        everything = trace.all_sites()
    lost = {name: n for name, n in report["completeness"].items() if n and name.startswith(("lost", "unmatched"))}
    reached = truth["n_pairs"] / truth["elapsed_ns"] * 1e9
    print(f"{truth['n_pairs']:,} allocations at {reached:,.0f}/s, lost: {lost or 'nothing'}")
    return not lost and totals(report, "heap") == sums(truth, "heap") and mismatches(everything, truth) == []


def test_at_length(name: str, variable: str, n: int) -> bool:
    """A test that takes its length from the environment."""
    start_s = time.perf_counter()
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-s", *str(TESTS / name).split()]
    done = subprocess.run(command, env={**os.environ, variable: str(n)}, capture_output=True, text=True, check=False)
    print(f"{variable}={n:,} in {time.perf_counter() - start_s:.0f} s")
    if done.returncode:
        print(done.stdout)
    return done.returncode == 0


FIGURES = {
    "rate": rate,
    "race": lambda: test_at_length("test_exact_stress.py -k racing", "NATIVELEAK_TEST_OPERATIONS", 10_000_000),
    "lives": lambda: test_at_length("test_exact_calls.py -k thousand", "NATIVELEAK_TEST_LIVES", 100_000),
    "sequences": lambda: test_at_length("test_exact_property.py", "NATIVELEAK_TEST_SEQUENCES", 5_000),
}

if __name__ == "__main__":
    if nativeleak("--version").returncode:
        sys.exit("nativeleak does not run: scripts/setup --tests first")
    failed = False
    for name in sys.argv[1:] or FIGURES:
        exact = FIGURES[name]()
        failed = failed or not exact
        print(f"{name}: {'exact' if exact else 'MISSED'}", flush=True)
    sys.exit(failed)
