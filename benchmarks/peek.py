"""What a look into memory costs the process that is looked at, and what it takes itself.

    benchmarks/peek.py [ROUNDS [MIB]]

The target writes to a region at full speed. In turn it is left alone, another idle process is looked at, and the very
region is looked at. A look keeps a processor and its caches busy, as any other program would; so the second measures
the neighbour, and only the difference between the second and the third is the cost of being read. Throughput is counted
in words written per second of the target's own CPU time. Then the region is copied into a pipe, and the time and the
memory of nativeleak are shown.
Run as root in a checkout after scripts/setup --tests.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from nativeleak.process.procfs import read_cpu_s
from support.target import Target

WRITE_MS = 600
START_S = 1.5


def region(target: Target) -> str:
    """Its region, as peek takes it."""
    where = target.ask("where")
    return f"{where['start']:x}-{where['start'] + where['bytes']:x}"


def written(target: Target) -> float:
    """Millions of words per CPU second of the target."""
    before = read_cpu_s(target.pid)
    words = target.ask(f"write {WRITE_MS}")["words"] / 1e6
    return words / max(read_cpu_s(target.pid) - before, 0.01)


def beside(target: Target, looked_at: Target, asked: str) -> float:
    """The same while a look at a process goes on."""
    command = [sys.executable, "-m", "nativeleak", "peek", "-p", str(looked_at.pid), asked, "--whole"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as look:
        time.sleep(START_S)  # it reads by then
        found = written(target)
        if look.poll() is not None:
            print("the look ended before the round did: give more MIB", file=sys.stderr)
        look.kill()
    return found


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
    """Print the throughputs of each round, their medians, and the cost of a copy."""
    n_rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 8
    mib = int(sys.argv[2]) if len(sys.argv) > 2 else 256
    with Target("peeked", mib) as target, Target("peeked", mib) as other:
        asked, others = map(region, (target, other))
        rows = []
        print(f"{'million words per CPU second':<30}{'alone':>9}{'other looked at':>17}{'looked at':>11}")
        for number in range(n_rounds):
            rows.append((written(target), beside(target, other, others), beside(target, target, asked)))
            print(f"{f'round {number + 1}':<30}{rows[-1][0]:>9.1f}{rows[-1][1]:>17.1f}{rows[-1][2]:>11.1f}", flush=True)
        changes = [100 * (looked / neighbour - 1) for _, neighbour, looked in rows]
        noise = [100 * (after[1] / before[1] - 1) for before, after in pairwise(rows)]
        print(f"looked at against other looked at: median {statistics.median(changes):+.1f} %")
        print(
            f"rounds beside the other against each other: {statistics.quantiles(noise, n=4)[0]:+.1f} to "
            f"{statistics.quantiles(noise, n=4)[2]:+.1f} % (quartiles)"
        )
        for options in ((), ("--raw",)):
            cpu_s, peak_mib = copy(target, asked, *options)
            name = " ".join(options) or "masked"
            print(f"copy of {mib} MiB, {name}: {cpu_s:.2f} s of CPU, {peak_mib:.0f} MiB at most")


if __name__ == "__main__":
    main()
