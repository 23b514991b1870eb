"""Targets that a careless tracer would harm, or lose sight of: each lives on, and the report says what is missing."""

from __future__ import annotations

from support import Target, Trace
from tools.check_report import check


def test_library_that_is_unmapped_while_it_is_probed_ends_nothing():
    with Target("reloads") as target, Trace(target, options=["--interval", "0.2s"]) as trace:
        target.send("go")
        assert target.readline() == "RELOADED"
        report = trace.stop()
        assert target.process.poll() is None
        target.process.stdin.close()
        assert target.wait() == 0
    assert check(report) == []
    assert report["target"]["allocators"][0] == "libc.so.6"
    assert report["totals"]["heap"]["allocated_count"] > 0
