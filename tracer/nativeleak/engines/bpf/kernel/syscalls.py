"""Three ways to trace system calls, and the events of processes that are traced with each of them.

Scope: which programs a way loads, and how they are attached. They run for every process of the machine; those that are
no target leave at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Final, Protocol

from nativeleak.engines.bpf.kernel import bpf, perf
from nativeleak.engines.bpf.kernel.failures import no_hooks_error, tracepoint_error
from nativeleak.engines.bpf.kernel.fentry import may_be_preempted, may_load_fentry
from nativeleak.engines.bpf.kernel.mounts import Tracefs
from nativeleak.engines.bpf.kernel.system import close_fds

_CALLS: Final = ("mmap", "munmap", "mremap", "mprotect", "pkey_mprotect", "brk", "shmget", "shmat", "shmdt")
_TRACEPOINTS: Final = (
    *((f"on_{call}_entry", f"syscalls/sys_enter_{call}") for call in _CALLS),
    *(("on_syscall_exit", f"syscalls/sys_exit_{call}") for call in _CALLS),
)
"""(program, event as tracefs names it)."""
_OOM_KILL: Final = ("on_oom_kill", "oom/mark_victim")
TRACEPOINTS: Final = tuple(event for _, event in (*_TRACEPOINTS, _OOM_KILL))
"""All that are attached by name, as tracefs names them."""
OPTIONAL_TRACEPOINTS: Final = frozenset(
    {"oom/mark_victim", "syscalls/sys_enter_pkey_mprotect", "syscalls/sys_exit_pkey_mprotect"}
)
_FENTRY: Final = (
    *(f"on_{call}_begin" for call in ("munmap", "mremap", "brk", "shmdt")),
    *(f"on_{call}_end" for call in _CALLS),
)
_RAW_SYSCALLS: Final = {"on_raw_entry": "sys_enter", "on_raw_exit": "sys_exit"}
_RAW_PROCESS_EVENTS: Final = {
    "on_rename": "task_rename",
    "on_exit": "sched_process_exit",
    "on_exec": "sched_process_exec",
}


class SyscallHooks(StrEnum):
    """How system calls are traced."""

    FENTRY = "fentry"
    TRACEPOINTS = "tracepoints"
    RAW = "raw tracepoints"
    """The two that see every call."""


class LoadedPrograms(Protocol):
    """An object whose programs are in the kernel."""

    def program_fd(self, name: str) -> int:
        """Descriptor of a loaded program."""

    def attach_raw_tracepoint(self, name: str, tracepoint: str) -> None:
        """Attach to a raw tracepoint; the object detaches it."""


class SyscallWay(Protocol):
    """One way to trace system calls."""

    @property
    def hooks(self) -> SyscallHooks:
        """Which it is."""

    @property
    def programs(self) -> frozenset[str]:
        """Programs that it attaches; those of the other ways are not loaded."""

    def attach(self, loaded: LoadedPrograms, notes: list[str]) -> list[int]:
        """Attach them all, or none; returns the descriptors that keep them attached.

        Args:
            notes: Gets what the user should know of it.

        Raises:
            OSError: The kernel refuses; another way may do.
            CannotTraceError: The kernel refuses, and no other way would do.
        """

    def n_missed(self, loaded: LoadedPrograms) -> int:
        """System calls that its programs were left out of."""


class FentryHooks:
    """Programs at the kernel's functions: system calls of other programs than those that we trace cost nothing."""

    hooks: Final = SyscallHooks.FENTRY
    programs: Final = frozenset(_FENTRY)

    def attach(self, loaded: LoadedPrograms, notes: list[str]) -> list[int]:
        """Attach to each function."""
        fds: list[int] = []
        try:
            for name in _FENTRY:
                fds.append(bpf.attach_fentry(loaded.program_fd(name)))  # noqa: PERF401 - the except closes those so far
        except OSError:
            close_fds(fds)
            raise
        notes.append("traces system calls by fentry: those of other programs cost nothing more")
        return fds

    def n_missed(self, loaded: LoadedPrograms) -> int:
        """Calls during which the kernel left out a program because it was already running on that CPU."""
        facts = (bpf.read_fdinfo(loaded.program_fd(name)) for name in _FENTRY)
        return sum(int(each.get("recursion_misses", 0)) for each in facts)


class TracepointHooks:
    """The tracepoints of nine system calls, which tracefs names."""

    hooks: Final = SyscallHooks.TRACEPOINTS
    programs: Final = frozenset(program for program, _ in _TRACEPOINTS)

    def __init__(self, tracefs: Tracefs) -> None:
        self._tracefs = tracefs

    def attach(self, loaded: LoadedPrograms, notes: list[str]) -> list[int]:
        """Attach to each tracepoint; one that a kernel may lack is noted and left out."""
        return _attach_tracepoints(loaded, self._tracefs, _TRACEPOINTS, notes)

    def n_missed(self, loaded: LoadedPrograms) -> int:  # noqa: ARG002
        """None."""
        return 0


class RawHooks:
    """The two raw tracepoints at every system call of the machine, for which no tracefs is needed."""

    hooks: Final = SyscallHooks.RAW
    programs: Final = frozenset(_RAW_SYSCALLS)

    def attach(self, loaded: LoadedPrograms, notes: list[str]) -> list[int]:
        """Attach to both; the object keeps them."""
        notes.append("tracefs is not mounted and may not be: used raw tracepoints, at every system call")
        for program, tracepoint in _RAW_SYSCALLS.items():
            loaded.attach_raw_tracepoint(program, tracepoint)
        return []

    def n_missed(self, loaded: LoadedPrograms) -> int:  # noqa: ARG002
        """None."""
        return 0


RAW_PROGRAMS: Final = frozenset({*_RAW_SYSCALLS, *_RAW_PROCESS_EVENTS, "on_retire"})
"""Programs of the kind for raw tracepoints; ``on_retire`` is attached to none."""
ALL_PROGRAMS: Final = FentryHooks.programs | TracepointHooks.programs | RawHooks.programs
"""Programs at system calls, of all ways."""


def choose_ways(wanted: Sequence[SyscallHooks], tracefs: Tracefs | None, *, has_fentry: bool) -> list[SyscallWay]:
    """Ways to trace system calls that may work here, best first.

    Args:
        wanted: Those that may be tried.
        tracefs: None where it is not available; then raw tracepoints take the place of the named ones.
        has_fentry: The loader can load programs for the kernel's functions.

    Raises:
        CannotTraceError: None of those that may be tried works here.
    """
    ways: list[SyscallWay] = []
    if SyscallHooks.FENTRY in wanted and has_fentry and may_load_fentry() and not may_be_preempted():
        ways.append(FentryHooks())
    other = RawHooks() if tracefs is None else TracepointHooks(tracefs)
    if other.hooks in wanted:
        ways.append(other)
    if not ways:
        raise no_hooks_error(wanted)
    return ways


def set_process_autoload(set_autoload: SetAutoload, tracefs: Tracefs | None) -> None:
    """Leave out the program that needs tracefs where there is none."""
    set_autoload(_OOM_KILL[0], load=tracefs is not None)


class SetAutoload(Protocol):
    """``BpfObject.set_autoload``."""

    def __call__(self, name: str, *, load: bool) -> None:
        """Whether ``load`` takes this program along."""


def attach_process_events(loaded: LoadedPrograms, tracefs: Tracefs | None, notes: list[str]) -> list[int]:
    """Attach to exec, exit and renaming of threads, and to OOM kills where there is a tracefs.

    Returns:
        Descriptors that keep the latter attached; the object keeps the others.

    Raises:
        OSError: The kernel has no such raw tracepoint.
    """
    fds: list[int] = []
    if tracefs is not None:
        if tracefs.private:
            notes.append("tracefs is not mounted here: used a private mount of our own")
        fds = _attach_tracepoints(loaded, tracefs, [_OOM_KILL], notes)
    for program, tracepoint in _RAW_PROCESS_EVENTS.items():
        loaded.attach_raw_tracepoint(program, tracepoint)
    return fds


def _attach_tracepoints(
    loaded: LoadedPrograms, tracefs: Tracefs, tracepoints: Sequence[tuple[str, str]], notes: list[str]
) -> list[int]:
    fds: list[int] = []
    for program, event in tracepoints:
        try:
            fds.append(perf.attach_tracepoint(loaded.program_fd(program), tracefs.event_id(event)))
        except OSError as error:
            if event in OPTIONAL_TRACEPOINTS:
                notes.append(f"tracepoint {event} is not available: {error.strerror}")
                continue
            close_fds(fds)
            raise tracepoint_error(event, error) from error
    return fds
