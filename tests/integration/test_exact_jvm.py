"""What a JVM maps for itself is never the program's: reserved, committed or given back.

With G1; with each collector where ``NATIVELEAK_TEST_JAVA=all``.
"""

from __future__ import annotations

import os

import pytest

from support import Target, Trace, target_path
from tools.check_report import check

pytestmark = pytest.mark.jvm

MIB = 1 << 20
IS_WHOLE = os.environ.get("NATIVELEAK_TEST_JAVA") == "all"
REQUESTS = ("Metaspace::allocate", "JVM_StartThread", "JVM_LoadLibrary")
# Java code that maps a file, by its native half: JDK 11 and 17, then JDK 20 on.
FILE_MAPPERS = ("FileChannelImpl_map0", "UnixFileDispatcherImpl_map0", "FileDispatcherImpl_map0")


def churn(collector):
    command = ["java", f"-XX:+Use{collector}GC", "-Xms16m", "-Xmx256m", "-XX:MaxHeapFreeRatio=20"]
    command += ["-XX:MinHeapFreeRatio=10", "-XX:ReservedCodeCacheSize=64m", "-cp", target_path("Churn"), "Churn"]
    return Target("Churn", command=command)


def is_asked_for(row):
    """Whether Java code asked the JVM for it: a class, a thread, a native library."""
    of_java = any(frame["kind"].startswith("java") for frame in row["frames"])
    return of_java and any(frame["function"].startswith(REQUESTS) for frame in row["frames"])


@pytest.mark.parametrize("collector", ["G1", "Serial", "Parallel", "Z"] if IS_WHOLE else ["G1"])
def test_jvm_memory_of_its_own_is_never_the_programs(collector):
    with churn(collector) as target, Trace(target, options=["--interval", "1s"]) as trace:
        truth = target.go()
        report = trace.stop()
        everything = trace.all_sites()
    assert check(report) == []
    assert check(everything) == []
    assert report["completeness"]["lost_events"] == 0
    for rows in (report["sites"], everything["sites"]):
        mapped = [row for row in rows if row["kind"] == "map"]
        by_jvm = [row for row in mapped if any(frame["module"] == "libjvm.so" for frame in row["frames"][:3])]
        assert by_jvm
        assert {row["owner"] for row in by_jvm if not is_asked_for(row)} == {"jvm"}
    # Of the program there is the file that it mapped, and what Java code asks the JVM for: no heap, no code.
    of_program = [row for row in everything["sites"] if row["kind"] == "map" and row["owner"] == "program"]
    files = [row for row in of_program if any(name in f["function"] for f in row["frames"] for name in FILE_MAPPERS)]
    assert sum(row["outstanding_bytes"] for row in files) == truth["mapped_bytes"]
    assert sum(row["outstanding_count"] for row in files) == 1
    others = [row for row in of_program if row not in files and row["outstanding_bytes"]]
    assert [row for row in others if not is_asked_for(row)] == []
    # Java's heap was filled and emptied six times: reserved, committed, given back. ZGC maps it three times over.
    held = sum(row["outstanding_bytes"] for row in report["sites"] if (row["kind"], row["owner"]) == ("map", "jvm"))
    assert held < (3 if collector == "Z" else 1) * 256 * MIB + 160 * MIB
