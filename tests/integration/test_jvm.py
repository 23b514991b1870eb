"""A real JVM: its named threads hold what its own ledger says, and what it maps for itself is kept apart."""

from __future__ import annotations

import pytest

from support import Trace, leaker, nativeleak, sums
from tools.check_report import check

pytestmark = pytest.mark.jvm

KIB = 1024
# zlib allocates for a Deflater: its state, and window, hash chains, hash heads and pending output of 64 KiB each.
# Source: deflateInit2_ in deflate.c, with 15 window bits and a memory level of 8 (java.util.zip.Deflater).
BLOCKS_OF_DEFLATER, LARGE_BLOCKS_OF_DEFLATER = 5, 4


class Traced:
    """A Leaker that was traced from its first buffer to its last, with what both sides say of it."""

    def __init__(self):
        with (
            leaker(
                "order-cache=503", "chunk-pool=11", "gzip-writer=53", "good-citizens=101", "limit-mib=256"
            ) as target,
            Trace(target, options=["--interval", "0.5s"]) as trace,
        ):
            target.send("go")
            self.truth = {site["name"]: site for site in target.ask("until order-cache 509")["sites"]}
            self.report = trace.stop()
            self.everything = trace.all_sites()
            self.text = nativeleak("report", trace.recording, "--by", "site,thread").stdout

    def rows(self, thread, function, report=None):
        """The report's heap sites of a thread that go through a function."""
        tid = self.truth[thread]["tid"]
        return [
            row
            for row in (report or self.report)["sites"]
            if (row["kind"], row["thread"]["tid"]) == ("heap", tid)
            and any(frame["function"].startswith(function) for frame in row["frames"])
        ]


@pytest.fixture(scope="module")
def traced():
    return Traced()


def test_jvm_report_keeps_to_the_contract(traced):
    assert check(traced.report) == []
    assert check(traced.everything) == []
    assert traced.report["target"]["comm"] == "java"
    assert traced.report["target"]["jvm"]["version"]
    assert traced.report["completeness"]["lost_allocations"] == 0
    assert traced.report["completeness"]["lost_events"] == 0
    assert traced.report["completeness"]["overwritten"] == 0


# JDK 17 asks malloc for exactly the capacity of a direct buffer (-XX:+PageAlignDirectMemory is off by default).
@pytest.mark.parametrize(("thread", "buffer_bytes"), [("order-cache", 64 * KIB), ("chunk-pool", 16 * KIB * KIB)])
def test_jvm_threads_hold_their_direct_buffers_to_the_byte(traced, thread, buffer_bytes):
    site = traced.truth[thread]
    rows = traced.rows(thread, "Unsafe_AllocateMemory")
    assert sum(row["outstanding_bytes"] for row in rows) == site["outstanding_bytes"] > 0
    assert sum(row["outstanding_count"] for row in rows) == site["outstanding_count"]
    assert all(row["outstanding_bytes"] == row["outstanding_count"] * buffer_bytes for row in rows)
    assert {(row["thread"]["name"], row["owner"]) for row in rows} == {(thread, "program")}
    assert {row["frames"][0]["function"] for row in rows} == {"malloc"}
    # Nothing else of that size in the thread.
    large = [
        row
        for row in traced.report["sites"]
        if row["kind"] == "heap"
        and row["thread"]["tid"] == site["tid"]
        and row["outstanding_bytes"] >= row["outstanding_count"] * 64 * KIB
    ]
    assert sum(row["outstanding_bytes"] for row in large) == site["outstanding_bytes"]


def test_jvm_deflaters_never_ended_are_outstanding_through_deflate_init(traced):
    held = traced.truth["gzip-writer"]["held_objects"]
    rows = traced.rows("gzip-writer", "deflateInit2_")
    assert held > 0
    assert sum(row["outstanding_count"] for row in rows) == held * BLOCKS_OF_DEFLATER
    large = [row for row in rows if row["outstanding_bytes"] == row["outstanding_count"] * 64 * KIB]
    assert sum(row["outstanding_bytes"] for row in large) == held * LARGE_BLOCKS_OF_DEFLATER * 64 * KIB
    assert {frame["module"].split(".so")[0] for row in rows for frame in row["frames"][:2]} == {"libc", "libz"}


@pytest.mark.parametrize("thread", ["good-citizen-1", "good-citizen-2"])
def test_jvm_threads_that_release_their_buffers_hold_none(traced, thread):
    site = traced.truth[thread]
    assert traced.rows(thread, "Unsafe_AllocateMemory") == []
    rows = traced.rows(thread, "Unsafe_AllocateMemory", traced.everything)
    assert sum(row["allocated_bytes"] for row in rows) == site["allocated_bytes"] > 0
    assert sum(row["allocated_count"] for row in rows) == site["allocated_count"]
    assert {row["outstanding_bytes"] for row in rows} == {0}
    # What is left is the JVM's own: one buffer would be more than all of it.
    (holds,) = [entry for entry in traced.report["threads"] if entry["tid"] == site["tid"]]
    assert holds["outstanding_bytes"] < KIB * KIB


def test_jvm_maps_for_itself_are_the_jvms(traced):
    mapped = [row for row in traced.report["sites"] if row["kind"] == "map"]
    by_jvm = [row for row in mapped if any(frame["module"] == "libjvm.so" for frame in row["frames"])]
    assert by_jvm
    # Java code asks for some of it: libraries, classes, threads.
    asked = [row for row in by_jvm if any(frame["kind"].startswith("java") for frame in row["frames"])]
    assert {row["owner"] for row in by_jvm if row not in asked} <= {"jvm"}
    assert {row["owner"] for row in asked} <= {"jvm", "program"}
    loads = [row for row in by_jvm if "JVM_LoadLibrary" in {frame["function"] for frame in row["frames"]}]
    assert loads
    assert {row["owner"] for row in loads} == {"program"}
    assert {row["owner"] for row in mapped if row not in by_jvm} <= {"program"}
    assert "by the JVM itself" in " ".join(traced.text.split())


def test_jvm_text_report_names_the_thread_and_the_path_that_hold_most(traced):
    most = max(traced.truth.values(), key=lambda site: site.get("outstanding_bytes", 0))
    assert most["name"] == "chunk-pool"
    answer = traced.text.split("Call sites")[0]
    assert f"thread {most['name']}" in answer
    assert f"thread {most['name']} (TID {most['tid']})" in traced.text
    leaked = sums({"sites": [site for site in traced.truth.values() if "outstanding_bytes" in site]}, "heap")
    assert traced.report["totals"]["heap"]["outstanding_bytes"] >= leaked["outstanding_bytes"]
    for thread in ("order-cache", "gzip-writer"):
        assert thread in traced.text
    assert "Unsafe_AllocateMemory0" in traced.text
