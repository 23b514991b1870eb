"""The end of a trace while a debugger is attached to a target.

A debugger that has set a breakpoint on a probed instruction keeps the kernel's breakpoint as the original byte, and
puts it back when it leaves. If the probe is gone by then the target runs into it and ends. So the probes stay until the
debugger has left: the trace waits some seconds, then leaves a child that holds them. They record nothing any more.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from nativeleak.errors import NativeleakError
from nativeleak.process import procfs
from nativeleak.process.hazards import name_process, read_tracer

_WAIT_S: Final = 5.0
_PAUSE_S: Final = 0.1
_HELD: Final = "anon_inode:"
"""What the links of descriptors of probes, programs and maps begin with."""


def debugged(pids: Sequence[int]) -> dict[int, int]:
    """The processes that are traced by ptrace -> who traces them."""
    found = {}
    for pid in pids:
        with contextlib.suppress(NativeleakError):
            tracer = read_tracer(pid)
            if tracer:
                found[pid] = tracer
    return found


def wait_for_debuggers(pids: Sequence[int], on_note: Callable[[str, str], None]) -> None:
    """Before probes are detached: wait for the debuggers of the targets to leave; leave a child if they do not."""
    found = debugged(pids)
    if not found:
        return
    names = ", ".join(f"{name_process(tracer)} of PID {pid}" for pid, tracer in found.items())
    on_note(
        "debugger",
        f"waiting up to {_WAIT_S:.0f} s for a debugger to leave: {names}: a breakpoint of its own on a probed function"
        " would end the target once the probes are gone",
    )
    until_s = time.monotonic() + _WAIT_S
    while found and time.monotonic() < until_s:
        time.sleep(_PAUSE_S)
        found = debugged(pids)
    if found:
        keeper = _leave_keeper(list(found))
        on_note(
            "debugger",
            f"the debugger is still there: process {keeper} keeps the probes, which record nothing, until it has left",
        )


def _leave_keeper(pids: Sequence[int]) -> int:
    """Fork a process that holds our probes until no debugger is attached to these processes; returns its PID."""
    starts = {pid: _start_ticks(pid) for pid in pids}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        keeper = os.fork()
        if not keeper:
            _keep(starts)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return keeper


def _keep(starts: dict[int, int]) -> None:
    """Wait in a session of its own, without the files of the trace, all signals blocked. Never returns."""
    try:
        os.setsid()
        os.chdir("/")
        _close_files()
        while any(start and _start_ticks(pid) == start and debugged([pid]) for pid, start in starts.items()):
            time.sleep(_PAUSE_S)
    finally:
        os._exit(0)


def _close_files() -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(null, number)
    for link in list(Path("/proc/self/fd").iterdir()):
        number = int(link.name)
        with contextlib.suppress(OSError):
            if number > 2 and not str(link.readlink()).startswith(_HELD):
                os.close(number)


def _start_ticks(pid: int) -> int:
    """When a process started; 0 once it is gone."""
    try:
        return procfs.read_start_ticks(pid)
    except NativeleakError:
        return 0
