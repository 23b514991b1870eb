"""What a look into memory costs the process that is looked at, and what it takes itself.

    benchmarks/peek.py [ROUNDS [MIB]]

The target writes to a region at full speed. Rounds with and without a look at that very region come in turn, so that
other work on the machine falls on both. Throughput is counted in words written per second of the target's own CPU time,
and per second by the clock. Then the region is copied into a pipe, and the time and the memory of nativeleak are shown.
Run as root in a checkout after scripts/setup --tests.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from nativeleak.process.procfs import read_cpu_s
from support.target import Target

WRITE_MS = 1500


def written(target: Target) -> tuple[float, float]:
    """Words per CPU second of the target, and per second by the clock, in millions."""
    before, start = read_cpu_s(target.pid), time.monotonic()
    words = target.ask(f"write {WRITE_MS}")["words"] / 1e6
    return words / max(read_cpu_s(target.pid) - before, 0.01), words / (time.monotonic() - start)


def looked_at(target: Target, asked: str) -> tuple[float, float, int]:
    """The same while looks follow each other without a pause, and their number."""
    stop, n_looks = threading.Event(), [0]

    def keep_looking() -> None:
        while not stop.is_set():
            command = [sys.executable, "-m", "nativeleak", "peek", "-p", str(target.pid), asked, "--whole", "--quiet"]
            subprocess.run(command, check=True, capture_output=True)
            n_looks[0] += 1

    thread = threading.Thread(target=keep_looking)
    thread.start()
    try:
        per_cpu, per_clock = written(target)
    finally:
        stop.set()
        thread.join()
    return per_cpu, per_clock, n_looks[0]


def copy(target: Target, asked: str, *options: str) -> tuple[float, float]:
    """CPU seconds and peak MiB of copying a region into a pipe."""
    command = f"{sys.executable} -m nativeleak peek -p {target.pid} {asked} --quiet -o - {' '.join(options)} >/dev/null"
    code = (
        f"import resource, subprocess; subprocess.run({command!r}, shell=True, check=True);"
        "r = resource.getrusage(resource.RUSAGE_CHILDREN); print(r.ru_utime + r.ru_stime, r.ru_maxrss / 1024)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    cpu_s, peak_mib = map(float, done.stdout.split())
    return cpu_s, peak_mib


def main() -> None:
    """Print both throughputs of each round, their medians, and the cost of a copy."""
    n_rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 8
    mib = int(sys.argv[2]) if len(sys.argv) > 2 else 64
    with Target("peeked", mib) as target:
        where = target.ask("where")
        asked = f"{where['start']:x}-{where['start'] + where['bytes']:x}"
        rows = []
        print(f"{'million words/s':<16}{'alone':>9}{'looked at':>11}   of CPU time; looks")
        for number in range(n_rounds):
            alone = written(target)
            busy = looked_at(target, asked)
            rows.append((alone, busy))
            print(f"round {number + 1:<10}{alone[0]:>9.1f}{busy[0]:>11.1f}   {busy[2]}", flush=True)
        ratios = [100 * (busy[0] / alone[0] - 1) for alone, busy in rows]
        clock = [100 * (busy[1] / alone[1] - 1) for alone, busy in rows]
        noise = statistics.stdev([100 * (alone[0] / rows[0][0][0] - 1) for alone, _ in rows]) if n_rounds > 1 else 0.0
        print(f"change per CPU second: median {statistics.median(ratios):+.1f} %; rounds alone differ by {noise:.1f} %")
        print(f"change by the clock: median {statistics.median(clock):+.1f} % (both processes share the processors)")
        for options in ((), ("--raw",)):
            cpu_s, peak_mib = copy(target, asked, *options)
            name = " ".join(options) or "masked"
            print(f"copy of {mib} MiB, {name}: {cpu_s:.2f} s of CPU, {peak_mib:.0f} MiB at most")


if __name__ == "__main__":
    main()
