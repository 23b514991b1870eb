"""What is said of tries to attach, with tries made up."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import pytest

from nativeleak.doctor import subject
from nativeleak.doctor.checks import Check, State
from nativeleak.doctor.trial import N_EXPECTED, Subject, Trial, trial_checks
from nativeleak.engines.bpf.kernel.programs import AttachMode
from nativeleak.errors import NativeleakError

WORKING = Trial(
    AttachMode.SESSION, loaded=True, n_allocated=N_EXPECTED, n_freed=N_EXPECTED, n_threads=2, n_maps=subject.N_MAPS
)


def states(checks: list[Check]) -> dict[str, State]:
    return {check.name: check.state for check in checks}


def test_trial_checks_all_ways_work_says_which_is_used():
    checks = trial_checks([WORKING, replace(WORKING, mode=AttachMode.MULTI), replace(WORKING, mode=AttachMode.PERF)])
    assert [check.state for check in checks] == [State.OK] * 4
    assert [check.name for check in checks if check.detail.endswith("trace uses this")] == ["uprobe session"]


def test_trial_checks_no_session_links_is_a_restriction():
    checks = trial_checks(
        [Trial(AttachMode.SESSION, error="Invalid argument"), replace(WORKING, mode=AttachMode.MULTI)]
    )
    assert states(checks) == {"uprobe session": State.WARN, "uprobe multi": State.OK, "system calls": State.OK}
    assert "uprobe multi" in checks[0].remedy


def test_trial_checks_multi_sees_one_thread_names_the_way_out():
    blind = Trial(AttachMode.MULTI, loaded=True, n_allocated=101, n_freed=101, n_threads=1, n_maps=subject.N_MAPS)
    checks = trial_checks(
        [Trial(AttachMode.SESSION, error="Invalid argument"), blind, replace(WORKING, mode=AttachMode.PERF)]
    )
    assert checks[1].state is State.WARN
    assert checks[1].detail.startswith("it sees only one of 2 threads: 101 of 202")
    assert checks[1].remedy == "trace would use this: add --attach perf"


def test_trial_checks_same_error_everywhere_is_said_once():
    denied = Trial(AttachMode.SESSION, error="Operation not permitted", remedy="run as root", denied=True)
    assert trial_checks([denied]) == [Check("BPF programs", State.FAIL, "Operation not permitted", "run as root")]


def test_trial_checks_probes_never_fire_fails():
    silent = Trial(AttachMode.SESSION, loaded=True)
    checks = trial_checks([silent])
    assert states(checks) == {"uprobe session": State.FAIL, "system calls": State.WARN}
    assert checks[0].detail.startswith("its probes never fire")


def test_trial_checks_worse_way_broken_is_no_restriction():
    checks = trial_checks([WORKING, Trial(AttachMode.PERF, error="No such device")])
    assert states(checks)["perf events"] is State.OK


@pytest.mark.parametrize("is_filtered", [False, True])
def test_child_that_a_probe_ends_is_told_with_its_signal_and_the_filter_that_may_be_why(is_filtered, monkeypatch):
    monkeypatch.setattr("nativeleak.doctor.trial.has_filter", lambda pid: is_filtered and pid == os.getpid())
    with Subject() as child:
        os.kill(child.pid, signal.SIGILL)
        with pytest.raises(NativeleakError) as error:
            child.do_round()
        assert not child.is_alive
    assert "the child process that was probed was ended by SIGILL" in error.value.what
    assert ("--maps-only" in error.value.remedy) == ("seccomp filter" in error.value.what) == is_filtered
