"""A trace by an engine without BPF: watch, record, detach; and of output that was recorded by other programs.

The same recording and the same report as ``run.py``; only who observes is another.
"""

from __future__ import annotations

import contextlib
import os
import platform
import select
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Final, Protocol

from nativeleak import __version__
from nativeleak.engines.names import EngineName
from nativeleak.engines.pmap.engine import PmapEngine
from nativeleak.engines.strace.engine import DEFAULT_DURATION_S, StraceEngine
from nativeleak.engines.userspace import TracedProcess, WatchEngine
from nativeleak.errors import NativeleakError, NoTargetError
from nativeleak.model import Snapshot, Stack, TargetEnd, TargetInfo, TraceInfo
from nativeleak.process import procfs
from nativeleak.process.check import check_target
from nativeleak.process.jvm import read_jvm_version
from nativeleak.recording.writer import RecordingWriter
from nativeleak.session.run import TraceOptions
from nativeleak.session.signals import interrupts
from nativeleak.units import format_bytes, format_duration

_IDLE_S: Final = 0.25
_LINE_EVERY_S: Final = 60.0


class Teller(Protocol):
    """Who is told how the trace goes, in lines."""

    def say(self, text: str) -> None:
        """One line of progress."""

    def warn(self, text: str) -> None:
        """One line that is not to be missed."""


class Replay(Protocol):
    """Output of another program, read to its end.

    Attributes:
        backend: ``tool.backend`` of the report.
        probes: What it saw.
        started: When it began, seconds since 1970.
        duration_s: From the first to the last of it.
    """

    backend: str
    probes: tuple[str, ...]
    started: float
    duration_s: float

    def take_notes(self) -> list[tuple[str, str]]:
        """(word, sentence) of what was found, each once."""

    def take_stacks(self) -> list[Stack]:
        """Stacks seen for the first time since the last call."""

    def snapshots(self, interval_s: float) -> Iterable[Snapshot]:
        """Everything as it was, again and again; at least once."""


def check_targets(pids: Iterable[int]) -> list[TargetInfo]:
    """Facts of the processes to watch.

    Raises:
        NativeleakError: One of them is none, or may not be watched.
    """
    found = []
    for slot, pid in enumerate(pids):
        facts = check_target(pid, any_width=True)
        version = read_jvm_version(pid, procfs.read_maps(pid)) if facts.jvm else None
        found.append(TargetInfo(slot, pid, facts.comm, facts.exe, version))
    return found


class FallbackTrace:
    """A trace under way; what ``cli/trace.py`` needs of it is the same as of ``run.Trace``.

    Args:
        options: What to do; ``duration_s`` is the caller's to limit.
        engine: Who observes; closed with this.
        teller: Who is told.

    Attributes:
        has_begun: Whether the window is or was open.
    """

    def __init__(self, options: TraceOptions, engine: WatchEngine, teller: Teller) -> None:
        self.options = options
        self.writer: RecordingWriter | None = None
        self.recording: bytes | None = None
        self._engine = engine
        self._teller = teller
        self._stop = ""
        self._last: Snapshot | None = None
        self._next_line_s = _LINE_EVERY_S
        self._told_failure = False
        self.has_begun = False

    @property
    def elapsed_s(self) -> float:
        """Seconds since the window opened."""
        return self._engine.elapsed_s()

    def run(self) -> None:
        """Trace until the duration is over, all targets have ended, or a signal comes; then record the last snapshot.

        Raises:
            NativeleakError: It could not begin.
        """
        engine = self._engine
        with contextlib.ExitStack() as stack:
            stack.callback(engine.close)
            exits = self._watch_exits(stack)
            wakeup = stack.enter_context(interrupts(self._interrupt))
            self.writer = stack.enter_context(
                RecordingWriter(
                    self.options.output,
                    trace_info(self.options, engine),
                    targets=[process.info for process in engine.processes],
                    overwrite=self.options.overwrite,
                )
            )
            try:
                engine.start()
                self.has_begun = True
                self._teller.say(self._headline())
                self._loop(exits, wakeup)
                self._end()
            except BaseException:
                if self._last is None and not self.writer.failed:
                    with contextlib.suppress(OSError):
                        self.options.output.unlink()
                raise

    def _interrupt(self) -> None:
        self._stop = self._stop or "interrupted"

    def _watch_exits(self, stack: contextlib.ExitStack) -> dict[int, TracedProcess]:
        exits = {}
        for process in self._engine.processes:
            pid = process.info.pid
            try:
                pidfd = os.pidfd_open(pid)
            except ProcessLookupError as error:
                raise NoTargetError(f"trace of PID {pid} failed: no such process") from error
            stack.callback(os.close, pidfd)
            exits[pidfd] = process
        return exits

    def _loop(self, exits: dict[int, TracedProcess], wakeup: int) -> None:
        engine, duration_s = self._engine, self.options.duration_s
        next_snapshot_s = self.options.interval_s
        while not self._stop:
            deadline_s = next_snapshot_s if duration_s is None else min(next_snapshot_s, duration_s)
            self._wait(exits, wakeup, min(_IDLE_S, max(0.0, deadline_s - self.elapsed_s)))
            engine.work()
            self._tell()
            elapsed_s = self.elapsed_s
            if engine.ended:
                self._stop = engine.ended
            elif all(process.is_over for process in engine.processes):
                self._stop = "target ended"
            elif duration_s is not None and elapsed_s >= duration_s:
                self._stop = "duration"
            elif elapsed_s >= next_snapshot_s:
                self._record(engine.snapshot())
                n_missed = max(1, -(-(elapsed_s - next_snapshot_s) // self.options.interval_s))
                next_snapshot_s += self.options.interval_s * n_missed

    def _wait(self, exits: dict[int, TracedProcess], wakeup: int, timeout_s: float) -> None:
        """Wait until there is something to do; a target that has ended is taken note of."""
        with select.epoll() as poll:
            # What an engine that prints has to say of an end says more: it is waited for.
            for fd in (wakeup, *(self._engine.fds or exits)):
                poll.register(fd, select.EPOLLIN)
            ready = [fd for fd, _ in poll.poll(timeout_s)]
        if wakeup in ready:
            os.read(wakeup, 64)
        for fd in ready:
            if fd in exits:
                exits.pop(fd).end(TargetEnd.EXITED)

    def _tell(self) -> None:
        assert self.writer is not None  # noqa: S101
        for what, text in self._engine.take_notes():
            self.writer.add_event(self.elapsed_s, what, text)
            if what != "engine":
                self._teller.say(text)
        self.writer.add_stacks(self._engine.take_stacks())
        if self.elapsed_s >= self._next_line_s:
            self._next_line_s += _LINE_EVERY_S
            self._teller.say(self._progress())

    def _end(self) -> None:
        assert self.writer is not None  # noqa: S101
        elapsed_s = self.elapsed_s
        self._engine.stop()
        self._tell()
        for process in self._engine.processes:
            if text := _end_of(process):
                self.writer.add_event(elapsed_s, "exit", text)
                self._teller.say(text)
        self._record(replace(self._engine.snapshot(), elapsed_s=elapsed_s))
        self.writer.finish(self._stop, elapsed_s, [process.info for process in self._engine.processes])
        if self.writer.failed:
            self.recording = self.writer.serialize()

    def _record(self, snapshot: Snapshot) -> None:
        assert self.writer is not None  # noqa: S101
        self._last = snapshot
        self.writer.add_stacks(self._engine.take_stacks())
        self.writer.write_snapshot(snapshot)
        if self.writer.failed and not self._told_failure:
            self._told_failure = True
            self._teller.say(
                f"recording to {self.options.output} failed: {self.writer.failed}; tracing goes on in memory"
            )

    def _headline(self) -> str:
        targets = ", ".join(f"PID {p.info.pid} ({p.info.comm})" for p in self._engine.processes)
        duration_s = self.options.duration_s
        how_long = f"for {format_duration(duration_s)}" if duration_s else "until Ctrl-C"
        return f"tracing {targets} {how_long}: by {self._engine.backend}; recording to {self.options.output}"

    def _progress(self) -> str:
        duration_s = self.options.duration_s
        elapsed = format_duration(int(self.elapsed_s))
        rss_bytes = sum(process.read_rss() for process in self._engine.processes)
        n_bytes = sum(
            end - start for process in self._engine.processes for start, end, _ in process.space.outstanding_ranges()
        )
        whole = f" of {format_duration(duration_s)}" if duration_s else ""
        return f"{elapsed}{whole}, RSS {format_bytes(rss_bytes)}, outstanding {format_bytes(n_bytes)}"


class Rerun:
    """Makes a recording of output that another program has recorded.

    Args:
        options: ``output``, ``interval_s`` and ``overwrite`` are used.
        replay: The output.
        teller: Who is told.
    """

    def __init__(self, options: TraceOptions, replay: Replay, teller: Teller) -> None:
        self.options = options
        self.writer: RecordingWriter | None = None
        self.recording: bytes | None = None
        self._replay = replay
        self._teller = teller

    @property
    def has_begun(self) -> bool:
        """Whether anything was written."""
        return self.writer is not None

    def run(self) -> None:
        """Read it all.

        Raises:
            NativeleakError: It is not what it was taken for.
        """
        info = replace(trace_info(self.options, self._replay), started=self._replay.started)
        with RecordingWriter(self.options.output, info, overwrite=self.options.overwrite) as self.writer:
            last: Snapshot | None = None
            try:
                for last in self._replay.snapshots(self.options.interval_s):
                    self.writer.add_stacks(self._replay.take_stacks())
                    for what, text in self._replay.take_notes():
                        self.writer.add_event(last.elapsed_s, what, text)
                        self._teller.say(text)
                    self.writer.write_snapshot(last)
            except BaseException:
                with contextlib.suppress(OSError):
                    self.options.output.unlink()
                raise
            if last is None:
                raise NativeleakError("reading the recorded output failed: there is nothing in it")
            self.writer.finish("end of input", last.elapsed_s, last.targets)
            if self.writer.failed:
                self.recording = self.writer.serialize()


def make_fallback(engine: EngineName, options: TraceOptions, teller: Teller, fallen: str) -> FallbackTrace:
    """A trace by strace or pmap.

    Args:
        engine: Which.
        options: What to do.
        teller: Who is told.
        fallen: That it is not the engine that was wanted, and why; empty where it is.

    Raises:
        NativeleakError: The engine cannot work here, or the processes cannot be watched.
    """
    targets = check_targets(options.pids)
    watcher = StraceEngine(targets) if engine is EngineName.STRACE else PmapEngine(targets)
    if fallen:
        teller.warn(fallen)
    if isinstance(watcher, StraceEngine):
        options = _bounded(options)
        teller.warn(cost_warning(watcher, options.duration_s or 0.0))
    return FallbackTrace(options, watcher, teller)


def _bounded(options: TraceOptions) -> TraceOptions:
    if options.duration_s is not None:
        return options
    interval_s = min(options.interval_s, DEFAULT_DURATION_S / 20)
    return replace(options, duration_s=DEFAULT_DURATION_S, interval_s=interval_s)


def cost_warning(engine: StraceEngine, duration_s: float) -> str:
    """What strace costs the target, said before it begins."""
    stacks = "; where it maps memory its stack is walked too, for milliseconds" if engine.has_stacks else ""
    return (
        "warning: strace stops a thread twice at every system call, for tens of microseconds"
        f"{stacks}: the target runs slower for {format_duration(duration_s)}"
    )


def trace_info(options: TraceOptions, source: WatchEngine | Replay) -> TraceInfo:
    """Facts of a trace that starts now."""
    return TraceInfo(
        version=__version__,
        started=time.time(),
        backend=source.backend,
        kernel=platform.release(),
        machine=platform.machine(),
        boot_id=procfs.read_boot_id(),
        probes=source.probes,
        options=options.given,
    )


def _end_of(process: TracedProcess) -> str:
    info = process.info
    if info.end is TargetEnd.KILLED:
        return f"PID {info.pid} was ended by signal {info.end_signal}"
    return f"PID {info.pid} ended by itself" if info.end is TargetEnd.EXITED else ""
