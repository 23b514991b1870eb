"""Call sites that are watched by themselves while the budget pays for windows only."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

import pytest

from support import Target, Trace, mismatches

RARE = ("malloc", "calloc", "realloc", "posix_memalign", "aligned_alloc", "new", "nothrow", "strdup")
N_KEPT = 15
"""So few at a time that the budget pays for them."""
_TRIES = 3


def watched_from(report: dict[str, Any], from_s: float, to_s: float) -> bool:
    """Whether rare call sites were watched throughout a time: walks of the heap take them away for some moments."""
    levels = {w["level"] for w in report["mode"]["windows"] if w["from_s"] < to_s and w["to_s"] > from_s}
    return levels <= {"hot", "exact"}


@pytest.mark.timeout(240)
def test_every_block_of_a_rare_call_site_is_recorded_beside_a_thread_that_allocates_without_pause():
    for _ in range(_TRIES):
        with Target("rare_sites") as target, Trace(target, options=["--max-overhead", "5%"]) as trace:
            trace.wait_line("watched all the time", 60)
            begun_s = time.time()
            target.ask("fail 5")
            truth = target.ask(f"keep {N_KEPT}")
            ended_s = time.time()
            report = trace.stop()
        started_s = datetime.fromisoformat(report["window"]["started"]).timestamp()
        if watched_from(report, begun_s - started_s, ended_s - started_s):
            break
    else:
        pytest.fail("call sites were taken away each time")
    kept = {site["function"]: site for site in truth["sites"] if site["function"] != "rare_left"}
    assert set(kept) == {f"rare_{name}" for name in RARE}
    assert mismatches(report, {**truth, "sites": list(kept.values())}) == []
    assert report["completeness"]["lost_allocations"] == 0
    assert report["overhead"]["estimated_target_cpu_pct"] < 10
