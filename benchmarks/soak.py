"""Runs the exactness tests of docs/accuracy.md for longer: does anything get lost?

    benchmarks/soak.py [rate] [budget] [race] [lives] [sequences] [flat]

    rate       200,000 allocations a second for 60 s
    budget     the same with the default budget, which traces less, and may lose nothing of that
    race       8 threads on one size class, 10 million operations
    lives      100,000 threads
    sequences  5,000 random sequences of calls
    flat       50,000 pairs a second for ten minutes; the recorder's memory must not grow

Each prints exact or MISSED. Run as root in a checkout after scripts/setup --tests.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from support import ROOT, Target, Trace, mismatches, nativeleak, sums, totals

TESTS = ROOT / "tests" / "integration"
RATE = 200_000
SECONDS = 60
FLAT_RATE = 50_000
FLAT_SECONDS = int(os.environ.get("NATIVELEAK_SOAK_SECONDS", "600"))
MAX_GROWTH_KIB = 1024


def rate() -> bool:
    """Whether every allocation is in the totals; prints the rate by the target's own clock."""
    with Target("churn", RATE // 2 * SECONDS, 2, RATE // 2) as target, Trace(target) as trace:
        truth = target.go(timeout_s=10 * SECONDS)
        report = trace.stop()
        everything = trace.all_sites()
    lost = {name: n for name, n in report["completeness"].items() if n and name.startswith(("lost", "unmatched"))}
    reached = truth["n_pairs"] / truth["elapsed_ns"] * 1e9
    print(f"{truth['n_pairs']:,} allocations at {reached:,.0f}/s, lost: {lost or 'nothing'}")
    return not lost and totals(report, "heap") == sums(truth, "heap") and mismatches(everything, truth) == []


def budget() -> bool:
    """Whether nothing is lost under the default budget; prints the seconds at each level."""
    with (
        Target("churn", RATE // 2 * SECONDS, 2, RATE // 2) as target,
        Trace(target, options=["--max-overhead", "5%"]) as trace,
    ):
        target.go(timeout_s=10 * SECONDS)
        report = trace.stop()
    lost = {name: n for name, n in report["completeness"].items() if n and name.startswith("lost")}
    watched: Counter[str] = Counter()
    for window in report["mode"]["windows"]:
        watched[window["level"]] += round(window["to_s"] - window["from_s"], 1)
    cost = report["overhead"]["estimated_target_cpu_pct"]
    print(
        f"lost: {lost or 'nothing'}; seconds by level: {dict(watched)}; estimated {cost:.1f} % of the target's CPU time"
    )
    return not lost


def resident_kib(pid: int) -> int:
    """Resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 10


def flat() -> bool:
    """Whether the recorder's memory stays the same from the first tenth of the time to the end."""
    with Target("churn", FLAT_RATE // 2 * FLAT_SECONDS, 2, FLAT_RATE // 2) as target, Trace(target) as trace:
        target.send("go")
        time.sleep(FLAT_SECONDS / 10)
        early_kib = resident_kib(trace.process.pid)
        truth = json.loads(target.readline(10 * FLAT_SECONDS))
        late_kib = resident_kib(trace.process.pid)
        report = trace.stop()
    lost = {name: n for name, n in report["completeness"].items() if n and name.startswith("lost")}
    reached = truth["n_pairs"] / truth["elapsed_ns"] * 1e9
    print(f"{reached:,.0f} pairs/s for {truth['elapsed_ns'] / 1e9:.0f} s, lost: {lost or 'nothing'}; recorder", end=" ")
    print(f"{early_kib / 1024:.1f} MiB early, {late_kib / 1024:.1f} MiB late")
    return not lost and totals(report, "heap") == sums(truth, "heap") and late_kib - early_kib <= MAX_GROWTH_KIB


def test_at_length(name: str, variable: str, n: int) -> bool:
    """Run a test that takes its length from the environment."""
    start_s = time.perf_counter()
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-s", *str(TESTS / name).split()]
    done = subprocess.run(command, env={**os.environ, variable: str(n)}, capture_output=True, text=True, check=False)
    print(f"{variable}={n:,} in {time.perf_counter() - start_s:.0f} s")
    said = done.stdout if done.returncode else "".join(re.findall(r"^\.?(.* compared)$", done.stdout, re.MULTILINE))
    if said:
        print(said)
    return done.returncode == 0


FIGURES = {
    "rate": rate,
    "budget": budget,
    "race": lambda: test_at_length("test_exact_stress.py -k racing_for", "NATIVELEAK_TEST_OPERATIONS", 10_000_000),
    "lives": lambda: test_at_length("test_exact_calls.py -k thousand", "NATIVELEAK_TEST_LIVES", 100_000),
    "flat": flat,
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
