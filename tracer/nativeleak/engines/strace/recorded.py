"""Recorded output of strace: read twice, first for who is who and how long it took, then for what was mapped.

Nothing is known of what was mapped before the first line, so that unmapping it changes nothing, as in a live trace; and
growth of the program break counts from its first ``brk``.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from nativeleak.engines.strace.ledger import StraceLedger, Target, new_thread
from nativeleak.engines.strace.lines import parse_call_name, parse_leader, parse_resumed
from nativeleak.engines.strace.program_lines import LineSplitter
from nativeleak.engines.strace.reader import CALLS, Left, Named, StraceReader
from nativeleak.engines.strace.stacks import StackNamer
from nativeleak.engines.userspace import TracedProcess, most_snapshots, snapshot_of
from nativeleak.errors import NativeleakError
from nativeleak.model import Snapshot, Stack, TargetInfo

_READ_BYTES: Final = 1 << 20
_N_SNAPSHOTS: Final = 20
_SNIFFED_LINES: Final = 200
_MAX_PARENTS: Final = 1 << 20


class RecordedStrace:
    """One file; see ``RecordedSource``.

    Args:
        path: Where it is.
        fd: The open file, closed with this; it is read twice, so it must be a regular one.
        pid: The process that is meant; 0: the first one in the file.

    Raises:
        NativeleakError: The process is not in it.
    """

    backend = "strace"
    probes: tuple[str, ...] = ("mmap", "brk")

    def __init__(self, path: Path, fd: int, pid: int = 0) -> None:
        self._path = path
        self._fd = fd
        self._parent: dict[int, tuple[int, bool]] = {}
        self._first_tid: int | None = None
        self._begins_with_exec = False
        self._processes: dict[int, int] = {}
        self._sites: set[int] = set()
        self._tids: set[int] = set()
        self._comms: dict[int, str] = {}
        self._notes: list[tuple[str, str]] = []
        self.duration_s = 0.0
        self.started = 0.0
        self._survey()
        self._pid = pid or self._guess_process()
        if pid and self._tids and pid not in {self._process_of(tid) for tid in self._tids}:
            raise NativeleakError(
                f"reading {path} failed: it has no calls of process {pid}",
                "without -p the first process of the file is taken",
            )
        info = TargetInfo(0, self._pid, self._comms.get(self._pid, "?"), "")
        self._target = Target(TracedProcess(0, info), StackNamer(), is_from_start=True)
        self._ledger = StraceLedger(self._target_of)
        self._reader = StraceReader(self._pid)
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
        yield self._snapshot(self.duration_s)

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
                if self._first_tid is None:
                    self._first_tid = tid
                    self._begins_with_exec = isinstance(step, Left) and step.name == "execve"
                if len(self._tids) < _MAX_PARENTS:
                    self._tids.add(tid)
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
        self.started = reader.clock.first_epoch_s or max(0.0, os.fstat(self._fd).st_mtime - self.duration_s)

    def _guess_process(self) -> int:
        """The process that strace was started with or attached to: one that nobody in the file has made."""
        if self._begins_with_exec or self._first_tid is None:
            return self._first_tid or 0
        lowest = min((tid for tid in self._tids if tid not in self._parent), default=self._first_tid)
        self._first_tid = lowest
        if lowest:
            said = "no line says which process this is: it is taken for that of the lowest thread id (-p says better)"
            self._notes.append(("input", f"{self._path}: {said}"))
        return lowest

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
        """A thread that nobody was seen to make: it was there before, and of the one process that was attached to."""
        return tid if tid == self._first_tid else self._first_tid or tid

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


def looks_like_strace(lines: list[str]) -> bool:
    """Whether some of the first lines of a file are calls as strace prints them."""
    for line in lines[:_SNIFFED_LINES]:
        text = parse_leader(line).text
        resumed = parse_resumed(text)
        name = parse_call_name(text) or (resumed[0] if resumed else None)
        if name is not None and (name in CALLS or " = " in text):
            return True
    return False
