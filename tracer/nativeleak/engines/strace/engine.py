"""strace as an engine: every call that changes address space, with its thread and, where the build has it, its stack.

What it costs is not small: strace stops each thread twice at every system call, also at those that are not read, and
walks a stack by ptrace at those that are. See docs/engines.md for figures.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from nativeleak.engines.base import Sink
from nativeleak.engines.options import TraceOptions
from nativeleak.engines.registry import coverage_of
from nativeleak.engines.strace.ledger import StraceLedger, Target, new_thread
from nativeleak.engines.strace.program import Strace, choose_options, find_strace
from nativeleak.engines.strace.program_lines import LineSplitter
from nativeleak.engines.strace.reader import Ended, StraceReader
from nativeleak.engines.strace.stacks import StackNamer
from nativeleak.engines.userspace import TracedProcess, UserspaceEngine, snapshot_of
from nativeleak.errors import CannotTraceError, NativeleakError
from nativeleak.model import Frame, Snapshot, Stack, StackCoverage, TargetEnd, TargetInfo
from nativeleak.process import procfs
from nativeleak.process.hazards import name_process, read_tracer
from nativeleak.runtimes.registry import jit_kind
from nativeleak.symbols.resolver import Symbolizer

_NAMES_EVERY_S: Final = 1.0
_FOREIGN: Final = -1
_MAX_KNOWN: Final = 1 << 20


class StraceEngine(UserspaceEngine):
    """Traces by strace; see ``Engine``.

    Args:
        options: What to do.
        targets: The processes.
        sink: Gets stacks and notes.

    Raises:
        CannotTraceError: strace is not there, or does not work here.
    """

    headline = "by strace"

    def __init__(self, options: TraceOptions, targets: Sequence[TargetInfo], sink: Sink) -> None:
        self._path = find_strace()
        for info in targets:
            refuse_traced(info.pid)
        self._options = choose_options(self._path)
        has_stacks = "-k" in self._options
        coverage = coverage_of("strace")
        super().__init__(
            targets, sink, coverage if has_stacks else replace(coverage, stacks=StackCoverage.NONE), options.budget
        )
        self._targets = [self._target(process, has_stacks=has_stacks) for process in self.processes]
        self._slot_of = {process.info.pid: process.slot for process in self.processes}
        self._by_clone: dict[int, int] = {}
        self._ledger = StraceLedger(self._target_of)
        self.threads = self._ledger.threads
        self._reader = StraceReader()
        self._splitter = LineSplitter()
        self._strace: Strace | None = None
        self._names_read_s = 0.0
        self._notes: list[tuple[str, str]] = []

    @staticmethod
    def _target(process: TracedProcess, *, has_stacks: bool) -> Target:
        pid = process.info.pid
        namer = StackNamer(Symbolizer(pid, jit_kind=jit_kind), lambda: _maps(pid)) if has_stacks else StackNamer()
        return Target(process, namer, lambda tid: _name(pid, tid), lambda address: _mapping_bytes(pid, address))

    @property
    def fds(self) -> Sequence[int]:
        """Strace's output, and what it says of itself."""
        return () if self._strace is None or self.ended else (self._strace.output_fd, self._strace.error_fd)

    def start(self) -> None:
        """Attach, then take for old what is mapped: what comes meanwhile waits in the pipe."""
        self._reader = StraceReader(origin_s=time.time())
        self._start_ns = time.monotonic_ns()
        self._strace = Strace(self._path, self._options, [process.info.pid for process in self.processes])
        self._strace.wait_attached()
        for process in self.processes:
            process.open_window()

    def work(self) -> float:
        """Read what strace has printed; look at names once a second."""
        assert self._strace is not None  # noqa: S101
        output = b"" if self.ended else self._strace.read_output()
        if output is None:
            self._on_end()
        elif not self.ended:
            self._strace.read_errors()
            self._take(output)
            if self.elapsed_s - self._names_read_s >= _NAMES_EVERY_S:
                self._names_read_s = self.elapsed_s
                for target in self._targets:
                    self._ledger.read_names(target)
        return super().work()

    def is_urgent(self) -> bool:
        """Yes: strace waits when its pipe is full, and its targets with it."""
        return True

    def target_exited(self, slot: int) -> None:
        """Nothing: strace prints how the process ended, and that is awaited."""

    def _take_notes(self) -> list[tuple[str, str]]:
        notes, self._notes = self._notes + self._ledger.notes, []
        self._ledger.notes.clear()
        return notes

    def _take_stacks(self) -> list[Stack]:
        return [stack for target in self._targets for stack in target.namer.take_new()]

    def _frames(self, slot: int, stack_key: int) -> Sequence[Frame]:
        return self._targets[slot].namer.frames(stack_key)

    def memory_bytes(self) -> int:
        """Of this process and of strace."""
        with contextlib.suppress(NativeleakError):
            return super().memory_bytes() + procfs.read_rss(self._strace.pid if self._strace is not None else 0)
        return super().memory_bytes()

    def freeze(self, near: str) -> None:
        """Tell new threads and stacks apart no longer."""
        super().freeze(near)
        for target in self._targets:
            target.namer.is_frozen = True

    def snapshot(self, *, final: bool = False) -> Snapshot:  # noqa: ARG002 - none is dearer than another
        """Everything as it is now."""
        namers = [target.namer for target in self._targets]
        counters = {
            "lost_events": self._reader.n_orphans + self._ledger.n_useless,
            "unread_lines": self._reader.n_unread,
            "truncated_stacks": sum(namer.n_truncated for namer in namers),
            "resolved_frames": sum(namer.n_resolved for namer in namers),
            "unresolved_frames": sum(namer.n_unresolved for namer in namers),
        }
        ends: dict[str, int] = {}
        for stack in (stack for namer in namers for stack in namer.stacks.values() if stack.truncated):
            name = f"stacks_ended_{stack.end.replace(' ', '_')}"
            ends[name] = ends.get(name, 0) + 1
        return snapshot_of(
            self.processes, self._ledger.threads, self.elapsed_s, counters | ends, events=self._ledger.n_calls
        )

    def stop(self) -> None:
        """Let strace detach; what it still had to say is read."""
        if self._strace is not None and not self.ended:
            self._strace.end(self._take)
            self._finish()
            self.ended = "stopped"
        self._pass_on()

    def close(self) -> None:
        """End strace by force where it still runs, and close all files."""
        if self._strace is not None:
            self._strace.close()
        for target in self._targets:
            target.namer.close()
        for process in self.processes:
            process.close()

    def _take(self, output: bytes) -> None:
        for line in self._splitter.feed(output):
            for step in self._reader.feed(line):
                born = new_thread(step)
                if born is not None:
                    self._learn(step.tid, *born)
                self._ledger.apply(step)
                if isinstance(step, Ended):
                    self._forget(step.tid)

    def _finish(self) -> None:
        for step in self._reader.flush():
            self._ledger.apply(step)

    def _on_end(self) -> None:
        """Strace has closed its output: with the targets, or because somebody has ended it."""
        assert self._strace is not None  # noqa: S101
        self._strace.end(self._take)
        self._finish()
        for process in self.processes:
            if not is_alive(process.info.pid):
                process.end(TargetEnd.EXITED)
        self.ended = "target ended" if all(process.is_over for process in self.processes) else "strace ended"
        if self.ended == "strace ended":
            status = self._strace.status or 0
            how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
            self._notes.append(("strace", f"strace {how}: the window ends there"))

    # Which thread belongs to whom

    def _target_of(self, tid: int) -> Target | None:
        slot = self._slot_of.get(tid)
        if slot is None:
            slot = self._look_up(tid)
            if len(self._slot_of) >= _MAX_KNOWN:
                self._slot_of = {process.info.pid: process.slot for process in self.processes}
            self._slot_of[tid] = slot
        return self._targets[slot] if slot != _FOREIGN else None

    def _look_up(self, tid: int) -> int:
        try:
            tgid = int(procfs.read_status(tid).get("Tgid", "0"))
        except (NativeleakError, ValueError):
            return self._by_clone.pop(tid, _FOREIGN)
        slots = [process.slot for process in self.processes if process.info.pid == tgid]
        return slots[0] if slots else _FOREIGN

    def _learn(self, parent: int, child: int, is_thread: bool) -> None:
        """A call has brought a thread or a process into the world: it may be gone before anybody looks."""
        slot = self._slot_of.get(parent, _FOREIGN)
        if is_thread and slot != _FOREIGN and child not in self._slot_of:
            self._by_clone[child] = slot

    def _forget(self, tid: int) -> None:
        if all(process.info.pid != tid for process in self.processes):
            self._slot_of.pop(tid, None)
            self._by_clone.pop(tid, None)


def refuse_traced(pid: int) -> None:
    """Make sure that nobody traces a process yet.

    Raises:
        CannotTraceError: Somebody does.
    """
    tracer = read_tracer(pid)
    if tracer:
        raise CannotTraceError(
            f"tracing PID {pid} by strace failed: {name_process(tracer)} traces it already",
            "a process can have one tracer or debugger only: end that one, or trace with --engine pmap",
        )


def is_alive(pid: int) -> bool:
    """Whether a process is there, and has not exited yet."""
    try:
        return not procfs.is_zombie(pid)
    except NativeleakError:
        return False


def _maps(pid: int) -> Sequence[procfs.MapEntry]:
    try:
        return procfs.read_maps(pid)
    except NativeleakError:
        return ()


def _name(pid: int, tid: int) -> str:
    try:
        return procfs.read_comm(pid, tid)
    except NativeleakError:
        return ""


def _mapping_bytes(pid: int, address: int) -> int:
    return next((entry.end - entry.start for entry in _maps(pid) if entry.start == address), 0)
