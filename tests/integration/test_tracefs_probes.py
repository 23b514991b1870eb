"""Probes that are defined in tracefs, for kernels whose perf events cannot make them: as exact, and none left behind.

A definition belongs to the machine, not to a process: that of a killed tracer stays until the next one starts.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator

import pytest

from nativeleak.engines.bpf.kernel import perf, tracefs
from nativeleak.engines.bpf.kernel.mounts import Tracefs
from nativeleak.engines.bpf.kernel.programs import AttachMode, Limits, Programs
from support import (
    TRACEFS,
    WITHOUT_PMU,
    Target,
    TargetError,
    Trace,
    bpf_objects,
    bpf_objects_alive,
    eventually,
    mismatches,
    nativeleak,
    require,
    require_root,
    strangers,
    target_path,
)
from tools.check_report import check

BY_TRACEFS = ("--attach", "tracefs", "-v")


@pytest.fixture(autouse=True)
def _tracefs() -> None:
    require_root()
    with opened_tracefs() as found:
        require(tracefs.can_define(found), "this kernel has no uprobe_events in tracefs")


@contextlib.contextmanager
def opened_tracefs() -> Iterator[Tracefs]:
    found = Tracefs()
    try:
        yield found
    finally:
        found.close()


def definitions(pid: int) -> list[str]:
    """Those that a tracer has made."""
    with opened_tracefs() as found:
        return [name for name in tracefs.defined(found) if name.startswith(f"nativeleak_{pid}_")]


def test_definitions_are_there_while_tracing_and_gone_at_the_end(tracefs_state):
    with Target("battery") as target, Trace(target, options=BY_TRACEFS, within=TRACEFS[tracefs_state]) as trace:
        pid = trace.process.pid
        during = definitions(pid)
        truth = target.go()
        report = trace.stop()
        assert truth["sites"]
    assert check(report) == []
    assert len(during) > 10
    assert definitions(pid) == []


def test_definitions_of_a_tracer_that_fails_to_attach_are_gone():
    with Target("battery") as target:
        trace = Trace(target, options=[*BY_TRACEFS, "-p", "1999999"], attaches=False)
        with trace:
            pid = trace.process.pid
            assert trace.wait_end() == 4
    assert definitions(pid) == []


def test_definitions_of_a_killed_tracer_are_removed_by_the_next_start_and_those_of_another_stay():
    with Target("churn", 10**9, 2, 20011) as target, Trace(target, options=BY_TRACEFS) as other:
        target.send("go")
        with Trace(target, options=BY_TRACEFS) as killed:
            ids, pid = bpf_objects(killed.process.pid), killed.process.pid
            assert len(definitions(pid)) > 10
            killed.process.kill()
            killed.process.wait()
        eventually(lambda: not any(bpf_objects_alive(ids).values()), "no program of it is left", 60.0)
        others = definitions(other.process.pid)
        assert len(others) > 10
        with Trace(target, options=["--attach", "perf"]) as following:
            assert definitions(pid) == []
            assert definitions(other.process.pid) == others
            assert following.stop()["totals"]["heap"]["allocated_count"] > 0
        report = other.stop()
        assert definitions(other.process.pid) == []
        assert report["totals"]["heap"]["allocated_count"] > 0
        target.process.kill()


def test_start_that_removes_definitions_notes_how_many():
    # Any other tracer that starts on this machine in these milliseconds removes them first.
    assert any(note.startswith("removed ") for _ in range(3) for note in notes_of_a_start_after(7))


def notes_of_a_start_after(n_left):
    """What the tracer notes that finds definitions which are in use until just before."""
    with opened_tracefs() as found, contextlib.ExitStack() as uses:
        control = found.open("uprobe_events", os.O_WRONLY | os.O_APPEND)
        uses.callback(os.close, control)
        with tracefs._locked(control):
            names = [tracefs._define(control, target_path("own"), 64, at_return=False) for _ in range(n_left)]
            events = [perf.open_tracepoint_of(os.getpid(), found.event_id(name)) for name in names]
        with Programs(Limits(), lambda _event: None, (AttachMode.PERF,)):
            assert set(names) <= set(tracefs.defined(found))
        for event in events:
            os.close(event)
        with Programs(Limits(), lambda _event: None, (AttachMode.PERF,)) as engine:
            assert set(names).isdisjoint(tracefs.defined(found))
            return [note for note in engine.notes if f" {n_left} probes " in note]


def test_doctor_removes_what_a_killed_tracer_has_left():
    with Target("battery") as target, Trace(target, options=BY_TRACEFS) as killed:
        pid = killed.process.pid
        assert definitions(pid)  # of a tracer that lives nobody takes them away, of a dead one any that starts
        killed.process.kill()
        killed.process.wait()
        # As long as its perf events are closing the definitions are in use.
        eventually(lambda: nativeleak("doctor") and definitions(pid) == [], "none of its definitions left", 60.0)


def test_children_of_a_target_probed_by_tracefs_do_not_touch_its_ledger():
    with Target("forks", 3) as target, Trace(target, options=BY_TRACEFS) as trace:
        truth = target.go()
        report = trace.stop()
        everything = trace.all_sites()
    assert mismatches(report, truth) == []
    assert mismatches(everything, truth) == []
    functions = {frame["function"] for row in everything["sites"] for frame in row["frames"]}
    assert "fork_child_keep" not in functions
    assert report["completeness"]["unmatched_frees"] == 0


def test_other_processes_with_the_same_library_are_not_counted_by_tracefs():
    with Target("battery") as other, Target("battery") as target, Trace(target, options=BY_TRACEFS) as trace:
        truth, _ = target.go(), other.go()
        report = trace.stop()
    names = {"heap_strdup": "strdup"}
    truth["sites"] = [{**site, "function": names.get(site["function"], site["function"])} for site in truth["sites"]]
    assert mismatches(report, truth) == []
    assert strangers(report, truth) == []


def test_program_whose_path_has_a_space_is_probed_by_tracefs(tmp_path):
    path = tmp_path / "a b: c" / "own"
    path.parent.mkdir()
    shutil.copy(target_path("own"), path)
    with Target("own", command=[path]) as target, Trace(target, options=BY_TRACEFS) as trace:
        truth = target.go()
        report = trace.stop()
    assert mismatches(report, truth) == []
    assert any(site["kind"] == "heap" for site in report["sites"])


def test_without_probes_of_perf_events_tracefs_is_taken_and_exact():
    options = ["--attach", "perf", *BY_TRACEFS]
    with Target("forks", 3) as target, Trace(target, options=options, within=WITHOUT_PMU) as trace:
        truth = target.go()
        report = trace.stop()
    assert "attached by perf events by tracefs\n" in trace.stderr
    assert mismatches(report, truth) == []


def test_without_probes_of_perf_events_that_way_alone_is_refused():
    with Target("battery") as target:
        trace = Trace(target, options=["--engine", "libbpf", "--attach", "perf"], attaches=False, within=WITHOUT_PMU)
        with trace:
            assert trace.wait_end() == 3
    assert trace.stderr.startswith("nativeleak: loading the BPF programs failed: No such device")


def test_tracefs_without_the_right_to_it_is_refused_with_what_to_do():
    with Target("battery") as target, pytest.raises(TargetError, match="loading the BPF programs failed"):
        Trace(
            target,
            options=["--engine", "libbpf", *BY_TRACEFS],
            capabilities=("bpf", "perfmon", "sys_ptrace", "dac_read_search"),
        )
