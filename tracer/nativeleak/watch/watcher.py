"""The loop of a watch: the kernel's counts every second, a full reading as often as its cost allows, alarms, the end.

Scope: when what is read, and what is kept of it. What is shown is a viewer's business. The process is only read.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from typing import Any, Final, Protocol

from nativeleak.analysis.limits import Forecast, forecast
from nativeleak.errors import NativeleakError, NoTargetError
from nativeleak.heaps.difference import SizeCourse
from nativeleak.inputs.oom.witness import OomWitness
from nativeleak.process.check import TargetFacts, check_target
from nativeleak.process.limits import ProcessLimits
from nativeleak.process.oom import prefer_as_oom_victim
from nativeleak.process.procfs import TargetGoneError, read_start_ticks
from nativeleak.runtimes.hotspot.attach import Attached
from nativeleak.session.signals import interrupts
from nativeleak.triage.jvm_word import ask_categories
from nativeleak.triage.ledger import prepare, read_ledger
from nativeleak.watch import as_json
from nativeleak.watch.actions import Actions
from nativeleak.watch.alarms import Alarm, AlarmWatch
from nativeleak.watch.courses import Courses, Row
from nativeleak.watch.ending import STILL_RUNNING, Ending, read_ending
from nativeleak.watch.moments import LineReading, read_moment, reading_of
from nativeleak.watch.options import WatchOptions
from nativeleak.watch.pace import Pace
from nativeleak.watch.ring import Ring
from nativeleak.watch.sizes import SizeRow, size_rows

HELD: Final = "held"
"""Name of the course of resident and swapped memory."""
GROUP: Final = "group"
"""Name of the course of the group whose limit is used most."""
_LOOK_S: Final = 1.0
_WRITE_EVERY_S: Final = 60.0
_N_SIZES: Final = 10
_GONE_S: Final = 0.2
"""A process ends at most so long after it has lost its mappings."""


class Viewer(Protocol):
    """Shows a watch."""

    def begin(self, watch: Watch) -> None:
        """It begins; nothing is read yet but the first counts."""

    def look(self, watch: Watch) -> None:
        """The kernel's counts are new: once a second."""

    def line(self, watch: Watch) -> None:
        """Time for a line: every ``every_s``, and after each full reading."""

    def say(self, text: str) -> None:
        """One sentence on something that happened."""

    def warn(self, text: str) -> None:
        """The same, not to be missed."""

    def event(self, entry: as_json.Entry) -> None:
        """The same for programs."""

    def end(self, watch: Watch) -> None:
        """It has ended."""


class Watch:
    """One watch; what it knows is for viewers.

    Args:
        options: What to do.
        viewer: Shows it.

    Attributes:
        target: The process.
        status: The kernel's counts at the last look.
        first: Those of the first line.
        reading: The last full reading; None before the first.
        n_readings: Full readings so far.
        ending: How the process ended.
        reason: Why the watch ended: ``target ended``, ``duration``, ``interrupted``; empty while it goes on.
        notes: What could not be read at the last full reading.
    """

    def __init__(self, options: WatchOptions, viewer: Viewer) -> None:
        self.options = options
        self.ending: Ending = STILL_RUNNING
        self.reason = ""
        self.reading: LineReading | None = None
        self.n_readings = 0
        self.notes: list[str] = []
        self.sizes = SizeCourse()
        self.target: TargetFacts = check_target(options.pid, any_width=True)
        self._viewer = viewer
        self._pace = Pace(options.every_s)
        self._lines, self._sums, self._said = Courses(), Courses(), Courses()
        self._alarms = AlarmWatch(options.alarms, options.every_s)
        self._began_s = time.monotonic()
        self._next_line_s = 0.0
        self._next_write_s = _WRITE_EVERY_S
        self._may_write = True
        self._asks = options.asks_jvm
        self._jvm: Attached | None = None
        self._held_row: Row | None = None
        self._held_s = 0.0
        self._line_rows: list[Row] = []
        self._said_rows: list[Row] = []
        self._size_rows: list[SizeRow] = []

    # What is known

    @property
    def elapsed_s(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self._began_s

    @property
    def next_reading_s(self) -> float:
        """Seconds until the next full reading."""
        return self._pace.wait_s(self.elapsed_s)

    @property
    def line_rows(self) -> list[Row]:
        """Lines of resident memory, the fastest growth first."""
        return self._line_rows

    @property
    def said_rows(self) -> list[Row]:
        """NMT's categories, the fastest growth first; none unless the JVM is asked."""
        return self._said_rows

    @property
    def size_rows(self) -> list[SizeRow]:
        """Sizes of blocks that grow."""
        return self._size_rows

    @property
    def held_row(self) -> Row | None:
        """Resident and swapped memory with its growth, as of the last line."""
        return self._held_row

    def course(self, name: str = HELD) -> list[tuple[float, int]]:
        """(seconds, bytes) of a line of resident memory, or of all and swap; empty where there is none."""
        return (self._sums if name == HELD else self._lines).course(name)

    def said_course(self, name: str) -> list[tuple[float, int]]:
        """The same of an NMT category."""
        return self._said.course(name)

    def forecast(self) -> Forecast | None:
        """When the tightest group's limit is reached; None without one, or where nothing can be told."""
        group = self.status.tightest_group
        return None if group is None else forecast(self._sums.course(GROUP), group.limit.limit_bytes)

    # The loop

    def run(self) -> None:
        """Watch until the process ends, the duration is over, or a signal comes.

        Raises:
            NativeleakError: The process is not there, or may not be read.
        """
        options = self.options
        with contextlib.ExitStack() as stack:
            pidfd = self._open(stack)
            limits = stack.enter_context(ProcessLimits(options.pid))
            witness = stack.enter_context(OomWitness(options.pid, self.target.comm))
            wakeup = stack.enter_context(interrupts(self._interrupt))
            actions = stack.enter_context(Actions(options))
            prefer_as_oom_victim([options.pid])
            self.status = self.first = read_moment(options.pid, 0.0, limits)
            ring = Ring(options.output, as_json.start(self))
            ring.write()  # an unwritable file is an error now
            self._viewer.begin(self)
            poll = stack.enter_context(select.epoll())
            for fd in (pidfd, wakeup):
                poll.register(fd, select.EPOLLIN)
            try:
                prepare(options.pid)
                self._loop(poll, wakeup, limits, actions, ring)
            except Exception:
                # Whatever is being read of a process that ends may be half gone.
                if not _has_ended(pidfd, _GONE_S):
                    raise
                self.reason = "target ended"
            if self.reason == "target ended" or _has_ended(pidfd):
                self.reason = "target ended"
                self.ending = read_ending(pidfd, witness)
            for text in actions.finish():
                self._say(text, ring)
            self._finish(ring)

    def _open(self, stack: contextlib.ExitStack) -> int:
        pid = self.options.pid
        gone = NoTargetError(f"watch of PID {pid} failed: no such process", "ps -e lists the processes.")
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError as error:
            raise gone from error
        stack.callback(os.close, pidfd)
        if read_start_ticks(pid) != self.target.start_ticks:
            raise gone  # another process has the number now
        return pidfd

    def _loop(self, poll: select.epoll, wakeup: int, limits: ProcessLimits, actions: Actions, ring: Ring) -> None:
        options = self.options
        look_s = min(_LOOK_S, options.every_s)
        while not self.reason:
            began_s = self.elapsed_s
            self.status = read_moment(options.pid, began_s, limits)
            group = self.status.tightest_group
            sums = {HELD: float(self.status.held_bytes)}
            self._sums.add(began_s, sums if group is None else sums | {GROUP: float(group.usage_bytes or 0)})
            if self.reading is None:
                self.first = self.status
            n_before = self.n_readings
            if self._pace.is_due(began_s):
                self._read()
            self._keep(ring, is_read=self.n_readings > n_before)
            for alarm in self._alarms.look(self.status):
                self._alarm(alarm, actions, ring)
            for text in actions.look():
                self._say(text, ring)
            self._viewer.look(self)
            if options.duration_s is not None and self.elapsed_s >= options.duration_s:
                self.reason = self.reason or "duration"
                return
            wait_s = max(0.0, look_s - (self.elapsed_s - began_s))
            if options.duration_s is not None:
                wait_s = min(wait_s, max(0.0, options.duration_s - self.elapsed_s))
            for fd, _ in poll.poll(wait_s):
                if fd == wakeup:
                    os.read(wakeup, 64)
                else:
                    self.reason = "target ended"

    def _read(self) -> None:
        """One full reading; what the kernel and the JVM say goes on without it where it fails."""
        began_s, cpu_s = self.elapsed_s, time.process_time()
        try:
            ledger = read_ledger(self.options.pid, n_tries=1)
        except TargetGoneError:
            raise
        except NativeleakError as error:
            if not self.n_readings or isinstance(error, NoTargetError):
                raise
            self.notes = [error.what]
            self._pace.took(began_s, time.process_time() - cpu_s)
            return
        moment_s = (began_s + self.elapsed_s) / 2  # on a busy machine a reading takes seconds
        said = self._ask()
        self.notes = ledger.notes
        self._lines.add(moment_s, {line.id: float(line.resident) for line in ledger.lines})
        if said:
            self._said.add(moment_s, {name: float(n_bytes) for name, n_bytes in said.items()})
        self.sizes.add(moment_s, ledger.walks)
        self._line_rows, self._said_rows = self._lines.rows(), self._said.rows()
        self._size_rows = size_rows(self.sizes, _N_SIZES, ledger.known_as)
        cost_s = time.process_time() - cpu_s
        self.reading = reading_of(ledger, moment_s, cost_s, said)
        self.n_readings += 1
        self._pace.took(began_s, cost_s)

    def _ask(self) -> dict[str, int]:
        """NMT's categories; a JVM that does not answer is not asked again, and that is said."""
        if not self._asks:
            return {}
        try:
            if self._jvm is None:
                self._jvm = Attached(self.options.pid)
            said = ask_categories(self._jvm)
        except TargetGoneError:
            raise
        except NativeleakError as error:
            self._asks = False
            self._viewer.say(f"the JVM is not asked: {error.what}")
            return {}
        if not said:
            self._asks = False
            self._viewer.say("the JVM does not track its native memory: start it with -XX:NativeMemoryTracking=summary")
        return said

    def _keep(self, ring: Ring, *, is_read: bool) -> None:
        """Keep the moment for the file, and give a line where it is time for one."""
        is_line = is_read or self.status.elapsed_s >= self._next_line_s
        if is_line and (self._held_row is None or self.status.elapsed_s - self._held_s >= _LOOK_S):
            self._held_s = self.status.elapsed_s
            self._held_row = next((row for row in self._sums.rows() if row.name == HELD), None)
        entry: dict[str, Any] = as_json.reading(self) if is_read else as_json.status(self.status)
        ring.add(self.status.elapsed_s, entry)
        if is_line:
            self._next_line_s = self.status.elapsed_s + self.options.every_s * 0.99
            self._viewer.line(self)
        if self.status.elapsed_s >= self._next_write_s:
            self._next_write_s = self.status.elapsed_s + _WRITE_EVERY_S
            self._write(ring)

    def _alarm(self, alarm: Alarm, actions: Actions, ring: Ring) -> None:
        entry = as_json.alarm(self.status, alarm)
        ring.add(self.status.elapsed_s, entry)
        self._viewer.event(entry)
        self._viewer.warn(alarm.text)
        for text in actions.start(alarm, self.status):
            self._say(text, ring)

    def _say(self, text: str, ring: Ring) -> None:
        entry = as_json.note(self.elapsed_s, text)
        ring.add(self.elapsed_s, entry)
        self._viewer.event(entry)
        self._viewer.say(text)

    def _interrupt(self) -> None:
        self.reason = self.reason or "interrupted"

    def _write(self, ring: Ring) -> None:
        """Write the file; a full disk is said once and ends nothing."""
        try:
            ring.write()
            self._may_write = True
        except NativeleakError as error:
            if self._may_write:
                self._viewer.warn(error.what)
            self._may_write = False

    def _finish(self, ring: Ring) -> None:
        ring.add(self.elapsed_s, as_json.end(self))
        self._write(ring)
        self._viewer.end(self)


def _has_ended(pidfd: int, timeout_s: float = 0.0) -> bool:
    with select.epoll() as poll:
        poll.register(pidfd, select.EPOLLIN)
        return bool(poll.poll(timeout_s))
