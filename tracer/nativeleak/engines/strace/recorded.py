"""Recorded output of strace: read twice, first for who is who and how long it took, then for what was mapped.

Nothing is known of what was mapped before the first line, so that unmapping it changes nothing, as in a live trace; and
growth of the program break counts from its first ``brk``.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from nativeleak.engines.strace.arguments import UNFINISHED
from nativeleak.engines.strace.ledger import StraceLedger, Target, new_thread
from nativeleak.engines.strace.lines import (
    Leader,
    parse_attached,
    parse_call_name,
    parse_leader,
    parse_resumed,
    without_remarks_inside,
)
from nativeleak.engines.strace.program_lines import LineSplitter
from nativeleak.engines.strace.reader import CALLS, Attached, Left, Named, StraceReader
from nativeleak.engines.strace.stacks import StackNamer
from nativeleak.engines.userspace import TracedProcess, most_snapshots, snapshot_of
from nativeleak.errors import NativeleakError
from nativeleak.model import Snapshot, Stack, TargetInfo

_READ_BYTES: Final = 1 << 20
_N_SNAPSHOTS: Final = 20
_COMMON_CALLS: Final = frozenset(
    {
        *("futex", "epoll_wait", "epoll_pwait", "poll", "ppoll", "select", "restart_syscall", "recvfrom", "sendto"),
        *("recvmsg", "sendmsg", "accept4", "nanosleep", "clock_nanosleep", "rt_sigprocmask", "rt_sigreturn"),
        *("sched_yield", "gettid", "newfstatat", "openat", "set_robust_list", "rt_sigaction", "wait4", "access"),
        *("arch_prctl", "prlimit64", "getrandom", "pread64", "set_tid_address", "rseq"),
    }
)
"""Calls that no library function has the name of, or hardly one: ltrace prints functions in the same form."""
_LIBRARY: Final = re.compile(
    r"(?:m|c|re)alloc|free|str\w+|mem(?:cpy|set|cmp|move|align)|v?f?printf|v?snprintf|puts|fopen|fclose|pthread_\w+"
    r"|__libc_start_main|__\w+_chk|SYS_\w+"
)
"""Functions that ltrace prints: no system call has such a name."""
_MAX_PARENTS: Final = 1 << 20


class RecordedStrace:
    """One file; see ``RecordedSource``.

    Args:
        path: Where it is.
        fd: The open file, closed with this; it is read twice, so it must be a regular one. -1: see ``read_lines``.
        pid: The process that is meant; 0: the first one in the file.
        read_lines: Gives the lines from the first on, each time it is called; instead of ``fd``.

    Raises:
        NativeleakError: The process is not in it.
    """

    backend = "strace"
    probes: tuple[str, ...] = ("mmap", "brk")

    def __init__(
        self, path: Path, fd: int = -1, pid: int = 0, read_lines: Callable[[], Iterator[str]] | None = None
    ) -> None:
        self._path = path
        self._fd = fd
        self._read_lines = read_lines
        self._roots: list[int] = []
        self._attached_first = 0
        self._parent: dict[int, tuple[int, bool]] = {}
        self._first_tid: int | None = None
        self._begins_with_exec = False
        self._processes: dict[int, int] = {}
        self._sites: set[int] = set()
        self._tids: set[int] = set()
        self._order: list[int] = []
        self._n_lines = 0
        self._comms: dict[int, str] = {}
        self._notes: list[tuple[str, str]] = []
        self.duration_s = 0.0
        self.started = 0.0
        self._survey()
        main = self._guess_process() or pid
        self._name_the_nameless(main)
        self._pid = pid or main
        if pid and self._tids and pid not in {self._process_of(tid) for tid in self._tids}:
            raise NativeleakError(
                f"reading {path} failed: it has no calls of process {pid}",
                "without -p the first process of the file is taken",
            )
        info = TargetInfo(0, self._pid, self._comms.get(self._pid, "?"), "")
        self._target = Target(TracedProcess(0, info), StackNamer(), is_from_start=True)
        self._ledger = StraceLedger(self._target_of)
        self._reader = StraceReader(main)
        self._tell()

    def take_notes(self) -> list[tuple[str, str]]:
        """What was found in the file."""
        notes = self._notes + self._ledger.notes
        self._notes, self._ledger.notes = [], []
        return notes

    def take_stacks(self) -> list[Stack]:
        """Stacks seen for the first time."""
        return self._target.namer.take_new()

    def snapshots(self, interval_s: float) -> Iterator[Snapshot]:
        """Everything as it was at each interval, and at the end."""
        every_s = max(
            min(interval_s, self.duration_s / _N_SNAPSHOTS), self.duration_s / most_snapshots(len(self._sites))
        )
        next_s, last_s = every_s, self.duration_s - every_s / 2  # one just before the end would say the same
        for line in itertools.chain(self._lines(), [None]):
            for step in self._reader.feed(line) if line is not None else self._reader.flush():
                now_s = getattr(step, "time_s", 0.0)
                if every_s and next_s < last_s and now_s >= next_s:
                    yield self._snapshot(next_s)
                    next_s = step_after(next_s, every_s, now_s)
                self._ledger.apply(step)
        if self._reader.n_unread:
            self._notes.append(("unread", self.unread_text()))
        yield self._snapshot(self.duration_s)

    def unread_text(self) -> str:
        """How many lines made no sense, with the first of them."""
        n_unread, first = self._reader.n_unread, self._reader.first_unread
        return f"{n_unread:,} of {self._n_lines:,} lines made no sense, first: {first}"

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _snapshot(self, elapsed_s: float) -> Snapshot:
        namer = self._target.namer
        counters = {
            "lost_events": self._reader.n_orphans + self._ledger.n_useless,
            "unread_lines": self._reader.n_unread,
            "truncated_stacks": namer.n_truncated,
            "stacks_ended_no_unwind_information": namer.n_truncated,
            "resolved_frames": namer.n_resolved,
            "unresolved_frames": namer.n_unresolved,
        }
        process = self._target.process
        return snapshot_of(
            [process], self._ledger.threads, elapsed_s, counters, events=self._ledger.n_calls, is_live=False
        )

    def _lines(self) -> Iterator[str]:
        return without_remarks_inside(self._raw_lines())

    def _raw_lines(self) -> Iterator[str]:
        if self._read_lines is not None:
            yield from self._read_lines()
            return
        splitter, offset = LineSplitter(), 0
        while True:
            data = os.pread(self._fd, _READ_BYTES, offset)
            offset += len(data)
            yield from splitter.feed(data or b"\n")
            if not data:
                return

    def _survey(self) -> None:
        """Who is a thread of whom, and how long it all took."""
        reader = StraceReader()
        for line in itertools.chain(self._lines(), [None]):
            for step in reader.feed(line) if line is not None else reader.flush():
                tid = step.tid
                if isinstance(step, Attached):
                    self._on_attached(step)
                    continue
                if self._first_tid is None:
                    self._first_tid = tid
                    self._begins_with_exec = isinstance(step, Left) and step.name == "execve"
                if tid not in self._tids and len(self._tids) < _MAX_PARENTS:
                    self._tids.add(tid)
                    self._order.append(tid)
                if isinstance(step, Named):
                    self._comms.setdefault(tid, step.comm)
                elif isinstance(step, Left):
                    if step.name == "execve" and step.args and not step.failed:
                        self._comms[tid] = Path(step.args[0].strip('"')).name[:15]
                    if len(self._sites) < _MAX_PARENTS:
                        self._sites.add(hash((tid, step.frames)))
                born = new_thread(step)
                if born is not None and len(self._parent) < _MAX_PARENTS:
                    self._parent[born[0]] = tid, born[1]
        self.duration_s = reader.clock.seconds("")
        self.started = reader.clock.first_epoch_s or max(0.0, self._mtime() - self.duration_s)
        self._n_lines = reader.n_lines

    def _mtime(self) -> float:
        try:
            return os.fstat(self._fd).st_mtime if self._fd >= 0 else self._path.stat().st_mtime
        except OSError:
            return 0.0

    def _on_attached(self, step: Attached) -> None:
        """``Process N attached``: before the first call it names a process, later a thread that a clone has made."""
        if self._first_tid is not None:
            return
        self._attached_first = self._attached_first or step.tid
        if step.is_process and len(self._roots) < _MAX_PARENTS:
            self._roots.append(step.tid)

    def _guess_process(self) -> int:
        """The process that strace was started with or attached to: one that nobody in the file has made."""
        if self._attached_first:
            self._first_tid = self._attached_first
            return self._attached_first
        if (self._begins_with_exec and self._first_tid) or self._first_tid is None:
            return self._first_tid or 0
        numbers = [tid for tid in self._tids if tid and tid not in self._parent]
        if not numbers:
            self._notes.append(("input", f"{self._path}: no line says which process this is (-p says it)"))
            return 0
        if self._begins_with_exec or 0 in self._tids:
            # Lines without a number come first: strace numbers them from the second thread on.
            self._first_tid = next((tid for tid in self._order if tid in numbers), min(numbers))
            return self._first_tid
        self._first_tid = min(numbers)
        said = "no line says which process this is: it is taken for that of the lowest thread id (-p says better)"
        self._notes.append(("input", f"{self._path}: {said}"))
        return self._first_tid

    def _name_the_nameless(self, main: int) -> None:
        """Give lines without a number, which the survey took for those of thread 0, to the main process."""
        if 0 in self._tids:
            self._tids.discard(0)
            self._tids.add(main)
        if 0 in self._comms:
            self._comms[main] = self._comms.pop(0)
        self._parent = {tid: (maker or main, is_thread) for tid, (maker, is_thread) in self._parent.items()}
        self._first_tid = self._first_tid or main or None

    def _process_of(self, tid: int) -> int:
        """The process a thread belongs to: up from thread to maker, as far as it was seen."""
        passed = []
        while tid not in self._processes:
            maker, is_thread = self._parent.get(tid, (0, False))
            is_root = is_thread or tid in self._parent or self._first_tid is None
            self._processes[tid] = (
                tid if is_root else self._root_of(tid)
            )  # of a thread: for now, should there be a circle
            if is_thread:
                passed.append(tid)
                tid = maker
        process = self._processes[tid]
        self._processes.update(dict.fromkeys(passed, process))
        return process

    def _root_of(self, tid: int) -> int:
        """A thread that nobody was seen to make: it was there before, and of a process that was attached to."""
        if tid == self._first_tid:
            return tid
        if len(self._roots) > 1:  # threads have higher numbers than their process, unless these have wrapped
            return max((root for root in self._roots if root <= tid), default=self._roots[0])
        return self._first_tid or tid

    def _target_of(self, tid: int) -> Target | None:
        return self._target if self._process_of(tid) == self._pid or tid == self._pid else None

    def _tell(self) -> None:
        others = {self._process_of(tid) for tid in self._tids} - {self._pid}
        if others:
            some = ", ".join(str(pid) for pid in sorted(others)[:8])
            self._notes.append(
                ("input", f"{self._path}: {len(others)} other processes left out (-p takes one): {some}")
            )
        info = replace(self._target.process.info, comm=self._comms.get(self._pid, self._target.process.info.comm))
        self._target.process.info = info


def step_after(next_s: float, every_s: float, now_s: float) -> float:
    """The first multiple of ``every_s`` from ``next_s`` on that lies after ``now_s``."""
    return next_s + every_s * (1 + int((now_s - next_s) / every_s))


def looks_like_strace(lines: Iterable[str]) -> bool:
    """Whether some lines are calls as strace prints them; those of ltrace or perf trace are not."""
    is_one = False
    for line in filter(str.strip, lines):
        leader = parse_leader(line)
        name = parse_call_name(leader.text)
        if name is not None and _LIBRARY.fullmatch(name):
            return False
        is_one = is_one or _is_of_strace(leader, name)
    return is_one


def _is_of_strace(leader: Leader, name: str | None) -> bool:
    """Whether a line, of which the name of the call that begins there is known, is strace's."""
    text = leader.text
    if parse_attached(text) is not None:
        return True
    resumed = parse_resumed(text)
    name = name or (resumed[0] if resumed else None)
    if name is None:
        return False
    if name in CALLS or name in _COMMON_CALLS:
        return " = " in text or text.rstrip().endswith(UNFINISHED) or resumed is not None or name.startswith("exit")
    return bool(leader.tid) and (UNFINISHED in text or " = " in text)
