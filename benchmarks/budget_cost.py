"""What a trace inside its budget costs its target, by the target's own CPU time for a unit of work.

    benchmarks/budget_cost.py [PERCENT [PAIRS [SECONDS]]]

The target (tests/targets/field/rate_server) makes malloc/free pairs as fast as it can, with a microsecond of work for
each: some 800,000 pairs a second on one core, and on two threads twice that. Stretches with and without a trace
alternate. CPU time is compared, since other work on the machine takes no part of it. Printed are the loss of pairs for
a second of CPU time, as the median of all alternations with its 95 % interval (bootstrap), and what the report
estimates. Run as root in a checkout after scripts/setup --tests. See docs/budget.md.
"""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from support import Trace
from targets import build

WORK_US = "1"


@dataclass
class Server:
    """The target, and the last line that it has printed: pairs, CPU seconds."""

    process: subprocess.Popen[str]
    told: tuple[int, float] = (0, 0.0)
    lines: list[str] = field(default_factory=list)

    def follow(self) -> None:
        """Read what it prints until it ends."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            words = line.split()
            self.told = int(words[2]), float(words[8])

    def stretch(self, seconds: float) -> float:
        """Pairs for a second of CPU time, over some time."""
        before = self.told
        time.sleep(seconds)
        after = self.told
        return (after[0] - before[0]) / (after[1] - before[1])


@contextmanager
def server(n_threads: int) -> Iterator[Server]:
    """The target, warm."""
    program = build.build_target("field_rate_server") / "server"
    command = [str(program), "0", "0", "/dev/stdout", str(n_threads), WORK_US]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        running = Server(process)
        threading.Thread(target=running.follow, daemon=True).start()
        try:
            time.sleep(2)
            yield running
        finally:
            process.kill()


def interval(values: list[float]) -> tuple[float, float]:
    """95 % interval of the median, by 2,000 draws."""
    chance = random.Random(7)
    medians = sorted(statistics.median(chance.choices(values, k=len(values))) for _ in range(2000))
    return medians[50], medians[1949]


def main() -> None:
    """Alternate for one thread and for two."""
    percent = sys.argv[1] if len(sys.argv) > 1 else "5%"
    n_pairs = int(sys.argv[2]) if len(sys.argv) > 2 else 9
    seconds = float(sys.argv[3]) if len(sys.argv) > 3 else 10.0
    for n_threads in (1, 2):
        losses, estimates, watched = [], [], []
        with server(n_threads) as target:
            for _ in range(n_pairs):
                before = target.stretch(seconds)
                options = ["--max-overhead", percent, "--duration", f"{seconds + 2:g}s"]
                with Trace(target.process.pid, options=options) as trace:
                    traced = target.stretch(seconds)
                    report = trace.wait()
                after = target.stretch(seconds / 2)
                losses.append(100 * (1 - traced / ((before + after) / 2)))
                estimates.append(report["overhead"]["estimated_target_cpu_pct"])
                watched.append(report["growth"]["watched_pct"])
        low, high = interval(losses)
        print(
            f"{n_threads} threads, --max-overhead {percent}: {statistics.median(losses):.2f} % [{low:.2f} {high:.2f}] "
            f"of its work for a second of CPU time (n {n_pairs}); estimated {statistics.median(estimates):.2f} %; "
            f"watched {statistics.median(watched):.1f} % of the time; {before:,.0f} pairs a CPU second",
            flush=True,
        )


if __name__ == "__main__":
    main()
