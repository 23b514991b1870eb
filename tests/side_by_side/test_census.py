"""``trace --census``: the walks of a real heap grow by the blocks that the call sites hold."""

from __future__ import annotations

import pytest

from support import Target, Trace, nativeleak, preload
from tools.check_report import check

N_BEFORE, N, BYTES = 503, 7001, 200


@pytest.mark.parametrize("kind", ["glibc", "musl", "jemalloc"])
def test_walks_grow_by_the_blocks_that_call_sites_hold(kind: str) -> None:
    program = "drips_musl" if kind == "musl" else "drips"
    with Target(program, env=preload("jemalloc") if kind == "jemalloc" else {}) as target:
        target.ask(f"keep {BYTES} {N_BEFORE}")
        with Trace(target, options=["--census"]) as trace:
            target.ask(f"keep {BYTES} {N}")
            report = trace.stop()
            text = " ".join(nativeleak("report", trace.recording).stdout.split())
    assert check(report) == []
    (census,) = report["census"]
    grown = census["after"]["blocks"] - census["before"]["blocks"]
    assert census["before"]["blocks"] >= N_BEFORE
    assert census["outstanding_blocks"] == report["totals"]["heap"]["outstanding_count"]
    assert abs(grown - census["outstanding_blocks"]) <= 8
    assert N <= grown <= N + 8
    assert BYTES * N <= census["after"]["bytes"] - census["before"]["bytes"] <= 1.3 * BYTES * N
    assert "Heap walk" in text
    assert ": all of it" in text
