"""The way down the list of engines, with engines made up for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from nativeleak.engines.choose import candidates, fallback_notice
from nativeleak.engines.names import BACKENDS, LOST, ORDER, EngineName
from nativeleak.errors import CannotTraceError, MendableError, NativeleakError, UsageError
from nativeleak.session import choose
from nativeleak.session.run import TraceOptions


class MadeUp:
    """An engine's trace that works, or fails before or after it has begun."""

    def __init__(self, error=None, has_begun=False):
        self.error, self.has_begun = error, has_begun

    def run(self):
        if self.error is not None:
            raise self.error


@pytest.fixture
def tried(monkeypatch):
    """Engines that were tried; ``tried.outcome`` says what comes of each, an engine not named there works."""

    class Tried(list):
        def __init__(self):
            self.outcome = {}

    seen = Tried()

    def make(engine, options, told, failures, *, is_forced):
        seen.append((engine.value, is_forced, [failed.value for failed, _ in failures]))
        made = seen.outcome.get(engine, MadeUp())
        if isinstance(made, Exception):
            raise made
        return made

    monkeypatch.setattr(choose, "_make", make)
    return seen


def options(engine="auto", **more):
    return TraceOptions((1,), Path("x.nlk"), engine=EngineName(engine), **more)


def test_auto_first_engine_works_nothing_else_is_tried(tried):
    choose.run_trace(options(), None)
    assert tried == [("libbpf", False, [])]


def test_auto_goes_down_the_list_to_the_first_that_works(tried):
    no = CannotTraceError("no rights", "run as root")
    tried.outcome = {EngineName.LIBBPF: MadeUp(no), EngineName.BCC: no, EngineName.STRACE: no}
    choose.run_trace(options(), None)
    assert tried[-1] == ("pmap", False, ["libbpf", "bcc", "strace"])


def test_auto_none_works_the_first_error_is_told(tried):
    tried.outcome = {engine: CannotTraceError(f"not by {engine}") for engine in ORDER}
    with pytest.raises(CannotTraceError, match="not by libbpf"):
        choose.run_trace(options(), None)
    assert len(tried) == 4


@pytest.mark.parametrize(
    "outcome",
    [
        MadeUp(MendableError("another tracer")),
        MadeUp(CannotTraceError("lost"), has_begun=True),
        NativeleakError("full"),
    ],
)
def test_auto_does_not_fall_where_another_engine_is_no_answer(tried, outcome):
    tried.outcome = {EngineName.LIBBPF: outcome}
    with pytest.raises(NativeleakError):
        choose.run_trace(options(), None)
    assert len(tried) == 1


@pytest.mark.parametrize("engine", ORDER)
def test_forced_engine_is_the_only_one(tried, engine):
    tried.outcome = {engine: CannotTraceError("no")}
    with pytest.raises(CannotTraceError):
        choose.run_trace(options(engine), None)
    assert [name for name, _, _ in tried] == [engine.value]
    assert candidates(engine) == (engine,)


def test_every_engine_has_a_backend_and_says_what_is_lost():
    assert set(BACKENDS) == set(LOST) == set(ORDER)
    assert fallback_notice(EngineName.PMAP, "no rights") == (
        "engine pmap, since no rights; lost by it: no call stacks, no threads and no single allocations, only which "
        "region grows"
    )


def test_several_inputs_that_are_no_listings_are_refused(tmp_path):
    file = tmp_path / "strace.txt"
    file.write_text("7 brk(NULL) = 0x1000\n")
    with pytest.raises(UsageError, match="not all output of pmap"):
        choose.run_trace(options(inputs=(file, file)), None)
    with pytest.raises(UsageError, match="several PIDs"):
        choose.run_trace(TraceOptions((1, 2), Path("x.nlk"), inputs=(file,)), None)
