"""What a verdict is made of: checks, one by one and together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from nativeleak.doctor.checks import ENGINE, Check, Outcome, State, judge, run_checks
from unit.doctor.examples import FAIL, OK, WARN


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


def test_judge_another_engine_for_the_process_is_a_restriction():
    engine = Check(ENGINE, State.WARN, "auto takes pmap: not libbpf (rights); not available: call stacks")
    verdict = judge([OK, FAIL, engine])
    assert (verdict.outcome, verdict.text) == (
        Outcome.RESTRICTED, "trace will work, but without BPF (rights): auto takes pmap",
    )  # fmt: skip
    assert judge([OK, FAIL, replace(engine, name="engines")]).outcome is Outcome.IMPOSSIBLE
