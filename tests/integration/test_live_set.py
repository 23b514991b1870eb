"""The live set: blocks near at hand, and those whose place was taken. More blocks than places, freed in any order."""

from __future__ import annotations

from nativeleak.engines.bpf.live_set import N_CACHED
from support import Target, Trace, mismatches, strangers

N_KEPT = 89989
N_FREED = 60013
N_LAST = 39983


def test_blocks_that_find_their_place_taken_are_counted_and_freed_like_the_others():
    assert 2 * N_KEPT > 2 * N_CACHED
    with Target("phases") as target, Trace(target) as trace:
        target.ask(f"keep 1 {N_KEPT}")
        target.ask(f"keep 2 {N_KEPT}")
        # Places become free beside keys that did not get theirs, and are taken anew.
        target.ask(f"free 1 {N_FREED}")
        target.ask(f"keep 3 {N_FREED}")
        target.ask(f"free 2 {N_KEPT}")
        target.ask("burst 200 0")
        target.ask(f"free 3 {N_FREED}")
        target.ask(f"keep 3 {N_LAST}")
        truth = target.ask(f"free 1 {N_KEPT - N_FREED - 1}")
        report = trace.stop()
        everything = trace.all_sites()
    assert mismatches(everything, truth, ["heap"]) == []
    assert strangers(report, truth) == []
    assert sorted(site["outstanding_count"] for site in truth["sites"] if site["outstanding_count"]) == [1, N_LAST]
    lost = ("lost_allocations", "unmatched_frees", "overwritten", "stack_collisions")
    assert {name: report["completeness"][name] for name in lost} == dict.fromkeys(lost, 0)
    # What the live set says itself, read block by block at the end.
    ages = {site["outstanding_count"]: site["oldest_s"] for site in report["sites"] if site["kind"] == "heap"}
    assert ages[1] > ages[N_LAST] > 0
