"""What tracing costs a JVM that is just starting: classes are loaded, the JIT compilers allocate by the thousand.

    benchmarks/java_start.py [ROUNDS [SECONDS]]

A new JVM compiles Java sources in memory, from its first second on; how often it comes through in a time is compared,
untraced and traced with default settings, the budget included. Run as root in a checkout after scripts/setup --tests.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from support import Target, Trace, target_path

LIMIT_PCT = 95


def compilations_per_s(seconds: float, *, traced: bool) -> float:
    """Of one new JVM."""
    library = target_path("libnofp.so")
    command = ["java", "-cp", target_path("Stress"), "Stress", library, "javac"]
    with Target("Stress", command=command) as target:
        options = ["--interval", "1s", "--max-overhead", "5%"]
        with Trace(target, options=options) if traced else contextlib.nullcontext() as trace:
            start_s = time.perf_counter()
            rounds = target.ask(f"go {round(seconds * 1000)}")
            elapsed_s = time.perf_counter() - start_s
            if trace is not None:
                trace.stop()
    return float(sum(rounds["rounds"].values())) / elapsed_s


def main() -> None:
    """Both in turn, several times."""
    n_rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 5.0
    rates: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(n_rounds):
        for traced, found in rates.items():
            found.append(compilations_per_s(seconds, traced=traced))
    before, after = (statistics.median(rates[traced]) for traced in (False, True))
    pct = 100 * after / before
    print(f"load average {os.getloadavg()[0]:.1f}, {n_rounds} rounds of {seconds:g} s, medians")
    print(
        f"compilations a second of a JVM that starts: {before:.2f} untraced, {after:.2f} traced: {pct:.1f} %", end=" "
    )
    print(f"(limit {LIMIT_PCT} %) {'ok' if pct >= LIMIT_PCT else 'MISSED'}")


if __name__ == "__main__":
    main()
