"""Compares the two loaders of the BPF programs: time to attach, memory, cost of a hit.

    sudo .venv/bin/python benchmarks/bcc.py [--rounds 5]

The time to attach runs from the start of a trace of an idle process to the opening of its window. Memory is the peak of
the tracer, and of the child that compiles. The cost of a hit is `overhead.probe_cost_ns` of the report, which the
tracer measures with the programs of the trace.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROWS = (
    ("libbpf, tables", ("--engine", "libbpf")),
    ("libbpf", ("--engine", "libbpf", "--unwind", "fp")),
    ("bcc", ("--engine", "bcc")),
)


def attach_and_stop(options: tuple[str, ...]) -> tuple[float, dict]:
    """Seconds until the window of a trace opens, and the report."""
    with tempfile.TemporaryDirectory() as room, subprocess.Popen(["sleep", "600"]) as target:
        try:
            started_s = time.monotonic()
            command = [sys.executable, "-m", "nativeleak", "trace", "-p", str(target.pid), "--format", "json"]
            trace = subprocess.Popen(
                [*command, "-o", str(Path(room, "t.nlk")), "--duration", "2s", *options],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            assert trace.stderr is not None
            for line in trace.stderr:
                if line.startswith("nativeleak: tracing"):
                    break
            attached_s = time.monotonic() - started_s
            out, _ = trace.communicate(timeout=120)
        finally:
            target.kill()
    return attached_s, json.loads(out)


def compiler_rss_bytes() -> int:
    """Peak memory of the compiler process."""
    code = "from nativeleak.engines.bpf.kernel.loaders.bcc import compiled; compiled()"
    subprocess.run([sys.executable, "-c", code], check=True)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10


def medians(rounds: int, options: tuple[str, ...]) -> tuple[float, float, float]:
    """Seconds to attach, peak memory in MB, nanoseconds a hit."""
    runs = [attach_and_stop(options) for _ in range(rounds)]

    def median(value: Callable[[dict], float]) -> float:
        return statistics.median(value(report) for _, report in runs)

    return (
        statistics.median(seconds for seconds, _ in runs),
        median(lambda report: report["overhead"]["tracer_max_rss_bytes"] / 1e6),
        median(lambda report: report["overhead"]["probe_cost_ns"]),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    print("| programs by | until attached, s | tracer, MB | a hit, ns |\n|---|---|---|---|")
    for name, options in ROWS:
        attached_s, rss_mb, hit_ns = medians(rounds, options)
        print(f"| {name} | {attached_s:.2f} | {rss_mb:.0f} | {hit_ns:.0f} |")
    print(f"\nThe compiler process: {compiler_rss_bytes() / 1e6:.0f} MB; it ends before the window opens.")


if __name__ == "__main__":
    main()
