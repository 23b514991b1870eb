"""A recording that is still written: each look at it is of one moment."""

from __future__ import annotations

from nativeleak.recording.reader import open_recording
from support import Target, Trace, mismatches, nativeleak

N_LOOKS, N_SNAPSHOTS = 2003, 7
N_KEPT, KEPT_BYTES = 101, 1009


def test_recording_is_whole_at_each_look_while_it_grows():
    with Target("phases") as target, Trace(target, options=["--interval", "0.1s"]) as trace:
        n_snapshots = []
        for k in range(N_LOOKS):
            target.ask(f"keep {1 + k % 3} {N_KEPT}")
            with open_recording(trace.recording) as opened:
                n_snapshots.append(len(opened.snapshots))
                # Of sites, totals and threads none is there without the others.
                kept = [s for s in opened.sites if s.outstanding_bytes == KEPT_BYTES * s.outstanding_count]
                assert sum(site.outstanding_count for site in kept) <= N_KEPT * (k + 1)
                assert all(site.key.thread_uid in opened.threads for site in opened.sites if site.key.thread_uid)
                sampled = {site_id for samples in opened.samples() for site_id in samples.site_id}
                assert sampled <= {*range(len(opened.sites))}
            if n_snapshots[-1] >= n_snapshots[0] + N_SNAPSHOTS:
                break
        seen = nativeleak("report", trace.recording, "--format", "json")
        truth = target.ask("keep 1 1")
        report = trace.stop()
    assert seen.returncode == 0, seen.stderr
    assert n_snapshots == sorted(n_snapshots)
    assert n_snapshots[-1] >= n_snapshots[0] + N_SNAPSHOTS
    assert mismatches(report, truth, ["heap"]) == []
