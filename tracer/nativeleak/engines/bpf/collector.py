"""From kernel events and maps to snapshots: the part of the recorder that knows the targets.

Takes events in the order of the ring buffer, keeps each target's address space and threads, names new stacks while the
target lives, and makes a snapshot when asked.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from nativeleak.engines.bpf.audit import HeapAudit
from nativeleak.engines.bpf.kernel import abi
from nativeleak.engines.bpf.kernel.limits import Limits
from nativeleak.engines.bpf.kernel.programs import Programs
from nativeleak.engines.bpf.mapping import to_mapping_event
from nativeleak.engines.bpf.naming import Named, StackNamer
from nativeleak.engines.bpf.naming_queue import NamingQueue
from nativeleak.engines.bpf.raw import RawStack
from nativeleak.engines.bpf.retirement import SiteRetirement
from nativeleak.engines.bpf.runtimes import TargetRuntimes
from nativeleak.engines.bpf.snapshot import Moment, SnapshotBuilder
from nativeleak.engines.bpf.targets import TargetState
from nativeleak.engines.threads import OVERFLOW, ThreadTable
from nativeleak.errors import NativeleakError
from nativeleak.ledger.address_space import AddressSpace
from nativeleak.ledger.heap import HeapLedger
from nativeleak.ledger.slices import generation_at
from nativeleak.ledger.unmaps import MAX_SITES
from nativeleak.model import (
    Frame,
    Level,
    Owner,
    SiteKey,
    Snapshot,
    Stack,
    TargetEnd,
    TargetInfo,
    ThreadInfo,
)
from nativeleak.process import procfs
from nativeleak.process.check import TargetFacts
from nativeleak.process.residency import ResidencyReader
from nativeleak.runtimes.base import RuntimeSpec
from nativeleak.runtimes.registry import RUNTIMES
from nativeleak.symbols.resolver import Symbolizer
from nativeleak.unwind.verify import ReturnAddresses

_PROT_EXEC: Final = 4
_NAMING_S: Final = 0.05
_LAST_NAMING_S: Final = 20.0
_LAST_NAMING_PRESSED_S: Final = 0.1
"""Longest time for names of new stacks before a snapshot, before the last one, and before the last one of a trace that
had more call sites than room: those of the largest come first."""


class Collector:
    """State of a trace in user space.

    Args:
        engine: The programs that events come from.
        on_stacks: Gets new stacks, named.
        on_note: Gets (word, sentence) for the recording.
        headline_frame: Picks the frame of a stack that tells a person most, for the live view.
        max_unmap_sites: Pairs of thread and stack of each target that have totals of the address space they give back.
        runtimes: Kinds of runtimes that targets may have.
        limits: Sizes of the kernel's maps.
    """

    def __init__(
        self,
        engine: Programs,
        on_stacks: Callable[[list[Stack]], None],
        on_note: Callable[[str, str], None],
        headline_frame: Callable[[Sequence[Frame]], Frame | None],
        max_unmap_sites: int = MAX_SITES,
        runtimes: Sequence[RuntimeSpec] = RUNTIMES,
        limits: Limits | None = None,
    ) -> None:
        self.engine = engine
        self.heap = HeapLedger()
        self.targets: dict[int, TargetState] = {}
        self.generation = 0
        self.namer = StackNamer(headline_frame)
        self._on_stacks = on_stacks
        self._max_unmap_sites = max_unmap_sites
        self._on_note = on_note
        self._threads = ThreadTable()
        self._threads.take(OVERFLOW)
        self.runtimes = TargetRuntimes(self.targets, self._threads, runtimes, on_note)
        self._queue = NamingQueue()
        self._retirement = SiteRetirement(engine, self.heap, self._queue, limits or Limits(), self.read_heap)
        self._in_allocator: set[int] = set()
        self._lost_events_seen = 0
        self._snapshots = SnapshotBuilder(self.targets, self._threads, self.heap, self.namer)
        self.audits = HeapAudit(engine.live, self.heap, self.read_heap)
        self.level = Level.EXACT
        self._by_names = False
        self._was_blind = False
        self._is_audited = False
        self._ended_s: float | None = None
        self.is_sampled = False
        """Whether blocks were sampled at any time."""
        self.keeps_blocks = False  # whether the last snapshot lists the outstanding blocks

    def add_target(self, slot: int, facts: TargetFacts, info: TargetInfo) -> TargetState:
        """Take a target in, before its window opens.

        Raises:
            NoTargetError: It is gone.
        """
        residency: ResidencyReader | None
        try:
            residency = ResidencyReader(facts.pid)
        except NativeleakError:
            residency = None
        returns = ReturnAddresses(facts.pid)
        space = AddressSpace(max_unmap_sites=self._max_unmap_sites)
        symbolizer = Symbolizer(facts.pid, jit_kind=self.runtimes.jit_kind)
        state = TargetState(slot, facts, symbolizer, space, residency, returns, info)
        self.targets[slot] = state
        return state

    def open_window(self, state: TargetState) -> None:
        """The window opens: what is mapped now is from before."""
        state.cpu_before_s = procfs.read_cpu_s(state.facts.pid)
        state.start_ns = time.monotonic_ns()
        self.engine.open_window(state.slot, state.start_ns)
        # Mappings made in between are seen twice: as from before, then by their event, which replaces them.
        pid = state.facts.pid
        state.space.load_baseline(procfs.read_maps(pid), procfs.read_break_start(pid))

    def start_counters(self) -> None:
        """Count from now on: what the engine did before the windows open is not the targets'."""
        self._snapshots.start_counters(self.engine)

    def set_level(self, level: Level, *, by_names: bool = False) -> None:
        """How the allocator is watched from now on.

        Args:
            level: The level.
            by_names: Where calls are not seen, the names on a stack tell what an allocator maps for itself.
        """
        self.level = level
        self.is_sampled = self.is_sampled or level is Level.SAMPLED
        self._by_names = level is Level.SAMPLED or (by_names and level is not Level.EXACT)
        self._was_blind = self._was_blind or level is Level.SYSCALLS
        self.namer.allocator_watched = by_names or level in (Level.EXACT, Level.SAMPLED)

    def end(self) -> None:
        """The windows are closed: what comes now takes no time of the trace."""
        self._ended_s = self.elapsed_s()

    def audit(self) -> None:
        """Ask the heaps which blocks are gone whose frees may have gone unseen; no allocator probe may be attached."""
        if not self._was_blind:
            return
        self.read_heap()
        if not self.heap.outstanding()[1]:
            return
        pids = {state.slot: state.facts.pid for state in self.targets.values() if not state.is_over}
        if self.audits.run(pids, self.generation) is not None:
            self._is_audited = True
            self.heap.uncertain = (0, 0)
        if text := self.audits.found.describe():
            self._on_note("audit", text)

    # Events

    def on_event(self, event: abi.Event) -> None:
        """Take one event in; called from the ring buffer."""
        state = self.targets.get(event.slot)
        if state is None:
            return
        kind = event.type
        if kind == abi.EventType.STACK:
            self._queue.add(event.stack, has_runtime=state.runtime is not None)
            self._retirement.saw_new_stack()
        elif kind == abi.EventType.THREAD:
            self._on_thread(state, event)
        elif kind == abi.EventType.THREAD_EXIT:
            self._on_thread_exit(state, event)
        elif kind == abi.EventType.EXEC:
            self._on_exec(state)
        elif kind == abi.EventType.OOM_KILL:
            state.oom_killed = True
        elif kind == abi.EventType.BUSY:
            pass  # it has woken us up, which is all that it is for
        else:
            self._on_mapping(state, event)

    def _on_mapping(self, state: TargetState, event: abi.Event) -> None:
        in_allocator = bool(event.flags & abi.IN_ALLOCATOR) or self._is_unfollowed(event)
        if event.type == abi.EventType.MMAP:
            self.namer.saw_mapping(event.stack, in_allocator=in_allocator)
        mapping = to_mapping_event(event, state.start_ns, state.facts.pid, state.segments, in_allocator=in_allocator)
        if mapping is None:
            return
        state.space.apply(mapping)
        # JIT compilers map anonymous memory executable, or make it so later.
        if event.type in (abi.EventType.MMAP, abi.EventType.MPROTECT) and event.args[2] & _PROT_EXEC:
            state.new_code = True

    def _is_unfollowed(self, event: abi.Event) -> bool:
        """Whether memory was mapped inside of an allocator call that the kernel side does not follow."""
        if not self._by_names or not event.stack:
            return False
        if not self.namer.is_known(event.stack):
            self._name([event.stack])
        return event.stack in self._in_allocator

    def _on_thread(self, state: TargetState, event: abi.Event) -> None:
        uid = event.thread or self._threads.find(state.slot, event.tid)
        state.renamed = self._threads.get(uid) if uid else None
        if uid:
            self._threads.take(ThreadInfo(uid, state.slot, event.tid, _comm(event)))

    def _on_thread_exit(self, state: TargetState, event: abi.Event) -> None:
        name = state.runtime_names.pop(event.tid, "") or _comm(event)
        self._threads.end(state.slot, event.tid, event.thread, name)
        state.space.forget_thread(event.tid)
        if event.tid == state.facts.pid and event.ret & 0x7F:
            state.info = replace(state.info, end_signal=event.ret & 0x7F)

    def _on_exec(self, state: TargetState) -> None:
        # The kernel renames the thread before it reports the exec: what the old program did it did by its old name.
        if state.renamed is not None:
            self._threads.take(state.renamed)
        state.info = replace(state.info, end=TargetEnd.EXEC)
        self._on_note("exec", f"PID {state.facts.pid} replaced itself by another program: the window ends there")

    def target_exited(self, state: TargetState) -> None:
        """The process is gone: say how."""
        if state.is_over:
            return
        if state.oom_killed:
            end = TargetEnd.OOM_KILLED
            self._on_note("oom", f"PID {state.facts.pid} was killed by the kernel's OOM killer")
        elif state.info.end_signal:
            end = TargetEnd.KILLED
            self._on_note("killed", f"PID {state.facts.pid} was ended by signal {state.info.end_signal}")
        else:
            end = TargetEnd.EXITED
            self._on_note("exit", f"PID {state.facts.pid} ended by itself")
        state.info = replace(state.info, end=end)

    # Stacks

    def name_new_stacks(self, *, within_s: float = math.inf) -> int:
        """Name what is new, while the target lives; returns how many stacks.

        Args:
            within_s: When this time is over the rest waits for the next call: a runtime that loads its code makes
                thousands of new stacks, deep ones, and nothing else may wait for all of their names.
        """
        return sum(self._name(keys) for keys in self._queue.batches(within_s))

    def _sweep(self) -> None:
        """Look through the kernel's store too, for stacks whose event was lost."""
        self._queue.add_all(self.engine.stacks.new_keys())

    def look_at_code(self, within_s: float) -> None:
        """Let runtimes look at their code on stacks that wait for their turn, oldest first; the rest waits.

        Args:
            within_s: About how long it may take.
        """
        has_begun = False
        for key in self._queue.unseen_code(within_s):
            if not has_begun:
                has_begun = True
                self.runtimes.begin_naming(self.targets)
            peeked = self.engine.stacks.peek(key)
            if peeked is not None:
                self.runtimes.look_at(*peeked)

    @property
    def n_unnamed(self) -> int:
        """Stacks that wait for their names."""
        return len(self._queue)

    def _name(self, keys: Sequence[int]) -> int:
        """Name some stacks together: what is read of the target for one is believed for all of them."""
        return self._name_raw([stack for stack in map(self.engine.stacks.fetch, keys) if stack is not None])

    def _name_raw(self, raw: Sequence[RawStack]) -> int:
        self.runtimes.begin_naming({stack.slot for stack in raw})
        named = [(self.targets[each.slot], each) for each in raw if each.slot in self.targets]
        stacks = [self._apply(state, self.namer.name(state, each)) for state, each in named]
        if stacks:
            self._on_stacks(stacks)
        return len(stacks)

    def _apply(self, state: TargetState, named: Named) -> Stack:
        """Tell the address space whose a stack is."""
        key = named.stack.key
        if named.in_allocator:
            self._in_allocator.add(key)
        if named.unmapper is not Owner.PROGRAM:
            state.space.unmaps.reclassify_stack(key, named.unmapper)
        for backing in named.backing:
            state.space.reclassify_stack(backing, Owner.ALLOCATOR)
        if named.owner is not Owner.PROGRAM:
            state.space.reclassify_stack(key, named.owner)
        return named.stack

    def headline(self, key: SiteKey) -> tuple[str, str]:
        """Thread name and most telling function of a site, for the live view."""
        thread = self._threads.get(key.thread_uid)
        return (thread.name if thread else "?"), self.namer.headline(key.stack_key)

    # Snapshots

    def elapsed_s(self) -> float:
        """Seconds since the first window opened, up to the end."""
        if self._ended_s is not None:
            return self._ended_s
        starts = [state.start_ns for state in self.targets.values() if state.start_ns]
        return (time.monotonic_ns() - min(starts)) / 1e9 if starts else 0.0

    def keep_slices(self) -> bool:
        """Double the width of the birth slices when they are used up; returns whether it was done."""
        generation = generation_at(self.elapsed_s())
        if generation == self.generation:
            return False
        self.read_heap()
        self.generation += 1
        self.engine.set_generation(self.generation)
        self.heap.widen_slices(self.generation)
        return True

    def read_heap(self) -> None:
        """Take in the kernel's totals."""
        self.heap.read((site for site in self.engine.read_sites() if site[0] in self.targets), self.generation)

    def keep_room(self) -> None:
        """Let sites of which nothing is left give way before the kernel's table is full; read many new ones at once."""
        if self._retirement.is_due():
            self._name_raw(self._retirement.look())
        elif self._retirement.has_many_new:
            self._retirement.read_new()

    def snapshot(self, *, final: bool = False) -> Snapshot:
        """Everything as it is now.

        Args:
            final: The windows are closed: read exact ages from the live set.
        """
        started_ns, started_cpu_ns = time.monotonic_ns(), time.process_time_ns()
        elapsed_s = self.elapsed_s()
        within_s = _NAMING_S
        self._sweep()
        if not final:
            self._retirement.read()
        else:
            self._name_raw(self._retirement.look_last())
            within_s = _LAST_NAMING_PRESSED_S if self._retirement.is_pressed else _LAST_NAMING_S
        self.name_new_stacks(within_s=within_s)
        self.runtimes.name_threads()
        if self._was_blind and not self._is_audited:
            self.read_heap()
            self.heap.uncertain = self.heap.outstanding()
        counters = self._snapshots.read_counters(self.engine)
        self._resync_after_loss(counters[abi.Counter.LOST_EVENTS])
        moment = Moment(
            started_ns,
            started_cpu_ns,
            elapsed_s,
            self.generation,
            counters,
            self.n_unnamed,
            is_sampled=self.is_sampled,
            is_final=final,
            keeps_blocks=self.keeps_blocks,
        )
        return self._snapshots.build(self.engine, moment)

    @staticmethod
    def rss_bytes(state: TargetState) -> int:
        """Resident memory of a target, 0 once it is gone."""
        return state.read_rss()

    def _resync_after_loss(self, lost: int) -> None:
        if lost == self._lost_events_seen:
            return
        self._lost_events_seen = lost
        for state in self.targets.values():
            if state.is_over:
                continue
            try:
                change = state.space.resync(procfs.read_maps(state.facts.pid))
            except NativeleakError:
                continue
            self._on_note(
                "resync",
                f"events were lost: looked at the address space of PID {state.facts.pid} anew"
                f" ({change.added_bytes} bytes more, {change.removed_bytes} less than known)",
            )

    def close(self) -> None:
        """Close the files of all targets."""
        self.audits.close()
        for state in self.targets.values():
            state.close()


def _comm(event: abi.Event) -> str:
    raw = bytes(event.args)[:16]
    return raw.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")
