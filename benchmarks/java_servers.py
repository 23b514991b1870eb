"""Loads two leaking HTTP servers: requests a second untraced and traced, and whether each report names the method.

    benchmarks/java_servers.py [ROUNDS [SECONDS [netty] [jetty]]]

Netty forgets a pooled direct buffer in every 31st request (tests/targets/java/NettyServer.java). Jetty never ends the
Deflater of every 1,009th request (JettyServer.java). wrk keeps 16 connections busy, on the same machine.

Each round is a new JVM, so that no round begins with the leaks of another. After a warm-up it runs four phases:

    untraced   before the trace
    attaching  from just before a trace with default settings starts: recorder, unwind tables, names of stacks
    steady     under that trace
    untraced   after the trace

Ratios compare attaching and steady with the mean of the two untraced phases of the same round. The first round does not
count. A failed request ends the benchmark. A report that does not name the leaking method makes the status 1. Run as
root in a checkout after scripts/setup --tests, which installs wrk and the servers' jars.
"""

from __future__ import annotations

import os
import statistics
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from stacks import await_snapshots
from support import Report, Target, Trace, require_program
from targets import servers
from targets.servers import JETTY, NETTY, PACKAGES, Server

LIMITS_PCT = {NETTY.name: 98, JETTY.name: 95}
EVERY = {NETTY.name: 31, JETTY.name: 1009}
"""Server -> one request in so many leaks. More leaks make a server slower from one phase to the next: Netty leaks 50 to
100 MB a second in each 7th request, Jetty 190 MB in each 97th.
"""
BUDGET = "5%"
"""The default of ``--max-overhead``."""


@dataclass(frozen=True, slots=True)
class Round:
    """Requests a second of one JVM, and its report.

    Attributes:
        is_named: The report names the leaking method.
        text: The report in one line.
    """

    untraced: float
    attaching: float
    steady: float
    is_named: bool
    text: str


def answer(report: Report, server: Server) -> tuple[bool, str]:
    """Whether the report names the leaking method; its rank among the program's sites, and its bytes."""
    rows = [row for row in report["sites"] if row["owner"] == "program" and row["outstanding_bytes"]]
    rows.sort(key=lambda row: -row["outstanding_bytes"])
    hits = [
        (rank, row)
        for rank, row in enumerate(rows, 1)
        if any(frame["function"] == server.method for frame in row["frames"])
    ]
    if not hits:
        return False, f"{server.method} is not named among {len(rows)} sites"
    held = sum(row["outstanding_bytes"] for _, row in hits)
    threads = {row["thread"]["name"] for _, row in hits}
    n_others = sum(not name.startswith(server.thread) for name in threads)
    right = f", {n_others} of them unexpected" if n_others else ""
    where = f"at place {hits[0][0]} of {len(rows)}, {held / 2**20:.1f} MiB in {len(threads)} threads{right}"
    return True, f"{server.method} named, first {where}"


def traced(target: Target, port: int, seconds: int, server: Server) -> tuple[float, float, bool, str]:
    """Requests a second while a trace attaches and under it; whether it names the method; its report in a line."""
    before = target.ask("truth")
    with ThreadPoolExecutor(1) as other:
        attaching = other.submit(servers.load, port, seconds)
        with Trace(target, options=["--max-overhead", BUDGET]) as trace:
            attached = attaching.result()
            await_snapshots(trace, 1)
            steady = servers.load(port, seconds)
            n_leaked = target.ask("truth")["forgotten"] - before["forgotten"]
            report = trace.stop()
    is_named, text = answer(report, server)
    levels = " ".join(sorted({window["level"] for window in report["mode"]["windows"]}))
    cut = report["completeness"]["truncated_stacks"]
    return attached, steady, is_named, f"{n_leaked} leaked; {text}; levels: {levels}; truncated stacks {cut}"


def one_round(server: Server, path: str, seconds: int) -> Round:
    """Run all phases in a new JVM."""
    command = ["java", "-cp", path, server.name, str(EVERY[server.name])]
    with Target(server.name, command=command) as target:
        port = int(target.readline())
        servers.load(port, seconds)
        before = servers.load(port, seconds)
        attaching, steady, is_named, text = traced(target, port, seconds, server)
        after = servers.load(port, seconds)
    return Round((before + after) / 2, attaching, steady, is_named, text)


def main() -> None:
    """Run the rounds of each server and print medians."""
    n_rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    seconds = int(sys.argv[2]) if len(sys.argv) > 2 else 8
    names = sys.argv[3:]
    require_program("wrk", "java", "javac")
    n_unnamed = 0
    for server in (NETTY, JETTY):
        if names and server.name.removesuffix("Server").lower() not in names:
            continue
        path = server.class_path()
        if path is None:
            sys.exit(f"missing packages: apt-get install {PACKAGES}")
        rounds = []
        for i in range(n_rounds + 1):
            found = one_round(server, path, seconds)
            n_unnamed += not found.is_named
            rates = f"{found.untraced:,.0f} untraced, {found.attaching:,.0f} attaching, {found.steady:,.0f} steady"
            print(f"  {server.name} {i or 'thrown away'}: {rates}; {found.text}", flush=True)
            rounds += [found] if i else []
        steady = 100 * statistics.median(found.steady / found.untraced for found in rounds)
        attaching = 100 * statistics.median(found.attaching / found.untraced for found in rounds)
        before = statistics.median(found.untraced for found in rounds)
        limit = LIMITS_PCT[server.name]
        print(f"{server.name}: {before:,.0f} requests/s untraced; steady {steady:.1f} % of that", end=" ")
        print(f"(limit {limit} %) {'ok' if steady >= limit else 'MISSED'}; while attaching {attaching:.1f} %;", end=" ")
        print(f"load average {os.getloadavg()[0]:.1f}, {n_rounds} rounds of {seconds} s, medians of ratios")
    if n_unnamed:
        sys.exit(f"{n_unnamed} reports do not name the leaking method")


if __name__ == "__main__":
    main()
