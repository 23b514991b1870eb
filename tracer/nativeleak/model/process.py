"""The traced process and its threads, as facts that outlive them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


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


class Unwatched(NamedTuple):
    """An allocator in a process that is not watched, or an object that looks like one.

    Attributes:
        object: Name of the mapped file.
        allocator: ``jemalloc``, ``mimalloc``, ``tcmalloc``, ``Go``; empty where it is not known.
        prefix: What its functions' names begin with, ``PREFIX*SUFFIX`` where they end alike too; empty without one.
        why: Why it is not watched, and what to do.
    """

    object: str
    allocator: str
    prefix: str
    why: str


class Child(NamedTuple):
    """A process that descends from a target.

    Attributes:
        pid: PID in the namespace of the tracer.
        comm: Its name: the title that it gave itself (``php-fpm: pool www``), or the kernel's.
        rss_bytes: Resident memory when it was last seen.
        growth_bytes: Change of it since it was first seen during the trace.
        is_alive: It had not ended at the last look.
        holds_as_much: It holds as much as the target, or grew as much.
    """

    pid: int
    comm: str
    rss_bytes: int
    growth_bytes: int
    is_alive: bool = True
    holds_as_much: bool = True


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
        unwatched: Allocators in it that are not watched.
        children: Processes that descend from it, largest growth first.
    """

    slot: int
    pid: int
    comm: str
    exe: str
    runtime: RuntimeInfo | None = None
    allocators: tuple[str, ...] = ()
    end: TargetEnd = TargetEnd.RUNNING
    end_signal: int = 0
    unwatched: tuple[Unwatched, ...] = ()
    children: tuple[Child, ...] = ()


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
