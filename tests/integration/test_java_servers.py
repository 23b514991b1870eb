"""Two real servers that leak under load, without a flag for the JVM: the report names the thread and the method.

Each server tells how much it has leaked: Netty's pool counts its chunks, Jetty's handler its Deflaters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

import pytest

from support import Report, Target, Trace, Truth, eventually, nativeleak, require, require_program
from targets import servers
from targets.servers import JETTY, NETTY, PACKAGES, Server

pytestmark = [pytest.mark.jvm, pytest.mark.timeout(180)]

CHUNK_BYTES = 16 << 20
BLOCKS_OF_A_DEFLATER = 6
"""Its z_stream, and what deflateInit2_ takes: state, window, previous, head, pending (deflate.c of zlib)."""


class Reports(NamedTuple):
    """A trace's report, as text, and its folded stacks by pool of threads."""

    report: Report
    text: str
    by_pool: str


def traced(server: Server, enough: Callable[[Truth, Truth], bool]) -> tuple[Truth, Truth, Reports]:
    """Load a server under a trace until it has leaked enough; its truth before and after, and the reports."""
    require_program("java", "javac", "wrk")
    path = server.class_path()
    require(path, f"not installed: {PACKAGES}")
    command = ["java", "-cp", str(path), server.name, str(server.every)]
    with Target(server.name, command=command) as target:
        port = int(target.readline())
        eventually(lambda: servers.load(port, 1) > 0, "the first request")
        before = target.ask("truth")
        with Trace(target, options=["--interval", "0.5s"]) as trace:
            eventually(lambda: servers.load(port, 1) > 0 and enough(before, target.ask("truth")), "a leak")
            # wrk goes away in the middle of its last requests.
            eventually(lambda: servers.n_connections(port) == 0, "the end of the last request")
            last = target.ask("truth")
            report = trace.stop()
            after = target.ask("truth")
            text = nativeleak("report", trace.recording, "--all", "--by", "site,thread").stdout
            by_pool = nativeleak("report", trace.recording, "--format", "folded", "--by", "pool").stdout
    assert after == last
    return before, after, Reports(report, text, by_pool)


def sites_of(report: Report, method: str) -> list[Report]:
    return [site for site in report["sites"] if any(frame["function"] == method for frame in site["frames"])]


def total(sites: Iterable[Report], column: str) -> int:
    return sum(site[column] for site in sites)


def is_of_thread_or_class(site: Report) -> bool:
    """Whether a server's pool started a thread here, or its code loaded a class: either may happen meanwhile."""
    return any(frame["function"].startswith(("pthread_create", "Metaspace::allocate")) for frame in site["frames"])


def check(reports: Reports, server: Server) -> list[Report]:
    """What holds of both: who, where, and the JVM's own memory apart. Give the sites of the method that leaks."""
    program = [
        site for site in reports.report["sites"] if site["owner"] == "program" and not is_of_thread_or_class(site)
    ]
    leaked = [site for site in sites_of(reports.report, server.method) if site["owner"] == "program"]
    assert max(program, key=lambda site: site["outstanding_bytes"]) in leaked
    assert all(site["thread"]["name"].startswith(server.thread) for site in leaked)
    assert total(leaked, "outstanding_bytes") > 0.9 * total(program, "outstanding_bytes")
    answer, _, rest = reports.text.partition("Call sites")
    assert server.method in answer
    assert re.search(rf"thread {server.thread}\S+ \(TID \d+\)", rest)
    assert "Held by the JVM itself" in rest
    assert [site for site in reports.report["sites"] if site["owner"] == "jvm"]
    pools = {line.split(";")[0] for line in reports.by_pool.splitlines() if server.method in line}
    assert len(pools) == 1
    assert re.fullmatch(rf"{server.thread}.*-\*", pools.pop())
    return leaked


def test_java_server_that_forgets_pooled_buffers_is_named():
    before, after, reports = traced(NETTY, lambda old, new: new["count"] >= old["count"] + 3)
    check(reports, NETTY)
    # The JVM may take memory of its own below the same method (a class that it links, a compilation): not the pool's.
    below = sites_of(reports.report, "io.netty.buffer.PoolArena$DirectArena.newChunk")
    pool = [site for site in below if site["owner"] == "program"]
    assert total(pool, "outstanding_bytes") == after["bytes"] - before["bytes"]
    assert total(pool, "outstanding_count") == after["count"] - before["count"]


def test_java_server_that_never_ends_its_deflaters_is_named():
    before, after, reports = traced(JETTY, lambda old, new: new["forgotten"] >= old["forgotten"] + 31)
    leaked = check(reports, JETTY)
    assert total(leaked, "outstanding_count") == BLOCKS_OF_A_DEFLATER * (after["forgotten"] - before["forgotten"])
