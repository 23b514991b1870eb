"""What a look into memory costs the process that is looked at, and what it takes itself.

    benchmarks/peek.py [ROUNDS [MIB]]

The target writes to a region at full speed. In turn it is left alone, another idle process is looked at, and the very
region is looked at. A look keeps a processor and its caches busy, as any other program would; so the second measures
the neighbour, and only the difference between the second and the third is the cost of being read. The two of such a
pair follow each other, and change their order from round to round, so that what drifts falls on both. Throughput is
counted in words written per second, of the clock and of the target's own CPU time; the change of the mean has a 95 %
interval from the pairs. By the clock a quiet machine with three cores is needed: target, looker, one left over. Then
the region is copied into a pipe, and the time and the memory of nativeleak are shown.
Run as root in a checkout after scripts/setup --tests.
"""

from __future__ import annotations

import math
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from nativeleak.process.procfs import read_cpu_s
from support.target import Target

WRITE_MS = 600
START_S = 1.5
T_95 = {
    1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26, 11: 2.20, 15: 2.13, 19: 2.09,
    23: 2.07, 29: 2.05, 39: 2.02,
}  # fmt: skip
"""Student's t for 95 % by degrees of freedom: of the numbers of rounds that are usual."""


def region(target: Target) -> str:
    """Its region, as peek takes it."""
    where = target.ask("where")
    return f"{where['start']:x}-{where['start'] + where['bytes']:x}"


class Speed(NamedTuple):
    """Millions of words that the target writes a second."""

    clock: float
    cpu: float


def written(target: Target) -> Speed:
    """Its speed now."""
    before, began_s = read_cpu_s(target.pid), time.monotonic()
    words = target.ask(f"write {WRITE_MS}")["words"] / 1e6
    took_s = time.monotonic() - began_s
    return Speed(words / took_s, words / max(read_cpu_s(target.pid) - before, 0.01))


def beside(target: Target, looked_at: Target, asked: str) -> Speed:
    """The same while a look at a process goes on."""
    command = [sys.executable, "-m", "nativeleak", "peek", "-p", str(looked_at.pid), asked, "--whole"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as look:
        time.sleep(START_S)  # it reads by then
        found = written(target)
        if look.poll() is not None:
            print("the look ended before the round did: give more MIB", file=sys.stderr)
        look.kill()
    return found


def change(before: list[float], after: list[float]) -> tuple[float, float, float]:
    """Change in percent over pairs, with a 95 % interval by Student's t of the pairs' logarithms."""
    logs = [math.log(each / first) for first, each in zip(before, after, strict=True)]
    middle = statistics.fmean(logs)
    half = T_95.get(len(logs) - 1, 1.96) * statistics.stdev(logs) / math.sqrt(len(logs))
    low, mean, high = (100 * math.expm1(each) for each in (middle - half, middle, middle + half))
    return mean, low, high


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
    """Print the throughputs of each round, their changes with intervals, and the cost of a copy."""
    n_rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 8
    mib = int(sys.argv[2]) if len(sys.argv) > 2 else 256
    if n_rounds < 2:
        sys.exit("give at least 2 rounds: an interval takes more than one pair")
    with Target("peeked", mib) as target, Target("peeked", mib) as other:
        asked, others = map(region, (target, other))
        alone, neighbour, looked = [], [], []
        print(f"{'million words per CPU second':<30}{'alone':>9}{'other looked at':>17}{'looked at':>11}")
        for number in range(n_rounds):
            alone.append(written(target))
            pair = [(neighbour, other, others), (looked, target, asked)]
            for found, process, where in pair if number % 2 else reversed(pair):
                found.append(beside(target, process, where))
            row = f"{alone[-1].cpu:>9.1f}{neighbour[-1].cpu:>17.1f}{looked[-1].cpu:>11.1f}"
            print(f"{f'round {number + 1}':<30}{row}", flush=True)
        for name, first, then in (
            ("looked at, against other looked at", neighbour, looked),
            ("other looked at, against alone", alone, neighbour),
        ):
            for field in Speed._fields:
                mean, low, high = change([getattr(s, field) for s in first], [getattr(s, field) for s in then])
                print(f"{name}, by {field}: {mean:+.1f} % (95 %: {low:+.1f} to {high:+.1f}), {n_rounds} pairs")
        for options in ((), ("--raw",)):
            cpu_s, peak_mib = copy(target, asked, *options)
            name = " ".join(options) or "masked"
            print(f"copy of {mib} MiB, {name}: {cpu_s:.2f} s of CPU, {peak_mib:.0f} MiB at most")


if __name__ == "__main__":
    main()
