"""Ways to trace system calls: what each loads, and which are tried where."""

from __future__ import annotations

import pytest

from nativeleak.engines.bpf.kernel.syscalls import (
    ALL_PROGRAMS,
    OPTIONAL_TRACEPOINTS,
    TRACEPOINTS,
    FentryHooks,
    RawHooks,
    SyscallHooks,
    TracepointHooks,
    attach_process_events,
    choose_ways,
)
from nativeleak.errors import CannotTraceError


class Loaded:
    """An object that notes what is attached."""

    def __init__(self) -> None:
        self.attached: dict[str, str] = {}

    def program_fd(self, name: str) -> int:
        raise AssertionError(name)

    def attach_raw_tracepoint(self, name: str, tracepoint: str) -> None:
        self.attached[name] = tracepoint


def test_ways_have_no_program_in_common() -> None:
    ways = (FentryHooks.programs, TracepointHooks.programs, RawHooks.programs)
    assert sum(map(len, ways)) == len(ALL_PROGRAMS)


def test_tracepoints_come_in_pairs_but_for_oom_kills() -> None:
    entries = {event.removeprefix("syscalls/sys_enter_") for event in TRACEPOINTS if "sys_enter" in event}
    exits = {event.removeprefix("syscalls/sys_exit_") for event in TRACEPOINTS if "sys_exit" in event}
    assert entries == exits
    assert len(TRACEPOINTS) == 2 * len(entries) + 1
    assert set(TRACEPOINTS) > OPTIONAL_TRACEPOINTS


def test_choose_ways_without_tracefs_raw_tracepoints() -> None:
    ways = choose_ways(tuple(SyscallHooks), None, has_fentry=False)
    assert [way.hooks for way in ways] == [SyscallHooks.RAW]


def test_choose_ways_none_left_names_those_asked_for() -> None:
    with pytest.raises(CannotTraceError) as caught:
        choose_ways([SyscallHooks.FENTRY, SyscallHooks.TRACEPOINTS], None, has_fentry=False)
    assert caught.value.what == "cannot trace system calls: this kernel has no fentry, tracepoints"
    assert "--syscalls" in caught.value.remedy


def test_raw_hooks_attach_both_and_say_what_they_cost() -> None:
    loaded, notes = Loaded(), list[str]()
    assert RawHooks().attach(loaded, notes) == []
    assert loaded.attached == {"on_raw_entry": "sys_enter", "on_raw_exit": "sys_exit"}
    assert ["at every system call" in note for note in notes] == [True]
    assert RawHooks().n_missed(loaded) == 0


def test_attach_process_events_without_tracefs_all_but_oom_kills() -> None:
    loaded, notes = Loaded(), list[str]()
    assert attach_process_events(loaded, None, notes) == []
    assert set(loaded.attached.values()) == {"task_rename", "sched_process_exit", "sched_process_exec"}
    assert notes == []
