"""Two leaking HTTP servers under load: requests a second untraced and traced, and whether the report names the method.

    benchmarks/java_servers.py [ROUNDS [SECONDS]]

Netty forgets a pooled direct buffer in every 7th request (tests/targets/java/NettyServer.java); Jetty never ends the
Deflater of every 97th (JettyServer.java). wrk keeps 16 connections busy, on the same machine. Each round asks both ways
of one server, so that both have the machine's state of the moment. Run as root in a checkout after scripts/setup
--tests, which brings wrk and the servers' jars.
"""

from __future__ import annotations

import os
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from stacks import await_snapshots
from support import Report, Target, Trace, require_program
from targets import servers
from targets.servers import JETTY, NETTY, PACKAGES, Server


def answer(report: Report, server: Server) -> str:
    """What the report says of the method that leaks: its rank among the program's sites, and what it holds."""
    rows = [row for row in report["sites"] if row["kind"] == "heap" and row["outstanding_bytes"]]
    rows.sort(key=lambda row: -row["outstanding_bytes"])
    hits = [
        (rank, row)
        for rank, row in enumerate(rows, 1)
        if any(frame["function"] == server.method for frame in row["frames"])
    ]
    if not hits:
        return f"{server.method} is not named"
    held = sum(row["outstanding_bytes"] for _, row in hits)
    threads = sorted({row["thread"]["name"] for _, row in hits})
    right = "" if all(name.startswith(server.thread) for name in threads) else ", unexpected"
    return (
        f"{server.method} first at place {hits[0][0]} of {len(rows)}, {held / 2**20:.1f} MiB, threads {threads}{right}"
    )


def main() -> None:
    """Each server: rounds of untraced and traced load."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    seconds = int(sys.argv[2]) if len(sys.argv) > 2 else 8
    require_program("wrk", "java", "javac")
    for server in (NETTY, JETTY):
        path = server.class_path()
        if path is None:
            sys.exit(f"missing packages: apt-get install {PACKAGES}")
        untraced, traced = [], []
        with Target(server.name, server.every, command=["java", "-cp", path, server.name]) as target:
            port = int(target.readline())
            servers.load(port, seconds)
            for _ in range(rounds):
                untraced.append(servers.load(port, seconds))
                with Trace(target, options=["--interval", "1s"]) as trace:
                    # The start of a trace is work for half a second: what it costs from then on is asked for here.
                    await_snapshots(trace, 2)
                    traced.append(servers.load(port, seconds))
                    report = trace.stop()
        before, after = statistics.median(untraced), statistics.median(traced)
        print(
            f"{server.name}: {before:,.0f} requests/s untraced, {after:,.0f} traced ({after / before - 1:+.1%});",
            end="",
        )
        print(f" load average {os.getloadavg()[0]:.1f}, {rounds} rounds of {seconds} s, medians")
        print(f"  {answer(report, server)}")
        print(f"  truncated stacks {report['completeness']['truncated_stacks']}")


if __name__ == "__main__":
    main()
