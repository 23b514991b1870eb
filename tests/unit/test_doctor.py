"""The doctor's parsers, its verdicts and its two forms of output, with results put in by hand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest

from nativeleak.doctor import subject
from nativeleak.doctor.checks import ENGINE, Check, Outcome, State, judge, run_checks
from nativeleak.doctor.engines import engine_check
from nativeleak.doctor.machine import (
    CAPABILITIES,
    judge_memory,
    judge_rights,
    map_bytes,
    parse_available,
    parse_capabilities,
    parse_lockdown,
)
from nativeleak.doctor.render import render_coloured, render_json, render_text
from nativeleak.doctor.trial import N_EXPECTED, Trial, trial_checks
from nativeleak.engines.bpf.kernel.programs import AttachMode, Limits

OK = Check("kernel", State.OK, "Linux 6.18")
WARN = Check("symbols x", State.WARN, "only names in .dynsym", "install its debug symbols")
FAIL = Check("rights", State.FAIL, "user 7 without CAP_BPF", "run as root")
ALL = frozenset(CAPABILITIES)
WORKING = Trial(
    AttachMode.SESSION, loaded=True, n_allocated=N_EXPECTED, n_freed=N_EXPECTED, n_threads=2, n_maps=subject.N_MAPS
)


def test_judge_all_ok_works():
    assert judge([OK]).outcome is Outcome.WORKS
    assert judge([OK]).text == "trace will work"


def test_judge_warnings_name_the_restrictions():
    verdict = judge([OK, WARN])
    assert (verdict.outcome, verdict.text) == (Outcome.RESTRICTED, "trace will work with restrictions: symbols x")


def test_judge_one_failure_outweighs_warnings():
    verdict = judge([OK, WARN, FAIL])
    assert (verdict.outcome, verdict.text) == (Outcome.IMPOSSIBLE, "trace cannot work here: rights")


def test_run_checks_function_raises_keeps_what_it_said_before():
    def broken() -> Iterator[Check]:
        yield OK
        raise ZeroDivisionError

    checks = run_checks([("broken", broken), ("fine", lambda: [WARN])])
    assert checks == [OK, Check("broken", State.WARN, "could not be checked: ZeroDivisionError"), WARN]


def test_render_text_has_a_line_a_check_and_the_verdict_last():
    assert render_text([OK, WARN, FAIL]) == (
        "ok    kernel     Linux 6.18\n"
        "warn  symbols x  only names in .dynsym\n"
        "                 install its debug symbols\n"
        "FAIL  rights     user 7 without CAP_BPF\n"
        "                 run as root\n"
        "trace cannot work here: rights\n"
    )


def test_render_text_name_with_control_characters_is_escaped():
    text = render_text([Check("target", State.OK, "PID 7 (\x1b[31mevil\n)")])
    assert text == "ok    target  PID 7 (\\x1b[31mevil\\x0a)\ntrace will work\n"


def test_render_coloured_says_the_same_as_text():
    checks = [OK, WARN, FAIL]
    assert render_coloured(checks).plain + "\n" == render_text(checks)


def test_render_json_holds_every_check():
    document = json.loads(render_json([OK, FAIL], 4711))
    assert document["schema"] == "nativeleak.doctor/1"
    assert (document["pid"], document["verdict"]) == (4711, "impossible")
    assert document["checks"] == [
        {"name": "kernel", "state": "ok", "detail": "Linux 6.18", "remedy": None},
        {"name": "rights", "state": "fail", "detail": "user 7 without CAP_BPF", "remedy": "run as root"},
    ]


def test_parse_capabilities_reads_the_mask():
    assert parse_capabilities(0) == frozenset()
    assert parse_capabilities(0x1FFFEFFFFFF) == ALL
    assert parse_capabilities(1 << 39 | 1 << 2) == {"CAP_BPF", "CAP_DAC_READ_SEARCH"}


@pytest.mark.parametrize(
    ("uid", "held", "in_init_userns", "state"),
    [
        (0, ALL, True, State.OK),
        (0, ALL, False, State.FAIL),
        (0, frozenset(), True, State.FAIL),
        (1000, frozenset({"CAP_BPF"}), True, State.FAIL),
        (1000, frozenset({"CAP_BPF", "CAP_PERFMON"}), True, State.WARN),
        (1000, ALL - {"CAP_SYS_ADMIN"}, True, State.OK),
        # Before Linux 5.8 there is no CAP_BPF: CAP_SYS_ADMIN stands for it.
        (0, ALL - {"CAP_BPF", "CAP_PERFMON", "CAP_CHECKPOINT_RESTORE"}, True, State.OK),
    ],
)
def test_judge_rights(uid, held, in_init_userns, state):
    assert judge_rights(uid, held, in_init_userns=in_init_userns).state is state


def test_judge_rights_names_what_is_missing():
    assert judge_rights(7, frozenset({"CAP_BPF"}), in_init_userns=True).detail == "user 7 without CAP_PERFMON"


def test_parse_lockdown_takes_the_mode_in_brackets():
    assert parse_lockdown("none [integrity] confidentiality\n") == "integrity"
    assert parse_lockdown("") == "unknown"


def test_parse_available_reads_bytes():
    assert parse_available("MemTotal:       16 kB\nMemAvailable:    7919 kB\n") == 7919 << 10
    with pytest.raises(ValueError):
        parse_available("MemTotal: 16 kB\n")


def test_judge_memory_warns_over_half_of_what_is_free():
    assert judge_memory(200, 100).state is State.OK
    assert judge_memory(199, 100).state is State.WARN


def test_map_bytes_million_blocks_take_what_was_measured():
    one_more = map_bytes(replace(Limits(), n_allocations=(1 << 20) + 1_000_000)) - map_bytes(Limits())
    assert one_more == 130_000_000  # 122 MB was measured for 1M entries of 8 + 24 bytes


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


def test_judge_another_engine_for_the_process_is_a_restriction():
    engine = Check(ENGINE, State.WARN, "auto takes pmap: not libbpf (rights); lost by it: no call stacks")
    verdict = judge([OK, FAIL, engine])
    assert (verdict.outcome, verdict.text) == (
        Outcome.RESTRICTED, "trace will work, but not by BPF (rights): auto takes pmap",
    )  # fmt: skip
    assert judge([OK, FAIL, replace(engine, name="engines")]).outcome is Outcome.IMPOSSIBLE


def test_engine_check_takes_libbpf_where_nothing_failed():
    assert engine_check([OK, WARN], None) == Check("engines", State.OK, "auto takes libbpf")
    assert engine_check([OK], 1).name == ENGINE


def test_engine_check_says_why_none_before_it():
    check = engine_check([OK, FAIL], None)
    assert check.state is State.WARN
    assert check.detail.startswith("auto takes ")
    assert ": not libbpf (rights), not bcc (rights)" in check.detail
    assert "; lost by it: no " in check.detail


def test_engine_check_of_a_process_that_is_not_there_finds_none():
    check = engine_check([FAIL], 1 << 22)
    assert (check.name, check.state) == (ENGINE, State.FAIL)
    assert "pmap (no such process)" in check.detail
