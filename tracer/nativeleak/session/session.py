"""One trace: open the engine, start it, let it work, take snapshots, record them, end in order.

Scope: the loop, and that every way out ends in the same place: nothing attached, the recording whole. The engine
decides what it observes. The report is made by another process (``reports/``), so that this one stays small on a
machine that has no memory left.
"""

from __future__ import annotations

import contextlib
import gc
import math
import os
import platform
import select
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from nativeleak import __version__, arch
from nativeleak.engines.base import Engine
from nativeleak.engines.options import TraceOptions
from nativeleak.engines.registry import EngineSpec
from nativeleak.ledger.slices import slice_seconds
from nativeleak.model import Snapshot, Stack, TargetEnd, TraceInfo
from nativeleak.process import procfs
from nativeleak.process.oom import prefer_as_oom_victim
from nativeleak.recording.writer import RecordingWriter
from nativeleak.session.memory import MemoryWatch
from nativeleak.session.offspring import Offspring
from nativeleak.session.priority import lowered_priority
from nativeleak.session.reporter import Reporter
from nativeleak.session.signals import interrupts
from nativeleak.session.targets import Targets
from nativeleak.units import format_bytes, format_duration

_TICK_S: Final = 0.05
"""Shortest time between two looks at what the engine has waiting: the ring buffer holds some 20,000 events."""
_REST_S: Final = 0.2
"""The same where little happens. Urgent work is looked for at each tick at first, then once."""
_IDLE_S: Final = 0.5
_GARBAGE_THRESHOLDS: Final = (20_000, 50, 100)
"""The recorder's heap grows and has almost no reference cycles.

Full collections cost 12 % of its time at 10,000 sites.
"""
_NEAR_BOUND: Final = 0.95
"""Share of ``--max-memory`` at which nothing more is recorded."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """The recording of a trace at its end.

    Attributes:
        path: Its file.
        content: The recording itself, where its file could not be written to the end; None where it could.
    """

    path: Path
    content: bytes | None = None


class Session:
    """A trace under way: the sink of its engine.

    Args:
        options: What to do.
        spec: By which engine.
        reporter: Shows how it goes.
        notice: Said once the engine is open; empty for nothing.

    Attributes:
        has_begun: Whether the window is or was open.
    """

    def __init__(self, options: TraceOptions, spec: EngineSpec, reporter: Reporter, notice: str = "") -> None:
        self.options = options
        self.has_begun = False
        self._spec, self._reporter, self._notice = spec, reporter, notice
        self._engine: Engine | None = None
        self._writer: RecordingWriter | None = None
        self._memory: MemoryWatch | None = None
        self._last: Snapshot | None = None
        self._offspring = Offspring(options.pids)
        self._stop = ""
        self._hurry: Callable[[], None] = lambda: None
        self._tick_s = _TICK_S
        self._told_failure = False
        self._is_frozen = False

    @property
    def engine(self) -> Engine:
        """The engine at work."""
        if self._engine is None:
            raise RuntimeError("no engine is open")
        return self._engine

    @property
    def _recording(self) -> RecordingWriter:
        if self._writer is None:
            raise RuntimeError("there is no recording yet")
        return self._writer

    def run(self) -> Recorded:
        """Trace until the duration is over, all targets have ended, or a signal comes; then record the last snapshot.

        Raises:
            NativeleakError: It could not begin.
        """
        with contextlib.ExitStack() as stack:
            targets = stack.enter_context(Targets(self.options.pids, any_width=self._spec.any_width))
            prefer_as_oom_victim(self.options.pids)
            with targets.told_if_gone():
                engine = self._engine = self._spec.open(self.options, targets.infos, self)
            stack.callback(engine.close)
            self._announce()
            wakeup = stack.enter_context(interrupts(self._interrupt))
            self._writer = stack.enter_context(
                RecordingWriter(
                    self.options.output, self._trace_info(), targets=targets.infos, overwrite=self.options.overwrite
                )
            )
            try:
                self._look_at_children()
                with targets.told_if_gone():
                    engine.start()
                self.has_begun = True
                self._recording.window_opened(time.time() - engine.elapsed_s)
                self._memory = stack.enter_context(MemoryWatch(engine))
                self._reporter.attached(self._headline(), engine.details, self.options.duration_s)
                self._say_what_is_missing()
                self._warn_of_children()
                # The budget does not count the CPU time of this process, which the target lacks where cores are scarce.
                wanted = engine.may_yield and bool(self.options.budget.max_overhead_pct)
                with lowered_priority(wanted=wanted, for_s=self._left_s()) as self._hurry:
                    gc.freeze()
                    gc.set_threshold(*_GARBAGE_THRESHOLDS)
                    self._loop(targets.slots, wakeup)
                return self._end()
            except BaseException:
                if self._last is None:
                    self._discard_recording()
                raise

    # What the engine finds

    def add_stacks(self, stacks: Sequence[Stack]) -> None:
        """Record new stacks."""
        if self._writer is not None:
            self._writer.add_stacks(stacks)

    def note(self, what: str, text: str, *, is_shown: bool = True) -> None:
        """Record a note; show it at once if that is wanted."""
        if self._writer is not None:
            self._writer.add_event(self.engine.elapsed_s, what, text)
        if is_shown:
            self._reporter.note(text)

    # The beginning

    def _announce(self) -> None:
        if self._notice:
            self._reporter.warn(self._notice)
        if self._spec.warning:
            duration = format_duration(self.options.duration_s or 0.0)
            self._reporter.warn(f"warning: {self._spec.warning.format(duration=duration)}")

    def _say_what_is_missing(self) -> None:
        lost = self.engine.coverage.not_available
        if lost and not self._notice:
            self._reporter.note(f"engine {self._spec.name}; not available: {lost}")
        if self.options.keeps_blocks and not (self.engine.coverage.has_blocks and "malloc" in self.engine.probes):
            self.note("blocks", f"no addresses of blocks are recorded: {self._spec.name} sees no heap blocks here")

    def _headline(self) -> str:
        targets = ", ".join(f"PID {info.pid} ({info.comm})" for info in self.engine.targets)
        duration_s = self.options.duration_s
        how_long = f"for {format_duration(duration_s)}" if duration_s else "until Ctrl-C"
        return f"tracing {targets} {how_long}: {self.engine.headline}; recording to {self.options.output}"

    def _trace_info(self) -> TraceInfo:
        options, engine = self.options, self.engine
        info = TraceInfo(
            version=__version__,
            started=time.time(),
            backend=self._spec.backend,
            kernel=platform.release(),
            machine=arch.here().name,
            boot_id=procfs.read_boot_id(),
            probes=engine.probes,
            options=options.given,
            coverage=engine.coverage,
            host=platform.node(),
        )
        if not engine.coverage.has_blocks:
            return info
        return replace(
            info,
            min_size=options.min_size,
            max_size=options.max_size,
            sample_bytes=options.budget.sample_bytes,
            slice_s=slice_seconds(0),
        )

    # The loop

    def _interrupt(self) -> None:
        self._stop = self._stop or "interrupted"
        self._hurry()

    def _left_s(self) -> float | None:
        duration_s = self.options.duration_s
        return None if duration_s is None else duration_s - self.engine.elapsed_s

    def _loop(self, slots: dict[int, int], wakeup: int) -> None:
        """Until there is a reason to stop.

        Args:
            slots: Descriptor that is readable once a target has ended -> slot.
            wakeup: Descriptor that a signal makes readable.
        """
        engine, options = self.engine, self.options
        next_snapshot_s, idle_s = options.interval_s, _IDLE_S
        with contextlib.ExitStack() as stack:
            poll, resting = (stack.enter_context(select.epoll()) for _ in range(2))
            for fd in (wakeup, *slots):
                poll.register(fd, select.EPOLLIN)
                resting.register(fd, select.EPOLLIN)
            for fd in engine.fds:
                poll.register(fd, select.EPOLLIN)
            while not self._stop:
                deadline_s = min(next_snapshot_s, math.inf if options.duration_s is None else options.duration_s)
                timeout_s = min(_IDLE_S, idle_s, max(0.0, deadline_s - engine.elapsed_s))
                has_work = self._wait(poll, timeout_s, slots, wakeup)
                idle_s = engine.work()
                elapsed_s = engine.elapsed_s
                if reason := self._reason_to_stop(elapsed_s):
                    # Nothing but a reason may be written: a signal may have set one since the last look.
                    self._stop = self._stop or reason
                if not self._stop and elapsed_s >= next_snapshot_s:
                    self._record(engine.snapshot())
                    next_snapshot_s += options.interval_s * max(
                        1, -(-(elapsed_s - next_snapshot_s) // options.interval_s)
                    )
                self._reporter.tick(elapsed_s, engine.progress)
                if has_work and not self._stop:
                    self._rest(resting, min(_REST_S, timeout_s))
            # A target may have ended just before the signal came.
            self._wait(poll, 0.0, slots, wakeup)

    def _reason_to_stop(self, elapsed_s: float) -> str:
        engine, duration_s = self.engine, self.options.duration_s
        if engine.ended:
            return engine.ended
        if all(info.end is not TargetEnd.RUNNING for info in engine.targets):
            return "target ended"
        return "duration" if duration_s is not None and elapsed_s >= duration_s else ""

    def _wait(self, poll: select.epoll, timeout_s: float, slots: dict[int, int], wakeup: int) -> bool:
        """Wait until something happens; tell the engine of a target that has ended. False when nothing has happened."""
        started_s = time.monotonic()
        ready = poll.poll(timeout_s)
        if time.monotonic() - started_s > _TICK_S:
            self._tick_s = _TICK_S  # what comes after a silence may be much
        for fd, _ in ready:
            if fd == wakeup:
                os.read(wakeup, 64)
            elif fd in slots:
                poll.unregister(fd)
                self.engine.target_exited(slots[fd])
        return bool(ready)

    def _rest(self, poll: select.epoll, rest_s: float) -> None:
        """Do nothing for a time, or until a target ends, a signal comes, or the engine has urgent work."""
        until_s = time.monotonic() + rest_s
        while (left_s := until_s - time.monotonic()) > 0:
            is_urgent = self.engine.is_urgent()
            ended = [] if is_urgent else poll.poll(min(self._tick_s, left_s))
            for fd, _ in ended:
                poll.unregister(fd)  # it stays readable
            if ended or is_urgent:
                self._tick_s = _TICK_S
                break
            self._tick_s = min(_REST_S, 2 * self._tick_s)

    # The recording

    def _look_at_children(self) -> None:
        if not self.options.inputs:
            self._offspring.look()

    def _warn_of_children(self) -> None:
        for pid in self.options.pids:
            if text := self._offspring.warning(pid):
                self.note("children", text)

    def _record(self, snapshot: Snapshot) -> None:
        if self._memory is not None:
            snapshot = self._memory.add_to(snapshot)
        self._look_at_children()
        snapshot = replace(snapshot, targets=self._offspring.added_to(snapshot.targets))
        self._last = snapshot
        self._look_at_memory()
        self._recording.write_snapshot(snapshot)
        self._tell_failure()

    def _look_at_memory(self) -> None:
        """An engine's own limits keep it inside the bound; where they do not, nothing more is taken in."""
        bound_bytes = self.options.budget.max_memory_bytes
        if not bound_bytes or self._is_frozen or self._stop:
            return
        used_bytes = self.engine.memory_bytes()
        if used_bytes > _NEAR_BOUND * bound_bytes:
            self._is_frozen = True
            self.engine.freeze(f"{format_bytes(used_bytes)}, near to --max-memory {format_bytes(bound_bytes)}")

    def _end(self) -> Recorded:
        """Stop the engine, then record what no longer moves."""
        engine = self.engine
        if self._memory is not None:
            self._memory.look_last()
        # What is allocated after this moment must not count, or rates are too high: the engine stops at once.
        elapsed_s = engine.elapsed_s
        engine.stop()
        self._record(replace(engine.snapshot(final=True), elapsed_s=elapsed_s))
        self._recording.finish(self._stop, elapsed_s, self._offspring.added_to(engine.targets))
        self._tell_failure()
        return Recorded(self.options.output, self._recording.serialize() if self._recording.failed else None)

    def _tell_failure(self) -> None:
        if self._recording.failed and not self._told_failure:
            self._told_failure = True
            self._reporter.note(
                f"recording to {self.options.output} failed: {self._recording.failed}; tracing goes on in memory"
            )

    def _discard_recording(self) -> None:
        """A recording without a snapshot is none."""
        if not self._recording.failed:
            with contextlib.suppress(OSError):
                self.options.output.unlink()
