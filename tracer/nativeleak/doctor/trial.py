"""Tries tracing: loads our BPF programs and attaches them to a child process that makes a known number of calls.

Scope: every way to attach, one at a time. A kernel that loads a program may still not run it: Linux 6.6 to 6.9 attach
multi links that see only one thread. So the calls are counted. Only the child is probed, and nothing stays attached. A
trial takes a second or two, most of it for detaching; during that time the system call tracepoints are active for the
whole machine, as they are in a trace.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from nativeleak import children
from nativeleak.closing import Closing
from nativeleak.doctor import subject
from nativeleak.doctor.checks import Check, State
from nativeleak.engines.bpf.kernel import abi
from nativeleak.engines.bpf.kernel.programs import AttachMode, Limits, Programs
from nativeleak.errors import CannotTraceError, MendableError, NativeleakError
from nativeleak.probes.emulation import CONSERVATIVE
from nativeleak.probes.families import ProbePoint
from nativeleak.probes.placement import place
from nativeleak.probes.returns import Returns, plan_returns
from nativeleak.probes.search import find_allocators
from nativeleak.process import procfs
from nativeleak.process.hazards import filter_hazard, has_filter
from nativeleak.process.mapped import MappedObject, executable_objects
from nativeleak.symbols.source import ElfError

N_EXPECTED: Final = subject.N_CALLS * subject.N_THREADS

_LIMITS: Final = Limits(
    n_allocations=4096, n_sites=256, n_threads=64, n_stacks=512, n_new_stacks=256, ring_bytes=1 << 18
)
_ANSWER_TIMEOUT_S: Final = 30.0
_SLOT: Final = 0
_PERF_FUNCTIONS: Final = ("malloc", "free")
"""Functions to probe by perf events: each takes a tenth of a second to detach, and these are enough."""
_TRY_ELSEWHERE: Final = (
    "see the other failed checks; tracing needs a kernel with uprobes, BPF and its type information (BTF)"
)
_ATTACH_OPTION: Final = {
    AttachMode.SESSION: "session",
    AttachMode.MULTI: "multi",
    AttachMode.PERF: "perf",
    AttachMode.TRACEFS: "tracefs",
}
_ONE_BY_ONE: Final = (AttachMode.PERF, AttachMode.TRACEFS)


@dataclass(frozen=True, slots=True)
class Trial:
    """Result of one way to attach.

    Attributes:
        mode: The way to attach.
        loaded: Whether the kernel loaded the programs: ``trace`` uses the first way for which it does.
        n_allocated: Calls of malloc that were counted, of ``N_EXPECTED``.
        n_freed: Calls of free that were counted, of ``N_EXPECTED``.
        n_threads: Threads in which they were counted.
        n_maps: Calls of mmap that were seen, of ``subject.N_MAPS``.
        error: Why the trial failed; empty if it ran to its end.
        remedy: What to do about the error.
        denied: The error is a lack of rights.
    """

    mode: AttachMode
    loaded: bool = False
    n_allocated: int = 0
    n_freed: int = 0
    n_threads: int = 0
    n_maps: int = 0
    error: str = ""
    remedy: str = ""
    denied: bool = False

    @property
    def works(self) -> bool:
        """Whether every allocator call was counted."""
        return not self.error and self.n_allocated == self.n_freed == N_EXPECTED


class Subject(Closing):
    """The child process that is traced; a context manager."""

    def __init__(self) -> None:
        self.process = children.start(
            children.python_script(subject.__file__),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self.pid = self.process.pid
        try:
            self._expect(b"ready\n")
        except BaseException:
            self.close()
            raise

    def do_round(self) -> None:
        """Let the child make its calls; returns when they are made."""
        assert self.process.stdin is not None  # noqa: S101
        with contextlib.suppress(BrokenPipeError):  # it has ended: its status says more
            self.process.stdin.write(b"go\n")
            self.process.stdin.flush()
        self._expect(b"done\n")

    def _expect(self, wanted: bytes) -> None:
        assert self.process.stdout is not None  # noqa: S101
        # One short line is one write, so that readline does not wait once there is anything.
        ready, _, _ = select.select([self.process.stdout], [], [], _ANSWER_TIMEOUT_S)
        line = self.process.stdout.readline() if ready else None
        if line == b"":
            raise _ended(self.process.wait(_ANSWER_TIMEOUT_S))
        if line != wanted:
            raise NativeleakError("the child process to be traced did not answer")

    @property
    def is_alive(self) -> bool:
        """Whether it can make another round."""
        return self.process.poll() is None

    def close(self) -> None:
        """End the child."""
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        try:
            self.process.wait(5.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def try_modes(modes: Sequence[AttachMode] = tuple(AttachMode)) -> list[Trial]:
    """Try each way to attach, best first, until one fails for lack of rights.

    Raises:
        NativeleakError: The child could not be started.
    """
    trials: list[Trial] = []
    with contextlib.ExitStack() as children_of_ours:
        child = children_of_ours.enter_context(Subject())
        for mode in modes:
            if not child.is_alive:
                child = children_of_ours.enter_context(Subject())
            trials.append(try_mode(mode, child))
            if trials[-1].denied:
                break
    return trials


def _ended(status: int) -> NativeleakError:
    """The error for a child that ended while it was probed. It has our own seccomp filter, if we have one."""
    how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
    if status < 0 and has_filter(os.getpid()):
        return MendableError(
            f"the child process that was probed {how}: it is under our own seccomp filter, and on Linux 6.11 to 6.13"
            " such a filter denies return probes",
            filter_hazard().remedy,
        )
    return NativeleakError(f"the child process that was probed {how}")


def try_mode(mode: AttachMode, child: Subject) -> Trial:
    """Attach to the child in one way, let it make its calls, count them."""
    n_maps = 0

    def on_event(event: abi.Event) -> None:
        nonlocal n_maps
        n_maps += event.type == abi.EventType.MMAP and event.args[1] == subject.MAP_BYTES

    loaded = False
    try:
        with Programs(_LIMITS, on_event, (mode,)) as engine:
            loaded = True
            _attach(engine, mode, child.pid)
            engine.open_window(_SLOT, time.monotonic_ns())
            child.do_round()
            engine.close_window(_SLOT)
            engine.consume()
            # By key: a site that changes during the read may appear twice.
            sites = {raw[:3]: abi.Site.from_buffer_copy(raw.value) for raw in engine.read_sites()}
            return Trial(
                mode,
                loaded=True,
                n_allocated=sum(site.allocated_count for site in sites.values()),
                n_freed=sum(site.freed_count for site in sites.values()),
                n_threads=len({thread for (_, thread, _), site in sites.items() if site.allocated_count}),
                n_maps=n_maps,
            )
    except (NativeleakError, OSError) as error:
        return _failed(mode, error, loaded=loaded)


def _failed(mode: AttachMode, error: NativeleakError | OSError, *, loaded: bool) -> Trial:
    if isinstance(error, OSError):
        return Trial(mode, loaded, error=str(error))
    cause = error.__cause__
    # While programs are being loaded, EACCES is a refusal by the verifier.
    rights = (errno.EPERM, errno.EACCES) if loaded else (errno.EPERM,)
    denied = isinstance(cause, OSError) and cause.errno in rights
    return Trial(mode, loaded, error=error.what, remedy=_own_remedy(error.remedy), denied=denied)


def _own_remedy(remedy: str) -> str:
    """The remedy of an error; libbpf's message instead if the remedy is to run the doctor."""
    if "nativeleak doctor" not in remedy:
        return remedy
    _, found, message = remedy.partition("(libbpf: ")
    return f"libbpf says: {message.removesuffix(')')}" if found else ""


def _attach(engine: Programs, mode: AttachMode, pid: int) -> None:
    """Probe the child's allocators; only blocks of the agreed size count."""
    target = abi.Target(min_size=subject.BLOCK_BYTES, max_size=subject.BLOCK_BYTES, max_depth=abi.MAX_FRAMES)
    engine.add_target(_SLOT, pid, target)
    n_points = 0
    for mapped, points in allocator_objects(pid):
        chosen = [p for p in points if p.function in _PERF_FUNCTIONS] if mode in _ONE_BY_ONE else points
        placed = place(mapped.file_path, chosen)
        plan = plan_returns(mapped.file_path, placed, Returns.AUTO, CONSERVATIVE)
        engine.attach_functions(_SLOT, pid, mapped.file_path, mapped.path, plan)
        n_points += len(chosen)
    if not n_points:
        raise CannotTraceError("no allocator functions were found in a Python process")


def allocator_objects(pid: int) -> Iterator[tuple[MappedObject, list[ProbePoint]]]:
    """Mapped files of a process that define allocator functions, with the functions that would be probed.

    Raises:
        NativeleakError: The process has exited, or we may not read it.
    """
    for mapped in executable_objects(pid, procfs.read_maps(pid)):
        if mapped.is_vdso or not mapped.file_path:
            continue
        try:
            points = list(find_allocators(mapped.file_path).points)
        except (ElfError, OSError):
            continue
        if points:
            yield mapped, points


def trial_checks(trials: Sequence[Trial]) -> list[Check]:
    """One check per trial, and one for system calls."""
    errors = {trial.error for trial in trials}
    if trials and not any(trial.works for trial in trials) and len(errors) == 1 and "" not in errors:
        return [Check("BPF programs", State.FAIL, trials[0].error, trials[0].remedy or _TRY_ELSEWHERE)]
    used = next((trial for trial in trials if trial.loaded), None)
    working = next((trial for trial in trials if trial.works), None)
    checks = [_mode_check(trial, used, working) for trial in trials]
    if used is not None and not used.error:
        checks.append(_mapping_check(used))
    return checks


def _mode_check(trial: Trial, used: Trial | None, working: Trial | None) -> Check:
    name = trial.mode.value
    outcome = _outcome(trial)
    if trial.works:
        return Check(name, State.OK, f"{outcome}{'; trace uses this' if trial is used else ''}")
    if working is None:
        return Check(name, State.FAIL, outcome, trial.remedy or _TRY_ELSEWHERE)
    if trial is used:
        return Check(name, State.WARN, outcome, f"trace would use this: add --attach {_ATTACH_OPTION[working.mode]}")
    order = list(AttachMode)
    if used is not None and order.index(trial.mode) > order.index(used.mode):
        return Check(name, State.OK, f"not needed; does not work here: {outcome}")
    remedy = f"nothing to do: trace uses {working.mode.value} instead, at a higher cost per allocation"
    return Check(name, State.WARN, f"not available here: {outcome}", remedy)


def _outcome(trial: Trial) -> str:
    if trial.error:
        return trial.error
    counted = f"{trial.n_allocated} of {N_EXPECTED} malloc calls and {trial.n_freed} of {N_EXPECTED} free calls counted"
    if trial.works:
        return counted
    if not trial.n_allocated and not trial.n_freed:
        return f"its probes never fire: {counted}"
    if trial.n_threads == 1:
        return f"it sees only one of {subject.N_THREADS} threads: {counted}"
    return f"it misses calls: {counted}"


def _mapping_check(trial: Trial) -> Check:
    detail = f"{trial.n_maps} of {subject.N_MAPS} mmap calls seen"
    if trial.n_maps == subject.N_MAPS:
        return Check("system calls", State.OK, detail)
    return Check(
        "system calls",
        State.WARN,
        f"{detail}: memory that programs map themselves will be reported wrong",
        "another tracer may have disabled the system call tracepoints; stop it and try again",
    )
