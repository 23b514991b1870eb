"""The way down the list of engines, with engines made up for it."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path

import pytest

from nativeleak.engines.options import TraceOptions
from nativeleak.engines.registry import ENGINES
from nativeleak.errors import CannotTraceError, MendableError, NativeleakError, UsageError
from nativeleak.session import choose
from session_engine import MadeUpEngine, Said, sleepers

NAMES = [spec.name for spec in ENGINES]


class Row:
    """The registry with made-up engines behind its rows.

    Attributes:
        fails: Name -> error of its ``open``.
        obstacles: Name -> why ``auto`` passes it over.
        opened: Names, in order.
        said: What the user was told.
    """

    def __init__(self, folder: Path) -> None:
        self.fails: dict[str, Exception] = {}
        self.obstacles: dict[str, str] = {}
        self.opened: list[str] = []
        self.engines = {name: MadeUpEngine() for name in NAMES}
        for spec in ENGINES:
            self.engines[spec.name].coverage = spec.coverage
        self.said = Said()
        self._folder = folder
        self.options: list[TraceOptions] = []

    def candidates(self, wanted):
        return tuple(self._row(spec) for spec in every(wanted))

    def _row(self, spec):
        def open_made_up(options, targets, sink):
            self.opened.append(spec.name)
            self.options.append(options)
            if spec.name in self.fails:
                raise self.fails[spec.name]
            return self.engines[spec.name].open(options, targets, sink)

        return replace(spec, open=open_made_up, obstacle=lambda _pids: self.obstacles.get(spec.name, ""))

    def trace(self, engine="auto", **facts):
        facts = {"duration_s": 0.05} | facts
        with sleepers() as (process,):
            options = TraceOptions((process.pid,), self._folder / "x.nlk", engine=engine, **facts)
            return choose.run_trace(options, self.said)


every = choose.candidates


@pytest.fixture
def row(monkeypatch, tmp_path):
    made = Row(tmp_path)
    monkeypatch.setattr(choose, "candidates", made.candidates)
    return made


def test_auto_first_engine_works_nothing_else_is_tried(row, tmp_path):
    assert row.trace().path == tmp_path / "x.nlk"
    assert row.opened == ["libbpf"]
    assert not any("falling back" in line for line in row.said.lines)


def test_auto_goes_down_the_list_to_the_first_that_works(row):
    no = CannotTraceError("no rights", "run as root")
    row.fails = {"libbpf": no, "bcc": no, "strace": no}
    row.trace()
    assert row.opened == NAMES
    assert [line for line in row.said.lines if line.startswith("falling back")] == [
        "falling back to pmap (no rights); not available: call stacks, threads and single allocations"
    ]


def test_auto_passes_over_an_engine_with_an_obstacle(row):
    row.fails = {"libbpf": CannotTraceError("no rights")}
    row.obstacles = {"bcc": "not installed", "strace": "not asked for"}
    row.trace()
    assert row.opened == ["libbpf", "pmap"]


def test_auto_none_works_the_first_error_is_told(row, tmp_path):
    row.fails = {name: CannotTraceError(f"not by {name}") for name in NAMES}
    with pytest.raises(CannotTraceError, match="not by libbpf"):
        row.trace()
    assert len(row.opened) == 4
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [MendableError("another tracer"), NativeleakError("full")])
def test_auto_does_not_fall_where_another_engine_is_no_answer(row, error):
    row.fails = {"libbpf": error}
    with pytest.raises(type(error), match=str(error)):
        row.trace()
    assert row.opened == ["libbpf"]


@pytest.mark.parametrize(("where", "n_opened"), [("on_start", 2), ("on_work", 1)])
def test_auto_falls_where_the_engine_cannot_start_not_when_it_has_begun(row, where, n_opened):
    def fail():
        raise CannotTraceError("lost")

    setattr(row.engines["libbpf"], where, fail)
    if where == "on_start":
        row.trace()
    else:
        with pytest.raises(CannotTraceError, match="lost"):
            row.trace()
    assert len(row.opened) == n_opened


@pytest.mark.parametrize("engine", ["auto", "libbpf"])
@pytest.mark.parametrize("error", [OSError(errno.EMFILE, "many"), OSError(errno.ENFILE, "all"), MemoryError()])
def test_auto_does_not_fall_for_want_of_our_own_descriptors_or_memory(row, engine, error):
    row.fails = {"libbpf": error}
    with pytest.raises(MendableError, match="tracing failed: ") as caught:
        row.trace(engine)
    assert caught.value.exit_status == 3
    assert row.opened == ["libbpf"]


def test_auto_does_not_fall_where_a_shortage_is_behind_the_engines_own_error(row):
    error = CannotTraceError("libbpf.so.1 was not found")
    error.__cause__ = OSError("libbpf.so.1: cannot open shared object file: Too many open files")
    row.fails = {"libbpf": error}
    with pytest.raises(MendableError, match="too many open files: this process may have"):
        row.trace()
    assert row.opened == ["libbpf"]


def test_shortage_while_an_engine_works_is_one_of_run_time(row):
    def fail():
        raise OSError(errno.EMFILE, "many")

    row.engines["libbpf"].on_work = fail
    with pytest.raises(NativeleakError, match="tracing failed: too many open files") as caught:
        row.trace()
    assert caught.value.exit_status == 1
    assert row.opened == ["libbpf"]


@pytest.mark.parametrize("engine", NAMES)
def test_forced_engine_is_the_only_one_whatever_its_obstacle(row, engine):
    row.fails = {engine: CannotTraceError("no")}
    row.obstacles[engine] = "not asked for"
    with pytest.raises(CannotTraceError, match="no"):
        row.trace(engine)
    assert row.opened == [engine]


def test_engine_that_costs_has_a_duration_of_its_own_and_says_what_it_costs(row):
    row.engines["strace"].on_work = lambda: setattr(row.engines["strace"], "ended", "enough")
    row.trace("strace", duration_s=None, interval_s=10.0)
    assert (row.options[0].duration_s, row.options[0].interval_s) == (60.0, 3.0)
    assert row.said.lines[0].startswith("warning: strace stops a thread twice at every system call")
    assert row.said.lines[0].endswith(": the target runs slower for 1m 00s")


def test_forced_lesser_engine_says_what_is_not_available(row):
    row.trace("pmap")
    assert row.said.lines[-1] == "engine pmap; not available: call stacks, threads and single allocations"


def test_several_inputs_that_are_no_listings_are_refused(tmp_path):
    file = tmp_path / "strace.txt"
    file.write_text("7 brk(NULL) = 0x1000\n")
    with pytest.raises(UsageError, match="not of one strace -ff"):
        choose.run_trace(TraceOptions((), Path("x.nlk"), inputs=(file, file)), Said())
    with pytest.raises(UsageError, match="several PIDs"):
        choose.run_trace(TraceOptions((1, 2), Path("x.nlk"), inputs=(file,)), Said())
