"""The traced process and its threads, as facts that outlive them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class TargetEnd(StrEnum):
    """State of the target at the end of the trace; the values are those of the JSON report."""

    RUNNING = "running"
    EXITED = "exited"
    OOM_KILLED = "oom-killed"
    KILLED = "killed"
    EXEC = "exec"


@dataclass(frozen=True, slots=True)
class RuntimeInfo:
    """The runtime of managed code that a process has.

    Attributes:
        name: As in ``runtimes/registry.py``: ``hotspot`` for a Java virtual machine.
        version: As it says itself, ``"unknown"`` where it does not.
    """

    name: str
    version: str


@dataclass(frozen=True, slots=True)
class TargetInfo:
    """One traced process.

    Attributes:
        slot: Small number of the target within the trace, from 0.
        pid: PID in the namespace of the tracer.
        comm: Name of the main thread when the trace began.
        exe: Path of the executable in the target's own mount namespace.
        runtime: Its runtime of managed code, None where it has none.
        allocators: Names of the objects whose allocator functions were probed.
        end: Its state at the last snapshot.
        end_signal: The signal that killed it, 0 for none.
    """

    slot: int
    pid: int
    comm: str
    exe: str
    runtime: RuntimeInfo | None = None
    allocators: tuple[str, ...] = ()
    end: TargetEnd = TargetEnd.RUNNING
    end_signal: int = 0


@dataclass(frozen=True, slots=True)
class ThreadInfo:
    """One thread. Two threads that had the same TID one after the other differ in ``uid``.

    Attributes:
        uid: Number of the thread within the trace, from 1; 0 stands for threads beyond the limit.
        slot: The target it belongs to.
        tid: The kernel's TID.
        name: Last known name, kept after the thread's end.
        alive: Whether it was alive at the last snapshot.
    """

    uid: int
    slot: int
    tid: int
    name: str
    alive: bool = True
