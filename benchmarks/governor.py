"""Shows the governor at several rates of allocation: its levels, and the cost of the trace.

    benchmarks/governor.py [SECONDS [PERCENT]]

One thread makes pairs of malloc and free at a rate, and works between them without a pause. The difference between its
traced and its untraced work in the same time is the cost that a user feels. Beside it stands the estimate of the trace.
Run as root in a checkout after scripts/setup --tests, on a quiet machine, because other work counts as cost. See
docs/budget.md.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from support import Target, Trace

RATES = (1_000, 10_000, 30_000, 100_000, 300_000, 0)


def burst(target: Target, seconds: float, rate: int) -> tuple[float, int]:
    """Work and pairs per second."""
    before = target.ask("keep 1 0")
    after = target.ask(f"burst {round(seconds * 1000)} {rate}", timeout_s=seconds + 60)
    return (after["work"] - before["work"]) / seconds, (pairs(after) - pairs(before)) // round(seconds)


def pairs(truth: dict[str, Any]) -> int:
    """Number of pairs so far."""
    return sum(site["allocated_count"] for site in truth["sites"] if site["function"] == "phases_burst")


def main() -> None:
    """Run each rate with the governor and without."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 20.0
    percent = sys.argv[2] if len(sys.argv) > 2 else "5%"
    print(f"{'pairs/s':>9} {'budget':>7} {'made/s':>9} {'work lost':>10} {'estimated':>10}  levels (seconds)")
    for rate in RATES:
        for budget in (percent, "off"):
            with Target("phases") as target:
                untraced, _ = burst(target, seconds, rate)
                with Trace(target, options=["--max-overhead", budget, "--interval", "5s"]) as trace:
                    traced, made = burst(target, seconds, rate)
                    report = trace.stop()
            lost = 100 * (1 - traced / untraced)
            windows = report["mode"]["windows"]
            levels = ", ".join(f"{w['level']} {w['to_s'] - w['from_s']:.1f}" for w in windows)
            estimated = report["overhead"]["estimated_core_pct"]
            print(f"{rate or 'most':>9} {budget:>7} {made:>9,} {lost:>9.1f}% {estimated:>9.1f}%  {levels}", flush=True)


if __name__ == "__main__":
    main()
