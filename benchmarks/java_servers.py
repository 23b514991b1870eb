"""Two leaking HTTP servers under load: requests a second untraced and traced, and whether the report names the method.

    benchmarks/java_servers.py [ROUNDS [SECONDS]]

Netty forgets a pooled direct buffer in every 97th request (tests/targets/java/NettyServer.java); Jetty never ends its
Deflaters (JettyServer.java). wrk keeps 16 connections busy, on the same machine. Each round asks both ways of one
server, so that both have the machine's state of the moment. Run as root in a checkout after scripts/setup --tests.
Packages: wrk libnetty-java libjetty9-java libservlet-api-java.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from support import Report, Target, Trace, require_program
from targets import build

JARS = Path("/usr/share/java")


@dataclass(frozen=True)
class Server:
    """A server to be loaded: its class, its jars, and the method that leaks."""

    name: str
    jars: tuple[str, ...]
    arguments: tuple[str, ...]
    method: str
    thread: str


SERVERS = (
    Server("NettyServer", ("netty*.jar",), ("97",), "NettyServer$Handler.forgetBuffer", "nioEventLoopGroup-"),
    Server("JettyServer", ("jetty9-*.jar", "servlet-api*.jar"), (), "JettyServer$Handler.compress", "qtp"),
)


def class_path(server: Server) -> str:
    """Compile the server; returns its class path."""
    jars = [str(jar) for pattern in server.jars for jar in sorted(JARS.glob(pattern))]
    if not jars:
        sys.exit("missing packages: apt-get install wrk libnetty-java libjetty9-java libservlet-api-java")
    source = build.HERE / "java" / f"{server.name}.java"
    path = ":".join([str(build.BIN), *jars])
    subprocess.run(["javac", "--release", "11", "-nowarn", "-cp", path, "-d", build.BIN, source], check=True)
    return path


def requests_per_s(port: str, seconds: int) -> float:
    """Load the server; wrk's own measure."""
    done = subprocess.run(
        ["wrk", "-t1", "-c16", f"-d{seconds}s", f"http://127.0.0.1:{port}/"], capture_output=True, text=True, check=True
    )
    found = re.search(r"Requests/sec:\s+([0-9.]+)", done.stdout)
    if found is None or "Non-2xx" in done.stdout:
        sys.exit(done.stdout)
    return float(found[1])


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
    require_program("wrk", "javac")
    for server in SERVERS:
        command = ["java", "-Xmx256m", "-XX:MaxDirectMemorySize=4g", "-cp", class_path(server), server.name]
        untraced, traced = [], []
        with Target(server.name, *server.arguments, command=command) as target:
            port = target.readline()
            requests_per_s(port, seconds)
            for _ in range(rounds):
                untraced.append(requests_per_s(port, seconds))
                with Trace(target, options=["--interval", "1s"]) as trace:
                    traced.append(requests_per_s(port, seconds))
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
