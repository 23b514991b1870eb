"""How well a trace inside its budget names what leaks: recall, precision, and whether the intervals hold the truth.

    benchmarks/naming.py [--max-overhead 1%] [--duration 60] [--only WORD] [--limit N] [--list]

Programs that know their own leaks run under a trace: a C program with churn of the same sizes and contents as its
leaks, a C++ server, and a JVM with a busy pair of calls and a slow leak; with one, two and eight threads, three seeds,
leak fractions of 1e-3 to 1e-6 of the turns, without a leak, and with memory that only the allocator retains. A suspect
is right if it is a function that leaks. Printed are a line a run, then recall and precision with their 95 % intervals
(Wilson), how many intervals hold the true growth, and in how many runs without a leak a function was named.
Run as root in a checkout after scripts/setup --tests; all runs of 60 s take about an hour. See docs/budget.md.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from support import Trace
from targets import build

WARM_S = 3.0
SLACK = 0.02
"""The truth is read up to a quarter of a second beside the trace."""


@dataclass(frozen=True)
class Run:
    """A program to trace, and how its lines of truth are read.

    Attributes:
        name: For the table.
        target: Of tests/targets/build.py.
        command: The program in the target's folder, or empty where the target is the program; then its arguments.
        leaks: Function that leaks -> index of the word of its bytes in a line of truth; empty: nothing leaks.
    """

    name: str
    target: str
    command: tuple[str, ...]
    leaks: dict[str, int]


@dataclass
class Outcome:
    """What a trace named.

    Attributes:
        true: Functions that leaked.
        named: Suspects by name.
        held: Of those that are right: whether the interval holds the truth.
    """

    true: list[str]
    named: list[str]
    held: list[bool] = field(default_factory=list)


def runs() -> Iterator[Run]:
    """The battery."""
    sites = {"naming_leak_small": 2, "naming_leak_middle": 5, "naming_leak_large": 8}
    for n_threads in ("1", "2", "8"):
        for seed in ("1", "2", "3"):
            for every in ("1000", "10000", "100000", "1000000"):
                name = f"churn {n_threads} threads, seed {seed}, 1 of {every}"
                yield Run(name, "naming", ("", n_threads, seed, every, "0"), sites)
        yield Run(f"churn {n_threads} threads, no leak", "naming", ("", n_threads, "1", "0", "0"), {})
        yield Run(f"churn {n_threads} threads, retention", "naming", ("", n_threads, "1", "0", "1"), {})
        for every in ("1000", "100000", "0"):
            leaks = {"SessionIndex::remember": 6} if every != "0" else {}
            command = ("server", "0", every, "/dev/stdout", n_threads, "1")
            yield Run(f"server {n_threads} threads, 1 of {every}", "field_rate_server", command, leaks)
    for rate in ("100000", "500000"):
        command = ("java", "-cp", ".", "RecordService", rate)
        yield Run(f"JVM, {rate} pairs/s", "field_busy_slow_leak", command, {"RecordService.audit": -1})


class Truth:
    """The lines of a program, with the moment at which each came."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.lines: list[tuple[float, list[str]]] = []
        self._process = process
        threading.Thread(target=self._follow, daemon=True).start()

    def _follow(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append((time.time(), line.split()))

    def rate(self, word: int, from_s: float, to_s: float) -> float:
        """Bytes a second between two moments."""
        inside = [(at_s, words) for at_s, words in self.lines if from_s <= at_s <= to_s]
        (first_s, first), (last_s, last) = inside[0], inside[-1]
        return (_bytes(last, word) - _bytes(first, word)) / (last_s - first_s)


def _bytes(words: list[str], word: int) -> int:
    if word >= 0:
        return int(words[word])
    # The programs in Java say: label=bytes/blocks.
    return int(words[2].split("=")[1].split("/")[0])


def trace(run: Run, options: argparse.Namespace) -> Outcome:
    """Run a program and trace it once."""
    made = build.build_target(run.target)
    program, *arguments = run.command
    path = {"": str(made), "java": "java"}.get(program, str(made / program))
    folder = made if made.is_dir() else made.parent
    with subprocess.Popen([path, *arguments], stdout=subprocess.PIPE, text=True, cwd=folder) as process:
        try:
            truth = Truth(process)
            time.sleep(WARM_S)
            flags = ["--max-overhead", options.max_overhead, "--duration", f"{options.duration:g}s"]
            with Trace(process.pid, options=flags) as traced:
                started_s = time.time()
                report = traced.wait()
                ended_s = time.time()
            return judge(run, report, truth, started_s, ended_s)
        finally:
            process.kill()


def judge(run: Run, report: dict[str, Any], truth: Truth, from_s: float, to_s: float) -> Outcome:
    """Hold the suspects against the truth; a leak that has not leaked during the trace is none."""
    rates = {function: truth.rate(word, from_s, to_s) for function, word in run.leaks.items()}
    outcome = Outcome([function for function, rate in rates.items() if rate > 0], [])
    for suspect in report["suspects"]:
        name = next((each for each in rates if suspect["name"].startswith(each)), suspect["name"])
        outcome.named.append(name)
        if name in outcome.true:
            low, high = suspect["growth"]["ci95"]
            outcome.held.append(low * (1 - SLACK) <= rates[name] <= high * (1 + SLACK))
    return outcome


def wilson(n_right: int, n_all: int) -> str:
    """A share with its 95 % interval, in per cent."""
    if not n_all:
        return "none"
    z, share = 1.96, n_right / n_all
    middle = (share + z * z / (2 * n_all)) / (1 + z * z / n_all)
    half = z * math.sqrt(share * (1 - share) / n_all + z * z / (4 * n_all * n_all)) / (1 + z * z / n_all)
    return f"{n_right} of {n_all}: {100 * share:.0f} % [{100 * (middle - half):.0f} {100 * (middle + half):.0f}]"


def main() -> None:
    """Trace all, and say how good it was."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--max-overhead", default="1%")
    parser.add_argument("--duration", type=float, default=60.0)
    parser.add_argument("--only", default="", help="runs whose name has this word")
    parser.add_argument("--limit", type=int, default=1000, help="at most so many runs")
    parser.add_argument("--list", action="store_true", help="names of the runs, and nothing else")
    options = parser.parse_args()
    chosen = [run for run in runs() if options.only in run.name][: options.limit]
    if options.list:
        print("\n".join(run.name for run in chosen))
        return
    outcomes = []
    for run in chosen:
        outcome = trace(run, options)
        outcomes.append(outcome)
        missed = sorted(set(outcome.true) - set(outcome.named))
        false = [name for name in outcome.named if name not in outcome.true]
        print(
            f"{run.name:44} right {len(outcome.held)}, missed {', '.join(missed) or '-'}, "
            f"false {', '.join(false) or '-'}, intervals {sum(outcome.held)} of {len(outcome.held)}",
            flush=True,
        )
    found = sum(len(set(each.named) & set(each.true)) for each in outcomes)
    right = sum(len(each.held) for each in outcomes)
    print(f"recall     {wilson(found, sum(len(each.true) for each in outcomes))}")
    print(f"precision  {wilson(right, sum(len(each.named) for each in outcomes))}")
    print(f"intervals  {wilson(sum(sum(each.held) for each in outcomes), right)}")
    calm = [each for each in outcomes if not each.true]
    print(f"named without a leak: {wilson(sum(bool(each.named) for each in calm), len(calm))}")


if __name__ == "__main__":
    main()
