"""The way down the list of engines, with engines made up for it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from nativeleak.engines.registry import ENGINES
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
            self.obstacles = {}

        def candidates(self, wanted):
            return [
                replace(spec, obstacle=lambda _, spec=spec: self.obstacles.get(spec.name, "")) for spec in every(wanted)
            ]

    seen, every = Tried(), choose.candidates

    def make(spec, options, told, fallen):
        seen.append((spec.name, fallen))
        made = seen.outcome.get(spec.name, MadeUp())
        if isinstance(made, Exception):
            raise made
        return made

    monkeypatch.setattr(choose, "_make", make)
    monkeypatch.setattr(choose, "candidates", seen.candidates)
    return seen


NAMES = [spec.name for spec in ENGINES]


def options(engine="auto", **more):
    return TraceOptions((os.getpid(),), Path("x.nlk"), engine=engine, **more)


def test_auto_first_engine_works_nothing_else_is_tried(tried):
    choose.run_trace(options(), None)
    assert tried == [("libbpf", "")]


def test_auto_goes_down_the_list_to_the_first_that_works(tried):
    no = CannotTraceError("no rights", "run as root")
    tried.outcome = {"libbpf": MadeUp(no), "bcc": no, "strace": no}
    choose.run_trace(options(), None)
    assert [name for name, _ in tried] == NAMES
    assert tried[-1][1].startswith("falling back to pmap (no rights); not available: ")


def test_auto_passes_over_an_engine_with_an_obstacle(tried):
    tried.outcome = {"libbpf": CannotTraceError("no rights")}
    tried.obstacles |= {"bcc": "not installed", "strace": "not asked for"}
    choose.run_trace(options(), None)
    assert [name for name, _ in tried] == ["libbpf", "pmap"]


def test_auto_none_works_the_first_error_is_told(tried):
    tried.outcome = {name: CannotTraceError(f"not by {name}") for name in NAMES}
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
    tried.outcome = {"libbpf": outcome}
    with pytest.raises(NativeleakError):
        choose.run_trace(options(), None)
    assert len(tried) == 1


@pytest.mark.parametrize("engine", NAMES)
def test_forced_engine_is_the_only_one_whatever_its_obstacle(tried, engine):
    tried.outcome = {engine: CannotTraceError("no")}
    tried.obstacles[engine] = "not asked for"
    with pytest.raises(CannotTraceError):
        choose.run_trace(options(engine), None)
    assert tried == [(engine, "")]


def test_several_inputs_that_are_no_listings_are_refused(tmp_path):
    file = tmp_path / "strace.txt"
    file.write_text("7 brk(NULL) = 0x1000\n")
    with pytest.raises(UsageError, match="not all output of pmap"):
        choose.run_trace(options(inputs=(file, file)), None)
    with pytest.raises(UsageError, match="several PIDs"):
        choose.run_trace(TraceOptions((1, 2), Path("x.nlk"), inputs=(file,)), None)
