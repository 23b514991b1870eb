"""Where a trace inside its budget takes its target's time: stretch by stretch, from the target's own counters.

    benchmarks/budget_where.py [PERCENT [SECONDS [THREADS [RUNS]]]]

The target is that of budget_cost.py. Its count of pairs and its CPU time are read each 10 ms. Quiet bins within two
seconds give the pairs for a second of CPU time; a bin that makes fewer has lost the difference. Printed are, for each
window of watching with its attaching and detaching, the CPU time that was lost and that the report has estimated, and
the ratio of both. Other work on the machine moves single windows; their sum is the figure.
Run as root in a checkout after scripts/setup --tests. See docs/budget.md.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import statistics
import subprocess
import sys
import threading
import time
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from support import Trace
from targets import build

BIN_S = 0.01
NEAR_S = 2.0
AROUND_S = 0.12
"""Attaching and detaching take so long at most."""
WORK_US = "1"


class Sample(NamedTuple):
    """The target at one moment: seconds, pairs so far, CPU seconds so far."""

    at_s: float
    pairs: int
    cpu_s: float


class Watcher:
    """Reads the target's counter and CPU time until it is stopped."""

    def __init__(self, pid: int, program: Path) -> None:
        self.samples: list[Sample] = []
        self._clock = (~pid << 3) | 2  # CPUCLOCK_SCHED of a process, see clock_getcpuclockid(3)
        self._address = _address_of(pid, program, "_ZL5pairs")
        self._memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
        self._is_over = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        clock_gettime, time_spec = ctypes.CDLL(None).clock_gettime, (ctypes.c_long * 2)()
        while not self._is_over:
            pairs = int.from_bytes(os.pread(self._memory, 8, self._address), "little")
            clock_gettime(ctypes.c_int(self._clock), time_spec)
            self.samples.append(Sample(time.monotonic(), pairs, time_spec[0] + time_spec[1] / 1e9))
            time.sleep(BIN_S)

    def stop(self) -> list[Sample]:
        """All samples."""
        self._is_over = True
        self._thread.join()
        os.close(self._memory)
        return self.samples


def _address_of(pid: int, program: Path, symbol: str) -> int:
    listed = subprocess.run(["nm", str(program)], capture_output=True, text=True, check=True).stdout
    value = next(int(line.split()[0], 16) for line in listed.splitlines() if line.endswith(f" {symbol}"))
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return value + next(int(line.split("-")[0], 16) for line in maps if line.endswith(str(program)))


def losses(samples: list[Sample]) -> list[tuple[float, float, float]]:
    """Of each bin: its end, its CPU seconds, and those that it lost against quiet bins nearby."""
    bins = [(b.at_s, b.cpu_s - a.cpu_s, b.pairs - a.pairs) for a, b in itertools.pairwise(samples)]
    rates = [(at_s, pairs / cpu_s) for at_s, cpu_s, pairs in bins if cpu_s > BIN_S / 4]
    found, first = [], 0
    for at_s, cpu_s, pairs in bins:
        while first < len(rates) and rates[first][0] < at_s - NEAR_S:
            first += 1
        near = []
        for each_s, rate in rates[first:]:
            if each_s > at_s + NEAR_S:
                break
            near.append(rate)
        quiet = statistics.quantiles(near, n=10)[5] if len(near) > 10 else 0.0
        found.append((at_s, cpu_s, cpu_s - pairs / quiet if quiet else 0.0))
    return found


def main() -> None:
    """Trace, and say where time was lost."""
    percent = sys.argv[1] if len(sys.argv) > 1 else "1%"
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 30.0
    n_threads = sys.argv[3] if len(sys.argv) > 3 else "1"
    n_runs = int(sys.argv[4]) if len(sys.argv) > 4 else 1
    program = build.build_target("field_rate_server") / "server"
    found: list[tuple[float, float]] = []
    cpu_s = 0.0
    with subprocess.Popen(
        [str(program), "0", "0", "/dev/null", n_threads, WORK_US], stdout=subprocess.DEVNULL
    ) as process:
        try:
            time.sleep(1)
            for _ in range(n_runs):
                watcher = Watcher(process.pid, program.resolve())
                time.sleep(NEAR_S)
                options = ["--max-overhead", percent, "--duration", f"{seconds:g}s"]
                with Trace(process.pid, options=options) as trace:
                    report = trace.wait()
                time.sleep(1)
                found += tell(watcher.stop(), report)
                cpu_s += sum(each["target_cpu_s"] for each in report["mode"]["windows"])
        finally:
            process.kill()
    lost_s, estimated_s = (sum(each[i] for each in found) for i in (0, 1))
    print(
        f"{len(found)} windows: lost {1000 * lost_s:.0f} ms, estimated {1000 * estimated_s:.0f} ms, "
        f"ratio {lost_s / estimated_s:.2f}; lost {100 * lost_s / cpu_s:.2f} % of {cpu_s:.1f} CPU s"
    )


def tell(samples: list[Sample], report: dict[str, Any]) -> list[tuple[float, float]]:
    """Print the loss around each window of watching; returns the lost and the estimated CPU seconds of each."""
    started_s = datetime.fromisoformat(report["window"]["started"]).timestamp()
    offset_s = started_s - (time.time() - time.monotonic())
    bins = [(at_s - offset_s, cpu_s, lost_s) for at_s, cpu_s, lost_s in losses(samples)]
    windows = [each for each in report["mode"]["windows"] if each["level"] in ("exact", "sampled")]
    found = []
    for window in windows:
        from_s, to_s = window["from_s"] - AROUND_S, window["to_s"] + AROUND_S
        inside = [each for each in bins if from_s < each[0] <= to_s]
        beside = [
            each
            for each in bins
            if from_s - NEAR_S < each[0] <= to_s + NEAR_S and not any(_is_in(each[0], other) for other in windows)
        ]
        usual = sum(each[2] for each in beside) / max(1e-9, sum(each[1] for each in beside))
        lost_s = sum(each[2] - usual * each[1] for each in inside)
        # What comes with a window, attaching and the frees after it, is booked to the stretches beside it.
        estimated_s = window["estimated_cost_s"] + _booked_beside(report, window)
        found.append((lost_s, estimated_s))
        print(
            f"  {window['from_s']:7.2f} to {window['to_s']:7.2f} s: lost {1000 * lost_s:6.1f} ms, "
            f"estimated {1000 * estimated_s:6.1f} ms, {window['probe_hits']:,} hits",
            flush=True,
        )
    return found


def _is_in(at_s: float, window: dict[str, Any]) -> bool:
    return bool(window["from_s"] - AROUND_S < at_s <= window["to_s"] + AROUND_S)


def _booked_beside(report: dict[str, Any], window: dict[str, Any]) -> float:
    """Cost of the stretch that follows: the frees after this window, and the attaching before the next."""
    after = [each for each in report["mode"]["windows"] if abs(each["from_s"] - window["to_s"]) < BIN_S]
    return float(after[0]["estimated_cost_s"]) if after else 0.0


if __name__ == "__main__":
    main()
