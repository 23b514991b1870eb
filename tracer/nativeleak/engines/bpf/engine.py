"""The engine that runs BPF programs in the kernel: check, load, attach, collect, detach, in this order."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from nativeleak import arch
from nativeleak.engines.base import Progress, Row, Sink
from nativeleak.engines.bpf.allocators import AllocatorProbes
from nativeleak.engines.bpf.budget.calibration import Calibration
from nativeleak.engines.bpf.budget.controller import BudgetController
from nativeleak.engines.bpf.budget.distance import START_BYTES, Distance
from nativeleak.engines.bpf.budget.governor import EXACT, Governor
from nativeleak.engines.bpf.budget.load import Plan
from nativeleak.engines.bpf.budget.memory import limits_of_trace
from nativeleak.engines.bpf.call_sites import CallSites, make_call_sites
from nativeleak.engines.bpf.collector import Collector
from nativeleak.engines.bpf.debuggers import debugged, wait_for_debuggers
from nativeleak.engines.bpf.kernel import abi
from nativeleak.engines.bpf.kernel.programs import Loader, Programs
from nativeleak.engines.bpf.targets import TargetState, set_wrappers
from nativeleak.engines.bpf.vanished import LOST, VanishedProbes
from nativeleak.engines.memory import read_memory_lines
from nativeleak.engines.options import TraceOptions, Unwind
from nativeleak.engines.registry import coverage_of
from nativeleak.errors import CannotTraceError, MendableError, NativeleakError, OwnHeapError
from nativeleak.model import Level, Limit, MemoryLine, Owner, Snapshot, TargetInfo, Window
from nativeleak.probes.search import GO
from nativeleak.process import hazards, procfs
from nativeleak.process.check import TargetFacts, check_target
from nativeleak.process.pidns import read_inner_pid_namespace
from nativeleak.runtimes.base import limits_of
from nativeleak.runtimes.frames import headline_frame
from nativeleak.unwind.tables import UnwindTables

_IDLE_S: Final = 0.5
_CONSUME_S: Final = 0.05
"""Longest time for events between two looks at everything else; a target may make them without pause."""
_SNAPSHOT_CONSUME_S: Final = 0.2
"""The same before a snapshot, which holds what has happened up to now; a full ring buffer takes about as long."""
_NAMING_S: Final = 0.02
"""Longest time for names of new stacks between two looks at everything else."""
_NAMING_SHARE: Final = 0.1
"""Of the time, at most, that goes to names: a JVM that starts needs all cores, and makes most of its stacks then.

With a budget no more than that.
"""
_TABLES_S: Final = 2.0
"""Unwind tables are waited for at most so long before the first probe; cached ones take some milliseconds."""
_SHOWN: Final = frozenset({LOST, "debugger", "exec", "oom", "killed", "exit", "resync", "level", "memory"}) | frozenset(
    {"unseen", "unwatched", "allocator", "returns"}
)
"""Words of notes that the user reads at once."""


class BpfEngine:
    """Traces by BPF programs; see ``Engine``.

    Args:
        options: What to do.
        targets: The processes.
        sink: Gets stacks and notes.
        loader: Whose programs.

    Raises:
        NativeleakError: The programs cannot be loaded, or the processes not be traced by them.
    """

    may_yield = True
    ended = ""

    def __init__(self, options: TraceOptions, targets: Sequence[TargetInfo], sink: Sink, loader: Loader) -> None:
        self.probes: tuple[str, ...] = ("mmap", "brk") if options.maps_only else ("malloc", "mmap", "brk")
        self.coverage = coverage_of(f"bpf-{loader}")
        self._options, self._sink, self._loader = options, sink, loader
        self._naming_from_s = 0.0
        self._naming_share = min(_NAMING_SHARE, options.budget.max_overhead_pct / 100 or _NAMING_SHARE)
        self._calibration: Calibration | None = None
        self._controller: BudgetController | None = None
        self._allocators: AllocatorProbes | None = None
        self._call_sites: CallSites | None = None
        self._windows: tuple[Window, ...] = ()
        self._has_waited = False
        self._uses_tables = options.unwind is not Unwind.FP and arch.here().has_tables and loader is Loader.LIBBPF
        facts = [_check(info.pid) for info in targets]
        if not options.maps_only:
            _refuse_hazards(info.pid for info in targets)
        limits, self._room_note = limits_of_trace(options)
        with contextlib.ExitStack() as stack:
            self.programs = stack.enter_context(Programs(limits, self._on_event, options.modes, loader, options.calls))
            # A caller of munmap takes a sixth of what a site does: inside a bound they get a part of the sites' share.
            is_bounded = bool(options.budget.max_memory_bytes or self._room_note)
            n_unmap_sites = limits.n_sites // 4 if is_bounded else limits.n_sites
            self.collector = Collector(
                self.programs, sink.add_stacks, self._on_note, headline_frame, n_unmap_sites, limits=limits
            )
            self.collector.keeps_blocks = options.keeps_blocks
            stack.callback(self.collector.close)
            self._vanished = VanishedProbes(self.programs.groups, self._on_note)
            self.programs.groups.on_leave = self._look_for_vanished
            stack.callback(self._vanished.close)
            self.tables = UnwindTables(self.programs, self._on_note)
            stack.callback(self.tables.close)
            for info, each in zip(targets, facts, strict=True):
                self.collector.add_target(info.slot, each, info)
            self._resources = stack.pop_all()

    # What the session reads

    @property
    def targets(self) -> list[TargetInfo]:
        """Facts of all targets."""
        return [state.info for state in self._states]

    @property
    def elapsed_s(self) -> float:
        """Seconds since the first window opened."""
        return self.collector.elapsed_s()

    @property
    def headline(self) -> str:
        """Objects whose allocator functions are probed."""
        return ", ".join(sorted({name for info in self.targets for name in info.allocators})) or "mmap and brk only"

    @property
    def details(self) -> list[str]:
        """How the probes are attached, and what the kernel lacks."""
        return [f"allocator probes attached by {self.programs.mode.value}", *self.programs.notes]

    @property
    def fds(self) -> Sequence[int]:
        """The ring buffer's."""
        return (self.programs.epoll_fd,)

    @property
    def controller(self) -> BudgetController:
        """Keeps the trace inside its budget; there is one once it has started."""
        if self._controller is None:
            raise RuntimeError("the engine has not started")
        return self._controller

    @property
    def _states(self) -> list[TargetState]:
        return list(self.collector.targets.values())

    # The beginning

    def start(self) -> None:
        """Attach, measure what probes cost here, and open the windows."""
        self._allocators = AllocatorProbes(
            self.programs,
            self._vanished,
            self.collector.elapsed_s,
            self._before_probing,
            self._on_note,
            self._options.returns,
            self._options.allocators,
        )
        self._refuse_filtered(self._allocators)
        # Before the first probe is in a target: it would be slowed down meanwhile.
        self._calibration = self._allocators.calibrate()
        options = self._options
        if self._calibration is not None and options.budget.max_overhead_pct and not options.maps_only:
            # Finding the next object takes much longer than attaching: no probe may wait for it in the target.
            self.programs.groups.hold_back()
        tables_until_s = time.monotonic() + _TABLES_S
        for state in self._states:
            target = abi.Target(
                min_size=self._options.min_size,
                max_size=self._options.max_size,
                max_depth=min(self._options.max_depth, abi.MAX_FRAMES),
                unwind=abi.Unwind.TABLES if self._uses_tables else abi.Unwind.FP,
            )
            set_wrappers(target, state.facts.pid)
            self.programs.add_target(state.slot, state.facts.pid, target)
            if self._uses_tables:
                self.tables.add_target(state.slot, state.facts.pid)
                self.tables.wait(tables_until_s)
                self.collector.runtimes.take(state, self.programs)
            self._probe_new_objects(state)
            if not state.info.allocators and not self._options.maps_only:
                raise _no_allocator(state)
        self._controller = self._make_controller(self._allocators)
        self._call_sites = make_call_sites(
            self.collector, self._controller, options.budget, self._allocators, self._calibration, self._on_note
        )
        self._controller.count_before()
        self.collector.start_counters()
        for state in self._states:
            self.collector.open_window(state)
        self._controller.begin()
        # Objects mapped while the probes were attached.
        for state in self._states:
            self._probe_new_objects(state)
        self._allocators.say_what_was_not_found()
        for note in self.programs.notes:
            self._on_note("engine", note)
        if self._room_note:
            self._on_note("memory", self._room_note)

    def _refuse_filtered(self, allocators: AllocatorProbes) -> None:
        """Refuse targets under a seccomp filter where such a filter denies return probes.

        Raises:
            CannotTraceError: There is one.
        """
        if self._options.maps_only or arch.here() is not arch.X86_64:
            return
        filtered = [state.facts.pid for state in self._states if hazards.has_filter(state.facts.pid)]
        if filtered and not allocators.survives_filter():
            raise hazards.filter_hazard().refusal(filtered[0])

    def _before_probing(self, slot: int, key: tuple[str, int]) -> None:
        """The first stacks of an object should go by its table."""
        if self._uses_tables:
            self.tables.finish(slot, key)

    def _probe_new_objects(self, state: TargetState) -> None:
        state.new_code = False
        if self._allocators is not None and not self._options.maps_only:
            self._allocators.probe_new_objects(state)

    def _make_controller(self, allocators: AllocatorProbes) -> BudgetController:
        budget, governor = self._options.budget, None
        plan = Plan(Level.SAMPLED, budget.sample_bytes) if budget.sample_bytes else EXACT
        if budget.chooses_distance:
            plan = Plan(Level.SAMPLED, START_BYTES)
        if self._options.maps_only:
            plan = Plan(Level.SYSCALLS)
        elif self._calibration is not None:
            percent, costs = budget.max_overhead_pct or math.inf, allocators.costs(self._calibration)
            distance = Distance(costs) if budget.chooses_distance else None
            governor = Governor(percent, costs, plan, self._options.duration_s, budget.max_blip_s, distance)
        elif budget.chooses_distance:
            self._on_note("level", "what a probe costs here is not known: --sample auto takes 512 KiB throughout")
        return BudgetController(
            self.programs,
            self.collector,
            budget,
            plan,
            governor,
            self._on_note,
            lambda: bool(debugged(self._running_pids())),
        )

    # Along the way

    def work(self) -> float:
        """Take in events, probe new code, name new stacks, make unwind tables, and look at the costs in between."""
        controller, collector = self.controller, self.collector
        self.programs.consume(_CONSUME_S)
        for state in self._states:
            if state.new_code and not state.is_over:
                state.symbolizer.refresh_maps()
                _say_what_was_unloaded(state, self._on_note)
                self.tables.refresh(state.slot)
                self._probe_new_objects(state)
        collector.keep_room()
        self._name_new_stacks()
        controller.look()  # each of these may take as long as a look is apart from a glance
        for slot, addresses in collector.namer.interrupted.items():
            self.tables.want_full(slot, addresses)
        collector.namer.interrupted.clear()
        self.tables.work()
        controller.look()
        collector.runtimes.name_threads()
        collector.runtimes.complete(self.programs)
        collector.keep_slices()
        if self._call_sites is not None:
            self._call_sites.work(self.elapsed_s, self._states)
        if collector.level is Level.SYSCALLS and controller.is_between:
            pids = {state.slot: state.facts.pid for state in self._states if not state.is_over}
            collector.audits.work(self.elapsed_s, pids, collector.generation)
        controller.look()
        return min(_IDLE_S, controller.idle_s())

    def is_urgent(self) -> bool:
        """Whether events pile up in the ring buffer, or costs, or a window is to be opened or closed."""
        return self.programs.is_filling or not self.controller.idle_s() or self.controller.is_burst()

    def _name_new_stacks(self) -> None:
        """Name new stacks, of many at once only a part: then the target has the machine to itself."""
        started_s = time.monotonic()
        if started_s < self._naming_from_s:
            self.collector.look_at_code(within_s=_NAMING_S)
            return
        self.collector.name_new_stacks(within_s=_NAMING_S)
        ended_s = time.monotonic()
        self._naming_from_s = ended_s + (ended_s - started_s) * (1 / self._naming_share - 1)

    def target_exited(self, slot: int) -> None:
        """The process is gone; how it ended is among the events."""
        self.programs.consume()
        self.collector.target_exited(self.collector.targets[slot])

    def progress(self, n_rows: int) -> Progress:
        """The kernel's totals as they are now."""
        collector = self.collector
        collector.read_heap()
        n_bytes, count = collector.heap.outstanding()
        return Progress(
            rss_bytes=sum(collector.rss_bytes(state) for state in self._states),
            outstanding_bytes=n_bytes,
            outstanding_count=count,
            n_sites=collector.heap.n_sites,
            rows=tuple(
                Row(site_bytes, site_count, *collector.headline(key))
                for key, site_bytes, site_count in collector.heap.by_outstanding(n_rows)
            ),
        )

    def memory_bytes(self) -> int:
        """Of this process and the kernel's maps."""
        return procfs.read_rss(os.getpid()) + self.programs.map_memory_bytes()

    def memory_lines(self, slot: int) -> Mapping[MemoryLine, int]:
        """Resident memory of a target by use."""
        state = self.collector.targets[slot]

        def owned_ranges() -> Iterable[tuple[int, int, Owner]]:
            self.programs.consume(_SNAPSHOT_CONSUME_S)
            return state.space.owned_ranges()

        return read_memory_lines(state.info, owned_ranges, state.runtime, state.residency)

    def runtime_limits(self, slot: int) -> Sequence[Limit]:
        """Limits that a target's runtime sets itself."""
        return limits_of(slot, self.collector.targets[slot].runtime)

    def freeze(self, near: str) -> None:
        """Record no more allocations; the limits of the tables should have kept us from this."""
        if self._call_sites is not None:
            self._call_sites.stop()
        self.controller.freeze(
            f"recorder and kernel tables take {near}: no more allocations are recorded, frees still are"
        )

    def snapshot(self, *, final: bool = False) -> Snapshot:
        """Everything as it is now; the last one with exact ages where that takes no long time."""
        self.programs.consume(_SNAPSHOT_CONSUME_S)
        if not final:
            self._look_for_vanished()
        snapshot = self.collector.snapshot(final=final)
        hit_ns = self._calibration.hit_ns if self._calibration is not None else 0.0
        windows = self._windows if final else self.controller.windows()
        counters = {**snapshot.counters, "probes_lost": self._vanished.n_lost}
        return replace(snapshot, counters=counters, probe_cost_ns=hit_ns, windows=windows)

    def _look_for_vanished(self) -> None:
        self._vanished.look(self.elapsed_s, [state.slot for state in self._states if not state.is_over])

    # The end

    def stop(self) -> None:
        """Close the windows and take the probes away."""
        for state in self._states:
            self.programs.close_window(state.slot)
        self._windows = self.controller.windows()
        self._look_for_vanished()
        for state in self._states:
            state.symbolizer.refresh_maps()
            _say_what_was_unloaded(state, self._on_note)
        self.controller.close()
        self.collector.end()
        self._wait_for_debuggers()
        started_s = time.monotonic()
        self.programs.detach()
        self._on_note("engine", f"detached the allocator probes in {1000 * (time.monotonic() - started_s):.0f} ms")
        self.programs.consume()
        self.collector.audit()

    def _wait_for_debuggers(self) -> None:
        """Once, before the probes go."""
        if self._allocators is not None and not self._has_waited and not self._options.maps_only:
            self._has_waited = True
            wait_for_debuggers(self._running_pids(), self._on_note)

    def _running_pids(self) -> list[int]:
        return [state.facts.pid for state in self._states if not state.is_over]

    def close(self) -> None:
        """Take everything out of the kernel, and close the targets' files."""
        self._wait_for_debuggers()
        if self._controller is not None:
            self._controller.close()
        self._resources.close()
        if self._call_sites is not None:
            self._call_sites.close()
        if self._allocators is not None:
            self._allocators.close()

    def _on_event(self, event: abi.Event) -> None:
        self.collector.on_event(event)

    def _on_note(self, what: str, text: str) -> None:
        self._sink.note(what, text, is_shown=what in _SHOWN)


def _check(pid: int) -> TargetFacts:
    """Facts of a process that BPF programs can trace.

    From inside a container the kernel names the tasks of that very container only, not of those within it.

    Raises:
        NativeleakError: It is none.
    """
    facts = check_target(pid)
    if not facts.same_pid_ns and read_inner_pid_namespace() is not None:
        raise CannotTraceError(
            f"trace of PID {facts.pid} failed: it is in a PID namespace within ours, which is not the host's",
            "run nativeleak on the host, or in the target's own PID namespace",
        )
    return facts


def _refuse_hazards(pids: Iterable[int]) -> None:
    """Refuse processes that probes in allocator functions may end.

    Raises:
        CannotTraceError: There is one.
    """
    for pid in pids:
        hazard = hazards.find_hazard(pid)
        if hazard is not None:
            raise hazard.refusal(pid)


def _no_allocator(state: TargetState) -> NativeleakError:
    has_own_heap = any(each.allocator == GO for each in state.info.unwatched)
    return (OwnHeapError if has_own_heap else MendableError)(
        f"trace of PID {state.facts.pid} ({state.facts.comm}) failed: no allocator functions found in its objects",
        "a static program keeps their names only when it is not stripped. Add --maps-only to trace mmap and brk alone,"
        " or run a build with symbols",
    )


def _say_what_was_unloaded(state: TargetState, tell: Callable[[str, str], None]) -> None:
    for name in state.symbolizer.take_unloaded():
        tell("unloaded", f"{name} was unloaded by then; its functions keep their names")
