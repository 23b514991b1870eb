"""From lines to steps: the two halves of an interrupted call are put together, and each call gets its stack.

strace prints a call when it has come back; where another thread speaks in between it prints the first half, marked
``<unfinished ...>``, and later ``<... mmap resumed>``. Stacks (``-k``) follow the line of the call's end. A step is
given out when all of it is known, in the order in which the kernel acted: a call that takes memory away at its entry.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple, TypeAlias

from nativeleak.engines.strace import lines
from nativeleak.engines.strace.arguments import UNFINISHED, parse_result, split_arguments
from nativeleak.units import excerpt

REMOVALS: Final = frozenset({"munmap", "mremap", "shmdt"})
CALLS: Final = frozenset(
    {
        *(
            "mmap",
            "mmap2",
            "old_mmap",
            "munmap",
            "mremap",
            "brk",
            "mprotect",
            "pkey_mprotect",
            "madvise",
            "shmget",
            "shmat",
            "shmdt",
        ),
        *("clone", "clone2", "clone3", "fork", "vfork", "execve", "execveat", "prctl", "exit", "exit_group"),
    }
)
"""Calls that are read; all others are passed over."""
MAX_FRAMES: Final = 256
_MAX_OPEN: Final = 1 << 16


class Entered(NamedTuple):
    """A call that takes memory away has begun."""

    tid: int
    time_s: float
    name: str
    args: tuple[str, ...]


class Left(NamedTuple):
    """A call has come back.

    Attributes:
        value: None where it never came back.
        frames: Lines of its stack as printed, leaf first, without their mark.
    """

    tid: int
    time_s: float
    name: str
    args: tuple[str, ...]
    value: int | None
    failed: bool
    frames: tuple[str, ...] = ()


class Ended(NamedTuple):
    """A thread has ended; ``signal`` is empty unless one has killed it."""

    tid: int
    time_s: float
    status: int
    signal: str


class Superseded(NamedTuple):
    """The main thread has given way to the thread ``by``, which has called execve."""

    tid: int
    time_s: float
    by: int


class Named(NamedTuple):
    """A thread's name, as strace prints it before its calls."""

    tid: int
    comm: str


class Attached(NamedTuple):
    """strace has attached to a thread; ``is_process``: of a process of its own for certain, unless a clone made it."""

    tid: int
    is_process: bool


class Mode(NamedTuple):
    """A thread runs in another mode than strace itself: ``32``, ``x32``, ``64``."""

    tid: int
    mode: str


Step: TypeAlias = Entered | Left | Ended | Superseded | Named | Mode | Attached


class StraceReader:
    """Reads one output of strace.

    Args:
        main_tid: The thread that lines without a number are of, unless it has ended and one other is left.
        origin_s: The moment that times count from, seconds since 1970; None: the first stamp.

    Attributes:
        clock: Of the time stamps.
        n_lines: Lines read.
        n_unread: Lines that made no sense, or were too long.
        first_unread: The first of them.
        n_orphans: Halves of calls whose other half never came.
    """

    def __init__(self, main_tid: int = 0, origin_s: float | None = None) -> None:
        self.clock = lines.Clock(origin_s)
        self.n_lines = 0
        self.n_unread = 0
        self.first_unread = ""
        self.n_orphans = 0
        self._alive: dict[int, None] = {}
        self._has_ended = False
        self._main_tid = main_tid
        self._open: dict[int, tuple[str, str]] = {}
        self._comms: dict[int, str] = {}
        self._left: Left | None = None
        self._frames: list[str] = []

    def feed(self, line: str) -> Iterator[Step]:
        """Take a line without its newline; the steps that are known by now."""
        self.n_lines += 1
        if line.startswith(lines.STACK_MARK):
            if self._left is not None and len(self._frames) < MAX_FRAMES and len(line) <= lines.MAX_LINE:
                self._frames.append(line[len(lines.STACK_MARK) :])
            return
        yield from self.flush()
        if len(line) > lines.MAX_LINE:
            self._miss(line)
            return
        leader = lines.parse_leader(line)
        tid = leader.tid or self._nameless()
        if leader.tid and leader.tid not in self._alive and len(self._alive) < _MAX_OPEN:
            self._alive[leader.tid] = None
        time_s = self.clock.seconds(leader.stamp)
        if leader.comm and self._comms.get(tid) != leader.comm:
            if len(self._comms) >= _MAX_OPEN:
                self._comms.clear()
            self._comms[tid] = leader.comm
            yield Named(tid, leader.comm)
        yield from self._read(tid, time_s, leader.text)

    def flush(self) -> Iterator[Step]:
        """The step that still waited for its stack."""
        if self._left is not None:
            yield self._left._replace(frames=tuple(self._frames))
            self._left = None
            self._frames.clear()

    def _nameless(self) -> int:
        """The thread of a line without a number: strace leaves it out where one thread is left."""
        if len(self._alive) == 1 and self._main_tid not in self._alive and self._has_ended:
            return next(iter(self._alive))
        return self._main_tid

    def _miss(self, line: str) -> None:
        self.n_unread += 1
        self.first_unread = self.first_unread or excerpt(line)

    def _read(self, tid: int, time_s: float, text: str) -> Iterator[Step]:
        name = lines.parse_call_name(text)
        if name is not None:
            if name in CALLS:
                yield from self._on_call(tid, time_s, name, text[len(name) + 1 :])
            return
        resumed = lines.parse_resumed(text)
        if resumed is not None:
            yield from self._on_resumed(tid, time_s, *resumed)
            return
        ending = lines.parse_ending(text)
        if ending is not None:
            self._open.pop(tid, None)
            self._comms.pop(tid, None)
            self._alive.pop(tid, None)
            self._has_ended |= tid == self._main_tid
            yield Ended(tid, time_s, *ending)
            return
        by = lines.parse_superseded(text)
        mode, attached = lines.parse_mode(text), lines.parse_attached(text)
        if by:
            yield Superseded(tid, time_s, by)
        elif attached is not None:
            yield Attached(*attached)
        elif mode is not None:
            yield Mode(*mode)
        elif text.strip() and not lines.is_remark(text):
            self._miss(text)

    def _on_call(self, tid: int, time_s: float, name: str, text: str) -> Iterator[Step]:
        arguments = split_arguments(text)
        if name in REMOVALS:
            yield Entered(tid, time_s, name, arguments.values)
        if arguments.rest is None:
            if not text.rstrip().endswith(UNFINISHED):
                self._miss(f"{name}({text}")
            if tid in self._open:
                self.n_orphans += 1
            elif len(self._open) >= _MAX_OPEN:
                self._open.pop(next(iter(self._open)))
                self.n_orphans += 1
            self._open[tid] = name, text.rstrip().removesuffix(UNFINISHED)
            return
        self._leave(tid, time_s, name, arguments.values, arguments.rest)

    def _on_resumed(self, tid: int, time_s: float, name: str, rest: str) -> Iterator[Step]:
        begun = self._open.pop(tid, None)
        if begun is None and self._open.get(0, ("",))[0] == name:
            # strace numbers its lines from the second thread on: the call was begun without a number.
            begun = self._open.pop(0)
        if name not in CALLS:
            return
        if begun is None or begun[0] != name:
            self.n_orphans += 1
            return
        arguments = split_arguments(begun[1] + rest)
        self._leave(tid, time_s, name, arguments.values, arguments.rest or "")
        yield from ()

    def _leave(self, tid: int, time_s: float, name: str, args: tuple[str, ...], rest: str) -> None:
        result = parse_result(rest)
        if result is None:
            if UNFINISHED not in rest:  # `<... munmap resumed> <unfinished ...>) = ?`: killed in the call
                self._miss(f"{name}({', '.join(args)}){rest}")
            return
        self._left = Left(tid, time_s, name, args, result.value, result.failed)
