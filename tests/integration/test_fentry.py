"""System calls by fentry where the kernel has it for us, and the message where it has not.

Kernels that do are in ``scripts/kernels``, which sets NATIVELEAK_TEST_FENTRY: there they have to be used.
"""

from __future__ import annotations

import os

import pytest

from nativeleak.engines.bpf.kernel import fentry
from support import Target, Trace, mismatches, nativeleak, require_root, strangers

OPTIONS = ("-v", "--engine", "libbpf")
USED = "traces system calls by fentry"


@pytest.fixture(autouse=True)
def _needs_root() -> None:
    require_root()


MUST_HAVE = bool(os.environ.get("NATIVELEAK_TEST_FENTRY"))


def may_have_fentry() -> bool:
    return fentry.may_load_fentry() and not fentry.may_be_preempted()


@pytest.mark.parametrize("name", ["maps", "brk"])
def test_system_calls_are_exact_by_the_best_way_that_there_is(name):
    with Target(name) as target, Trace(target, options=OPTIONS) as trace:
        truth = target.go()
        report = trace.stop()
    if MUST_HAVE:
        assert USED in trace.stderr
    elif not may_have_fentry():
        assert USED not in trace.stderr
    assert report["completeness"]["lost_events"] == 0
    assert mismatches(report, truth, kinds=("map", "brk")) == []
    assert strangers(report, truth) == []


def test_ways_can_be_asked_for(tmp_path):
    with Target("maps") as target, Trace(target, options=[*OPTIONS, "--syscalls", "tracepoints"]) as trace:
        truth = target.go()
        report = trace.stop()
        assert USED not in trace.stderr
        asked = ("-p", target.pid, "--duration", "1s", "--syscalls", "fentry", "-o", tmp_path / "asked.nlk")
        result = nativeleak("trace", *asked, *OPTIONS)
    assert mismatches(report, truth, kinds=("map", "brk")) == []
    assert result.returncode in ((0,) if MUST_HAVE else (0, 3)), result.stderr
    if not may_have_fentry():
        assert result.returncode == 3
        assert "cannot trace system calls: this kernel has no fentry" in result.stderr
        assert "--syscalls tracepoints" in result.stderr


def test_fentry_is_accepted_by_its_former_name(tmp_path):
    with Target("maps") as target:
        asked = ("-p", target.pid, "--duration", "1s", "-o", tmp_path / "asked.nlk", *OPTIONS)
        statuses = {
            nativeleak("trace", *asked, "--force", "--syscalls", name).returncode for name in ("fentry", "trampolines")
        }
    assert len(statuses) == 1
