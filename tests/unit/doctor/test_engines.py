"""Which engine auto takes, as the doctor says it beforehand."""

from __future__ import annotations

from nativeleak.doctor.checks import ENGINE, Check, State
from nativeleak.doctor.engines import engine_check
from unit.doctor.examples import FAIL, OK, WARN


def test_engine_check_takes_libbpf_where_nothing_failed():
    assert engine_check([OK, WARN], None) == Check("engines", State.OK, "auto takes libbpf")
    assert engine_check([OK], 1).name == ENGINE


def test_engine_check_says_why_none_before_it():
    check = engine_check([OK, FAIL], None)
    assert check.state is State.WARN
    assert check.detail.startswith("auto takes ")
    assert ": not libbpf (rights), not bcc (rights)" in check.detail
    assert "; not available: " in check.detail


def test_engine_check_of_a_process_that_is_not_there_finds_none():
    check = engine_check([FAIL], 1 << 22)
    assert (check.name, check.state) == (ENGINE, State.FAIL)
    assert "pmap (no such process)" in check.detail
