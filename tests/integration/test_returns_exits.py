"""--returns exits, and the default for an own allocator: exact, and targets live that return probes would end."""

from __future__ import annotations

import json
import subprocess

import pytest

from support import (
    IS_LONG,
    Target,
    Trace,
    bpf_objects,
    mismatches,
    nativeleak,
    preload,
    require_program,
    strangers,
    sums,
    totals,
)
from tools.check_report import check

EXITS = ("--returns", "exits")
DEFAULT = ("--returns", "auto")


def exact(target, *options, complete=True, returns=EXITS):
    """Trace a target by its exits; all that its truth says is in the report. Returns both."""
    with Trace(target, options=[*returns, *options]) as trace:
        truth = target.go()
        report = trace.stop()
        everything = trace.all_sites()
    assert check(report) == []
    assert mismatches(report, truth) == []
    assert mismatches(everything, truth) == []
    assert [line for line in strangers(report, truth) if line.startswith("heap")] == []
    if complete:
        assert totals(report, "heap") == sums(truth, "heap")
    lost = {name: n for name, n in report["completeness"].items() if n and name.startswith("lost")}
    assert lost == {}
    return truth, report


@pytest.mark.parametrize("allocator", ["", "jemalloc", "tcmalloc", "mimalloc"])
def test_every_allocator_is_exact(allocator):
    with Target("portable", env=preload(allocator) if allocator else None) as target:
        _, report = exact(target)
    assert report["completeness"]["abandoned"] == 0


@pytest.mark.parametrize("name", ["musl", "musl_static", "static"])
def test_libc_linked_in_any_way_is_exact(name):
    with Target(name) as target:
        exact(target)


MODES = ["session", "multi", "tracefs", *(["perf"] if IS_LONG else [])]


@pytest.mark.parametrize("mode", MODES)
def test_every_way_to_attach_is_exact(mode):
    with Target("mixed") as target:
        exact(target, "--attach", mode, complete=False)


def test_blocks_freed_by_other_threads_are_exact():
    with Target("race", 10007) as target:
        exact(target, complete=False)


@pytest.mark.parametrize(("step", "returns"), [(1 << 20, EXITS), (1 << 15, EXITS), (1 << 20, DEFAULT)])
def test_fibers_that_yield_inside_of_malloc_are_exact(step, returns):
    with Target("fibers", step) as target:
        _, report = exact(target, returns=returns)
        assert target.process.poll() is None
    assert report["completeness"]["abandoned"] == 0
    assert report["completeness"]["failed"] == 0


@pytest.mark.parametrize(("where", "returns"), [("high", EXITS), ("low", EXITS), ("high", DEFAULT)])
def test_handler_on_another_stack_inside_of_malloc_is_exact(where, returns):
    with Target("other_stack", where) as target:
        exact(target, returns=returns)
        assert target.process.poll() is None


@pytest.mark.parametrize("returns", [EXITS, DEFAULT])
def test_own_backtrace_inside_of_malloc_is_whole(returns):
    with Target("own_backtrace") as target:
        truth, _ = exact(target, returns=returns)
    assert (truth["whole"], truth["cut"]) == (1009, 0)


def test_own_allocator_whose_exits_are_not_proved_gets_return_probes_and_it_is_said():
    why = "return probes on malloc of own_unproved, whose exits are not proved (at 0x"
    with Target("own_unproved", "low") as target:
        with Trace(target, options=DEFAULT) as trace:
            target.go()
            assert trace.stop()["totals"]["heap"]["allocated_count"] > 0
            said = trace.stderr
            text = nativeleak("report", trace.recording).stdout
        doctor = nativeleak("doctor", "-p", target.pid).stdout
    assert why in said
    assert "MAY HARM return probes on malloc of own_unproved" in " ".join(text.partition("Watched")[0].split())
    assert "Nothing was lost" not in text
    assert why in " ".join(doctor.split())


@pytest.mark.parametrize("returns", [EXITS, DEFAULT])
def test_programs_for_exits_are_in_the_kernel_only_where_exits_are_seen(returns):
    require_program("bpftool")
    with Target("exits") as target, Trace(target, options=returns) as trace:
        ids = bpf_objects(trace.process.pid)["prog"]
        shown = subprocess.run(["bpftool", "-j", "prog", "show"], capture_output=True, text=True, check=True).stdout
        names = {each.get("name") for each in json.loads(shown) if each["id"] in ids}
        trace.stop()
    assert "on_free" in names
    assert ({"on_exits_entry", "on_alloc_exit"} <= names) == (returns is EXITS)


@pytest.mark.parametrize(("name", "argument"), [("fibers", 1 << 20), ("other_stack", "high")])
def test_targets_live_inside_a_budget(name, argument):
    with Target(name, argument) as target, Trace(target, options=[*EXITS, "--max-overhead", "5%"]) as trace:
        target.go()
        trace.stop()
        target.close()
        assert target.process.returncode == 0


def test_sampled_totals_come_near_the_truth():
    n_pairs = 20_000
    with Target("rate") as target, Trace(target, options=[*EXITS, "--sample", "4K"]) as trace:
        target.ask(f"1 {n_pairs} 0")
        report = trace.stop()
    assert report["completeness"]["unsampled"] > n_pairs / 2
    # Some 2,500 blocks are kept: 2 % is one standard deviation.
    assert report["totals"]["heap"]["allocated_count"] == pytest.approx(n_pairs, rel=0.15)


def test_doctor_says_when_exits_are_needed():
    with Target("fibers") as target:
        done = nativeleak("doctor", "-p", target.pid)
    assert "uses swapcontext" in done.stdout
    assert "trace it with --returns exits" in " ".join(done.stdout.split())
    with Target("portable") as target:
        done = nativeleak("doctor", "-p", target.pid)
    assert "nothing speaks against return probes" in " ".join(done.stdout.split())
