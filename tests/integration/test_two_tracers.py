"""Two tracers that watch the same library at one time: each counts its own target, once."""

from __future__ import annotations

from support import Target, Trace, mismatches, sums, totals

N_PAIRS, N_THREADS, N_KEPT = 20_011, 2, 101


def churning() -> Target:
    return Target("churn", N_PAIRS, N_THREADS, 0, N_KEPT)


def assert_exact(report, truth):
    assert mismatches(report, truth, ("heap",)) == []
    assert report["completeness"]["lost_allocations"] == report["completeness"]["unmatched_frees"] == 0


def test_two_tracers_of_one_process_are_both_exact():
    exits = ("--returns", "exits")
    with churning() as target, Trace(target) as one, Trace(target, options=exits) as other:
        truth = target.go()
        reports = one.stop(), other.stop()
        everything = one.all_sites(), other.all_sites()
    for report, whole in zip(reports, everything, strict=True):
        assert_exact(report, truth)
        assert totals(whole, "heap") == sums(truth, "heap")


def test_two_tracers_of_two_processes_of_one_program_are_both_exact():
    with churning() as first, churning() as last, Trace(first) as one, Trace(last) as other:
        truths = first.go(), last.go()
        reports = one.stop(), other.stop()
    for report, truth in zip(reports, truths, strict=True):
        assert_exact(report, truth)
        assert totals(report, "heap") == sums(truth, "heap")


def test_tracer_that_ends_first_takes_no_block_from_the_other():
    with churning() as target, Trace(target) as stays:
        with Trace(target) as ends:
            target.go()
            ends.stop()
        truth = target.go()
        report = stays.stop()
    assert_exact(report, truth)
