"""One trace: check the targets, choose probes, attach, collect, record, detach.

Scope: the order of things, and that every way out ends in the same place: nothing attached, the recording whole. The
report is made by another process (``reports/``), so that this one stays small on a machine that has no memory left.
"""

from __future__ import annotations

import contextlib
import gc
import math
import os
import platform
import select
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Final, Protocol

from nativeleak import __version__
from nativeleak.engines.bpf.budget.calibration import Calibration, calibrate
from nativeleak.engines.bpf.budget.controller import BudgetController
from nativeleak.engines.bpf.budget.governor import EXACT, Governor
from nativeleak.engines.bpf.budget.governor import Plan as BudgetPlan
from nativeleak.engines.bpf.budget.memory import limits_within
from nativeleak.engines.bpf.collector import Collector
from nativeleak.engines.bpf.java import open_java
from nativeleak.engines.bpf.kernel import abi
from nativeleak.engines.bpf.kernel.programs import AttachMode, Limits, Loader, Programs, SyscallHooks
from nativeleak.engines.bpf.targets import TargetState
from nativeleak.engines.names import EngineName
from nativeleak.errors import CannotTraceError, MendableError, NativeleakError, NoTargetError
from nativeleak.frames.headline import headline_frame
from nativeleak.ledger.slices import slice_seconds
from nativeleak.model import Level, Snapshot, TargetInfo, TraceInfo
from nativeleak.probes.cache import PlacementCache
from nativeleak.probes.emulation import CONSERVATIVE, measure_emulated
from nativeleak.probes.families import ALL_NAMES, CallKind, choose_points
from nativeleak.probes.placement import place
from nativeleak.probes.returns import Plan, Returns, plan_returns
from nativeleak.probes.wrappers import find_wrappers
from nativeleak.process import procfs
from nativeleak.process.check import TargetFacts, check_target
from nativeleak.process.jvm import read_jvm_version
from nativeleak.process.mapped import MappedObject, executable_objects
from nativeleak.process.oom import prefer_as_oom_victim
from nativeleak.process.pidns import read_inner_pid_namespace
from nativeleak.recording.writer import RecordingWriter
from nativeleak.session.priority import lowered_priority
from nativeleak.session.signals import interrupts
from nativeleak.symbols.functions import find_function_offsets
from nativeleak.symbols.source import ElfError
from nativeleak.units import format_bytes
from nativeleak.unwind.tables import UnwindTables

_TICK_S: Final = 0.05
"""Shortest time between two looks at the ring buffer: it holds some 20,000 events."""
_REST_S: Final = 0.2
"""The same where little happens; what waits and what has been spent is glanced at each tick at first, then once."""
_IDLE_S: Final = 0.5
_NAMING_S: Final = 0.02
"""Longest time for names of new stacks between two looks at everything else."""
_NAMING_SHARE: Final = 0.1
"""Of the time, at most, that goes to names: a JVM that starts needs all cores, and makes most of its stacks then.

With a budget no more than that.
"""
_GARBAGE_THRESHOLDS: Final = (20_000, 50, 100)
"""Next to none of what the recorder keeps is in cycles, and it only grows: to look through all of it takes an eighth of
its time where there are ten thousand sites.
"""
_NEAR_BOUND: Final = 0.95
"""Share of ``--max-memory`` at which nothing more is recorded."""
_GONE_S: Final = 0.2
"""From the loss of its mappings to the end of a process."""


class Unwind(StrEnum):
    """How native stacks are walked."""

    AUTO = "auto"
    FP = "fp"
    TABLES = "tables"


@dataclass(frozen=True, slots=True)
class TraceOptions:
    """What the command line asks for. Sizes in bytes, times in seconds.

    Attributes:
        duration_s: None: until interrupted or the target ends.
        sample_bytes: Mean bytes from one sampled heap block to the next; 0: every block is kept.
        sample_above: Blocks of this size or more are always kept; 0: as ``sample_bytes``.
        max_memory_bytes: Of this process and its maps in the kernel together; 0: as ``limits`` allow.
        max_overhead_pct: What the probes may take: see ``governor.py``; 0: no limit.
        maps_only: No allocator probes: mmap and brk only.
        calls: Ways to see system calls that may be tried.
        loader: Of an engine that runs our BPF programs.
        engine: Who observes.
        inputs: Output of other programs to read instead of tracing.
        returns: How the ends of calls are seen.
    """

    pids: tuple[int, ...]
    output: Path
    duration_s: float | None = None
    interval_s: float = 10.0
    min_size: int = 0
    max_size: int = 0
    sample_bytes: int = 0
    sample_above: int = 0
    max_overhead_pct: float = 0.0
    max_memory_bytes: int = 0
    max_depth: int = 127
    unwind: Unwind = Unwind.AUTO
    limits: Limits = field(default_factory=Limits)
    maps_only: bool = False
    overwrite: bool = False
    modes: tuple[AttachMode, ...] = tuple(AttachMode)
    calls: tuple[SyscallHooks, ...] = tuple(SyscallHooks)
    loader: Loader = Loader.LIBBPF
    given: dict[str, str] = field(default_factory=dict)
    engine: EngineName = EngineName.AUTO
    inputs: tuple[Path, ...] = ()
    returns: Returns = Returns.AUTO


class Observer(Protocol):
    """Who is told how the trace goes: the live view, or lines on stderr."""

    def attached(self, trace: Trace) -> None:
        """All probes are in place and the window is open."""

    def tick(self, trace: Trace) -> None:
        """Called several times a second."""

    def note(self, text: str) -> None:
        """Something that the user should know at once."""


class Trace:
    """A trace under way.

    Args:
        options: What to do.
        observer: Who is told.
    """

    def __init__(self, options: TraceOptions, observer: Observer) -> None:
        self.options = options
        self.observer = observer
        self.collector = Collector(self._on_stacks, self._on_note, headline_frame)
        self.writer: RecordingWriter | None = None
        self.last_snapshot: Snapshot | None = None
        self.end_reason = ""
        self.recording: bytes | None = None
        self._stop: str | None = None
        self._recording_failed = False
        self._is_frozen = False
        self._naming_from_s = 0.0
        self._tick_s = _TICK_S
        self._naming_share = min(_NAMING_SHARE, options.max_overhead_pct / 100 or _NAMING_SHARE)
        self._probed: set[tuple[int, tuple[str, int]]] = set()
        self._calibration: Calibration | None = None
        self._slow_kinds: set[CallKind] = set()
        self._watch: BudgetController | None = None
        self._tables: UnwindTables | None = None
        self._emulated = CONSERVATIVE
        self._uses_tables = (
            options.unwind is not Unwind.FP and platform.machine() == "x86_64" and options.loader is Loader.LIBBPF
        )

    # What the observer reads

    @property
    def has_begun(self) -> bool:
        """Whether the window is or was open."""
        return self.elapsed_s > 0

    @property
    def elapsed_s(self) -> float:
        """Seconds since the window opened."""
        return self.collector.elapsed_s()

    @property
    def allocators(self) -> list[str]:
        """Objects whose allocator functions are probed."""
        return sorted({name for state in self.collector.targets.values() for name in state.info.allocators})

    @property
    def watch(self) -> BudgetController:
        """How the targets are watched."""
        if self._watch is None:
            raise RuntimeError("the trace has not begun")
        return self._watch

    @property
    def tables(self) -> UnwindTables:
        """Unwind tables of the targets."""
        if self._tables is None:
            raise RuntimeError("the trace has not begun")
        return self._tables

    # The trace

    def run(self) -> None:
        """Trace until the duration is over, all targets have ended, or a signal comes; then record the last snapshot.

        Raises:
            NativeleakError: It could not begin.
        """
        for pid in self.options.pids:
            _refuse_below_inner_namespace(check_target(pid))
        with contextlib.ExitStack() as stack:
            limits = self._limits()
            engine = stack.enter_context(
                Programs(limits, self.collector.on_event, self.options.modes, self.options.loader, self.options.calls)
            )
            # A caller of munmap takes a sixth of what a site does: inside a bound they get a part of the sites' share.
            n_unmap_sites = limits.n_sites // 4 if self.options.max_memory_bytes else limits.n_sites
            self.collector.bind(engine, n_unmap_sites)
            stack.callback(self.collector.close)
            self._tables = UnwindTables(engine, self._on_note)
            stack.callback(self._tables.close)
            exits = self._take_targets(stack)
            wakeup = stack.enter_context(interrupts(self._interrupt))
            self.writer = stack.enter_context(
                RecordingWriter(
                    self.options.output,
                    self._trace_info(),
                    targets=[state.info for state in self.collector.targets.values()],
                    overwrite=self.options.overwrite,
                )
            )
            try:
                with _told_if_gone(exits):
                    self._begin(engine)
                stack.callback(self.watch.close)
                # Its own work is none of what the budget counts, but takes from the target where cores are scarce.
                with lowered_priority(wanted=bool(self.options.max_overhead_pct)):
                    gc.freeze()
                    gc.set_threshold(*_GARBAGE_THRESHOLDS)
                    self._loop(engine, exits, wakeup)
                self._end(engine)
            except BaseException:
                if self.last_snapshot is None:
                    self._discard_recording()
                raise

    def _limits(self) -> Limits:
        bound_bytes = self.options.max_memory_bytes
        return (
            limits_within(self.options.limits, bound_bytes, procfs.read_rss(os.getpid()))
            if bound_bytes
            else self.options.limits
        )

    def _discard_recording(self) -> None:
        """A recording without a snapshot is none."""
        if self.writer is not None and not self.writer.failed:
            with contextlib.suppress(OSError):
                self.options.output.unlink()

    def _take_targets(self, stack: contextlib.ExitStack) -> dict[int, TargetState]:
        """Make the targets known; pidfd -> target, to see their ends."""
        exits = {}
        for slot, pid in enumerate(self.options.pids):
            facts = check_target(pid)
            try:
                pidfd = os.pidfd_open(pid)
            except ProcessLookupError as error:
                raise NoTargetError(f"trace of PID {pid} failed: no such process") from error
            stack.callback(os.close, pidfd)
            maps = procfs.read_maps(pid)
            info = TargetInfo(slot, pid, facts.comm, facts.exe, read_jvm_version(pid, maps) if facts.jvm else None)
            exits[pidfd] = self.collector.add_target(slot, facts, info)
        prefer_as_oom_victim(self.options.pids)
        return exits

    def _begin(self, engine: Programs) -> None:
        with contextlib.suppress(OSError):
            self._emulated = measure_emulated(engine.attached_to_ourselves)
        for state in self.collector.targets.values():
            target = abi.Target(
                min_size=self.options.min_size,
                max_size=self.options.max_size,
                max_depth=min(self.options.max_depth, abi.MAX_FRAMES),
                unwind=abi.Unwind.TABLES if self._uses_tables else abi.Unwind.FP,
            )
            _set_wrappers(target, state.facts.pid)
            engine.add_target(state.slot, state.facts.pid, target)
            if self._uses_tables:
                self.tables.add_target(state.slot, state.facts.pid)
                self._take_java(engine, state)
            self._probe_new_objects(engine, state)
            if not state.info.allocators and not self.options.maps_only:
                raise _no_allocator(state)
        self._calibration = self._calibrate(engine)
        self._watch = self._make_watch(engine)
        self.watch.count_before()
        self.collector.start_counters()
        for state in self.collector.targets.values():
            self.collector.open_window(state)
        self.watch.begin()
        # Objects mapped while the probes were attached.
        for state in self.collector.targets.values():
            self._probe_new_objects(engine, state)
        self.observer.attached(self)
        if self.options.loader is Loader.BCC:
            self.observer.note("BCC's programs walk stacks by frame pointers only, and not through Java frames")
        for note in engine.notes:
            self._on_note("engine", note)

    def _take_java(self, engine: Programs, state: TargetState) -> None:
        """Tell the kernel side where things lie in the target's JVM."""
        if not state.facts.jvm:
            return
        state.java, why = open_java(state.facts.pid)
        if state.java is not None:
            engine.set_java(state.slot, state.java.struct())
        if why:
            self._on_note("java", f"not all of PID {state.facts.pid}'s Java frames can be shown: {why}")

    def _probe_new_objects(self, engine: Programs, state: TargetState) -> None:
        """Probe every mapped object that defines allocator functions and is not probed yet."""
        state.new_code = False
        if self.options.maps_only:
            return
        try:
            maps = procfs.read_maps(state.facts.pid, executable_only=True)
        except NoTargetError:
            return
        for mapped in executable_objects(state.facts.pid, maps):
            if mapped.is_vdso or (state.slot, mapped.key) in self._probed:
                continue
            self._probed.add((state.slot, mapped.key))
            self._probe_object(engine, state, mapped)

    def _probe_object(self, engine: Programs, state: TargetState, mapped: MappedObject) -> None:
        try:
            plan = self._plan(mapped.file_path) if mapped.file_path else Plan(())
        except (ElfError, OSError):
            return
        for function, reason in plan.unseen:
            self._on_note("unseen", f"{function} of {mapped.path} is not seen: {reason}")
        placed = plan.functions
        if not placed:
            return
        if self._uses_tables:
            self.tables.finish(state.slot, mapped.key)
        where = state.slot, state.facts.pid, mapped.file_path, mapped.path
        engine.attach_at_exits(*where, plan.at_exits)
        engine.attach_functions(*where, plan.placed)
        for start, end, offset in mapped.ranges:
            state.leaf_names |= {
                start + probe.point.offset - offset: probe.point.function
                for probe in placed
                if offset <= probe.point.offset < offset + end - start
            }
        state.info = replace(state.info, allocators=(*state.info.allocators, mapped.name))
        slow = [probe.point.function for probe in placed if not probe.placement.emulated]
        slow += [probe.point.function for probe, places in plan.at_exits if any(each.exit.is_costly for each in places)]
        self._slow_kinds |= {probe.point.kind for probe in placed if not probe.placement.emulated}
        costs = f"; a second trap at each call of {', '.join(slow)}" if slow else ""
        self._on_note("probes", f"probed {len(placed)} allocator functions of {mapped.path}{costs}")

    def _plan(self, path: str, returns: Returns | None = None) -> Plan:
        points = choose_points(find_function_offsets(path, ALL_NAMES))
        if not points:
            return Plan(())
        cache = PlacementCache()
        placed = place(path, points, self._emulated, moved_arguments=True, cache=cache)
        return plan_returns(path, placed, returns or self.options.returns, self._emulated, cache)

    def _make_watch(self, engine: Programs) -> BudgetController:
        options, governor = self.options, None
        plan = BudgetPlan(Level.SAMPLED, options.sample_bytes) if options.sample_bytes else EXACT
        if options.maps_only:
            plan = BudgetPlan(Level.SYSCALLS)
        elif self._calibration is not None:
            costs = self._calibration.of(
                calls_stepped=CallKind.MALLOC in self._slow_kinds, frees_stepped=CallKind.FREE in self._slow_kinds
            )
            governor = Governor(options.max_overhead_pct or math.inf, costs, plan)
        return BudgetController(engine, self.collector, plan, options.sample_above, governor, self._on_note)

    def _calibrate(self, engine: Programs) -> Calibration | None:
        """What probes cost here; None where it cannot be measured, and then nothing is kept inside a budget."""
        for mapped in executable_objects(os.getpid(), procfs.read_maps(os.getpid())):
            try:
                plan = self._plan(mapped.file_path, Returns.PROBES) if mapped.file_path else Plan(())
                pair = [probe for probe in plan.placed if probe.point.function in ("malloc", "free")]
                if pair:
                    return calibrate(engine, pair, mapped.file_path)
            except (ElfError, OSError, CannotTraceError):
                continue
        return None

    def _loop(self, engine: Programs, exits: dict[int, TargetState], wakeup: int) -> None:
        duration_s = self.options.duration_s
        next_snapshot_s = self.options.interval_s
        with contextlib.ExitStack() as stack:
            poll = stack.enter_context(select.epoll())
            for fd in (engine.epoll_fd, wakeup, *exits):
                poll.register(fd, select.EPOLLIN)
            resting = stack.enter_context(select.epoll())
            for fd in (wakeup, *exits):
                resting.register(fd, select.EPOLLIN)
            while self._stop is None:
                deadline_s = next_snapshot_s if duration_s is None else min(next_snapshot_s, duration_s)
                timeout_s = min(_IDLE_S, max(0.0, deadline_s - self.elapsed_s))
                has_work = self._wait(poll, timeout_s, engine, exits, wakeup)
                self._work(engine)
                elapsed_s = self.elapsed_s
                if all(state.is_over for state in self.collector.targets.values()):
                    self._stop = "target ended"
                elif duration_s is not None and elapsed_s >= duration_s:
                    self._stop = "duration"
                elif elapsed_s >= next_snapshot_s:
                    self._record_snapshot(self.collector.snapshot())
                    next_snapshot_s += self.options.interval_s * max(
                        1, -(-(elapsed_s - next_snapshot_s) // self.options.interval_s)
                    )
                self.observer.tick(self)
                if has_work:
                    self._rest(engine, resting, min(_REST_S, timeout_s))
            # A target may have ended just before the signal came.
            self._wait(poll, 0.0, engine, exits, wakeup)

    def _wait(
        self, poll: select.epoll, timeout_s: float, engine: Programs, exits: dict[int, TargetState], wakeup: int
    ) -> bool:
        """Wait until something happens; a target that has ended is taken note of. False when nothing has happened."""
        started_s = time.monotonic()
        ready = poll.poll(timeout_s)
        if time.monotonic() - started_s > _TICK_S:
            self._tick_s = _TICK_S  # what comes after a silence may be much
        for fd, _ in ready:
            if fd == wakeup:
                os.read(wakeup, 64)
            elif fd in exits:
                poll.unregister(fd)
                engine.consume()
                self.collector.target_exited(exits[fd])
        return bool(ready)

    def _rest(self, engine: Programs, poll: select.epoll, rest_s: float) -> None:
        """Do nothing for a time, or until a target ends, a signal comes, or events or costs pile up."""
        until_s = time.monotonic() + rest_s
        while time.monotonic() + _TICK_S <= until_s:
            ended = poll.poll(self._tick_s)
            for fd, _ in ended:
                poll.unregister(fd)  # it stays readable
            if ended or engine.is_filling or self.watch.is_burst():
                self._tick_s = _TICK_S
                break
            self._tick_s = min(_REST_S, 2 * self._tick_s)

    def _work(self, engine: Programs) -> None:
        """What is due many times a second."""
        engine.consume()
        for state in self.collector.targets.values():
            if state.new_code and not state.is_over:
                state.symbolizer.refresh_maps()
                self.tables.refresh(state.slot)
                self._probe_new_objects(engine, state)
        self._name_new_stacks()
        self.watch.look()  # each of these may take as long as a look is apart from a glance
        for slot, addresses in self.collector.namer.interrupted.items():
            self.tables.want_full(slot, addresses)
        self.collector.namer.interrupted.clear()
        self.tables.work()
        self.watch.look()
        self.collector.name_java_threads()
        self._read_java_again(engine)
        self.collector.keep_slices()
        self.watch.look()

    def _name_new_stacks(self) -> None:
        """Name new stacks, of many at once only a part: then the target has the machine to itself."""
        started_s = time.monotonic()
        if started_s < self._naming_from_s:
            self.collector.look_at_code(within_s=_NAMING_S)
            return
        self.collector.name_new_stacks(within_s=_NAMING_S)
        ended_s = time.monotonic()
        self._naming_from_s = ended_s + (ended_s - started_s) * (1 / self._naming_share - 1)

    def _read_java_again(self, engine: Programs) -> None:
        """Tell the walker of virtual threads where the JVM has only now made the code that tells of them."""
        for state in self.collector.targets.values():
            late = state.java.late_struct() if state.java is not None and not state.is_over else None
            if late is not None:
                engine.set_java(state.slot, late)

    def _end(self, engine: Programs) -> None:
        """Close the windows, take the probes away, then read what no longer moves."""
        self.end_reason = self._stop or ""
        for state in self.collector.targets.values():
            engine.close_window(state.slot)
        elapsed_s = self.elapsed_s
        windows = self.watch.windows()
        self.watch.close()
        started_s = time.monotonic()
        engine.detach()
        self._on_note("engine", f"detached the allocator probes in {1000 * (time.monotonic() - started_s):.0f} ms")
        engine.consume()
        self._record_snapshot(replace(self.collector.snapshot(final=True), elapsed_s=elapsed_s, windows=windows))
        if self.writer is not None:
            self.writer.finish(self.end_reason, elapsed_s, [s.info for s in self.collector.targets.values()])
            self._tell_recording_failure()
            if self.writer.failed:
                self.recording = self.writer.serialize()

    def _record_snapshot(self, snapshot: Snapshot) -> None:
        windows = snapshot.windows or self.watch.windows()
        hit_ns = self._calibration.hit_ns if self._calibration is not None else 0.0
        snapshot = replace(snapshot, probe_cost_ns=hit_ns, windows=windows)
        self.last_snapshot = snapshot
        self._look_at_memory()
        if self.writer is not None:
            self.writer.write_snapshot(snapshot)
            self._tell_recording_failure()

    def _look_at_memory(self) -> None:
        """The limits of the tables keep us inside the bound; where they do not, nothing more is taken in."""
        bound_bytes = self.options.max_memory_bytes
        if not bound_bytes or self._is_frozen or self.end_reason:
            return
        used_bytes = procfs.read_rss(os.getpid()) + self.collector.engine.map_memory_bytes()
        if used_bytes > _NEAR_BOUND * bound_bytes:
            self._is_frozen = True
            self.watch.freeze(
                f"recorder and kernel tables take {format_bytes(used_bytes)}, near to --max-memory"
                f" {format_bytes(bound_bytes)}: no more allocations are recorded, frees still are"
            )

    def _tell_recording_failure(self) -> None:
        if self.writer is not None and self.writer.failed and not self._recording_failed:
            self._recording_failed = True
            self.observer.note(
                f"recording to {self.options.output} failed: {self.writer.failed}; tracing goes on in memory"
            )

    def _on_stacks(self, stacks: Sequence[object]) -> None:
        if self.writer is not None:
            self.writer.add_stacks(stacks)  # type: ignore[arg-type]

    def _on_note(self, what: str, text: str) -> None:
        if self.writer is not None:
            self.writer.add_event(self.elapsed_s, what, text)
        if what in ("exec", "oom", "killed", "exit", "resync", "level", "memory"):
            self.observer.note(text)

    def _trace_info(self) -> TraceInfo:
        probes = ("mmap", "brk") if self.options.maps_only else ("malloc", "mmap", "brk")
        return TraceInfo(
            version=__version__,
            started=time.time(),
            backend=f"bpf-{self.options.loader}",
            kernel=platform.release(),
            machine=platform.machine(),
            boot_id=procfs.read_boot_id(),
            probes=probes,
            min_size=self.options.min_size,
            max_size=self.options.max_size,
            sample_bytes=self.options.sample_bytes,
            slice_s=slice_seconds(0),
            options=self.options.given,
        )

    def _interrupt(self) -> None:
        self._stop = self._stop or "interrupted"


@contextlib.contextmanager
def _told_if_gone(exits: Mapping[int, TargetState]) -> Iterator[None]:
    """What fails within because a target has ended meanwhile fails for that reason.

    A process that ends loses its mappings first: it looks as if it had no allocator.

    Raises:
        NoTargetError: Something failed, and a target has ended.
    """
    try:
        yield
    except (NativeleakError, OSError) as error:
        with select.epoll() as poll:
            for pidfd in exits:
                poll.register(pidfd, select.EPOLLIN)
            for pidfd, _ in poll.poll(_GONE_S):
                pid = exits[pidfd].facts.pid
                raise NoTargetError(f"trace of PID {pid} failed: it ended before anything was recorded") from error
        raise


def _refuse_below_inner_namespace(facts: TargetFacts) -> None:
    """From inside a container the kernel names the tasks of that very container only, not of those within it."""
    if not facts.same_pid_ns and read_inner_pid_namespace() is not None:
        raise CannotTraceError(
            f"trace of PID {facts.pid} failed: it is in a PID namespace within ours, which is not the host's",
            "run nativeleak on the host, or in the target's own PID namespace",
        )


def _set_wrappers(target: abi.Target, pid: int) -> None:
    """Tell the kernel side where the C library is, and which of its system call wrappers have a frame."""
    for mapped in executable_objects(pid, procfs.read_maps(pid, executable_only=True)):
        if mapped.name.startswith(("libc.so", "libc-", "ld-musl", "libc.musl")):
            start, _, file_offset = mapped.ranges[0]
            target.wrappers_start, target.wrappers_end = start, mapped.ranges[-1][1]
            for entry, wrapper in zip(target.wrappers, find_wrappers(mapped.file_path), strict=False):
                entry.start, entry.end = wrapper.start + start - file_offset, wrapper.end + start - file_offset
                entry.frame_bytes = wrapper.frame_bytes
            return


def _no_allocator(state: TargetState) -> NativeleakError:
    return MendableError(
        f"trace of PID {state.facts.pid} ({state.facts.comm}) failed: no allocator functions found in its objects",
        "a static program keeps their names only when it is not stripped. Add --maps-only to trace mmap and brk alone"
        " (the right thing for Go), or run a build with symbols",
    )
