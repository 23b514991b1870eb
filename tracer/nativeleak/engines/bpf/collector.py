"""From kernel events and maps to snapshots: the part of the recorder that knows the targets.

Takes events in the order of the ring buffer, keeps each target's address space and threads, names new stacks while the
target lives, and makes a snapshot when asked.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import resource
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final

from nativeleak.engines.bpf.kernel import abi
from nativeleak.engines.bpf.kernel.programs import Programs
from nativeleak.engines.bpf.mapping import to_mapping_event
from nativeleak.engines.bpf.naming import StackNamer
from nativeleak.engines.bpf.targets import TargetState
from nativeleak.errors import NativeleakError
from nativeleak.ledger.address_space import AddressSpace
from nativeleak.ledger.heap import HeapLedger
from nativeleak.ledger.sampling import LiveFacts, born_seconds, read_live_set
from nativeleak.ledger.slices import generation_at, slice_seconds
from nativeleak.ledger.unmaps import MAX_SITES
from nativeleak.model import (
    CERTAIN,
    Frame,
    Kind,
    Level,
    Owner,
    SiteKey,
    SiteTotals,
    Snapshot,
    Stack,
    TargetEnd,
    TargetInfo,
    ThreadInfo,
)
from nativeleak.process import procfs
from nativeleak.process.check import TargetFacts
from nativeleak.process.residency import ResidencyReader
from nativeleak.symbols.resolver import Symbolizer
from nativeleak.unwind.verify import ReturnAddresses

OTHER_THREADS: Final = "(threads beyond the limit)"
_MAX_EXACT_AGES: Final = 2_000_000
"""Outstanding blocks up to which the last snapshot reads the live set for exact ages: about half a second a million."""
_MAX_LIVE_READ_S: Final = 0.2
"""A live set that takes longer to read is read for the last snapshot only."""
_PROT_EXEC: Final = 4
_NAMED_TOGETHER: Final = 64
_NAMING_S: Final = 0.05
_LAST_NAMING_S: Final = 20.0
"""Longest time for names of new stacks before a snapshot, and before the last one."""


class Collector:
    """State of a trace in user space.

    Args:
        engine: The programs that events come from.
        on_stacks: Gets new stacks, named.
        on_note: Gets (word, sentence) for the recording.
        headline_frame: Picks the frame of a stack that tells a person most, for the live view.
        max_unmap_sites: Threads and stacks that are told apart when they give address space back, of each target.
    """

    def __init__(
        self,
        engine: Programs,
        on_stacks: Callable[[list[Stack]], None],
        on_note: Callable[[str, str], None],
        headline_frame: Callable[[Sequence[Frame]], Frame | None],
        max_unmap_sites: int = MAX_SITES,
    ) -> None:
        self.engine = engine
        self.heap = HeapLedger()
        self.targets: dict[int, TargetState] = {}
        self.generation = 0
        self.namer = StackNamer(headline_frame)
        self._on_stacks = on_stacks
        self._max_unmap_sites = max_unmap_sites
        self._on_note = on_note
        self._threads: dict[int, ThreadInfo] = {0: ThreadInfo(0, 0, 0, OTHER_THREADS)}
        self._changed_threads: set[int] = {0}
        self._uid_of: dict[tuple[int, int], int] = {}
        self._new_keys: dict[int, None] = {}
        self._unseen_code: deque[int] = deque()
        self._lost_events_seen = 0
        self._counters: dict[abi.Counter, int] = {}
        self._counters_before: dict[abi.Counter, int] = {}
        self._map_retired: dict[tuple[int, Kind, Owner], SiteTotals] = {}
        self.level = Level.EXACT
        self.is_sampled = False
        """Whether blocks were sampled at any time."""
        self._live_read_s = 0.0

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
        state = TargetState(slot, facts, Symbolizer(facts.pid), space, residency, returns, info)
        state.thread_names = procfs.read_threads(facts.pid)
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
        self._counters_before = self.engine.read_counters()

    def set_level(self, level: Level) -> None:
        """How the allocator is watched from now on."""
        self.level = level
        self.is_sampled = self.is_sampled or level is Level.SAMPLED
        self.namer.allocator_watched = level in (Level.EXACT, Level.SAMPLED)

    def consume(self) -> None:
        """Take in the events that wait, under the level at which they came about."""
        self.engine.consume()

    def write_off(self) -> None:
        """Take all outstanding heap blocks out of the totals: their frees will go unseen. Without probes only."""
        self.read_heap()
        self.heap.write_off(self.generation)
        self.engine.empty_live_set()

    # Events

    def on_event(self, event: abi.Event) -> None:
        """Take one event in; called from the ring buffer."""
        state = self.targets.get(event.slot)
        if state is None:
            return
        kind = event.type
        if kind == abi.EventType.STACK:
            self._new_keys[event.stack] = None
            if state.java is not None:
                self._unseen_code.append(event.stack)
        elif kind == abi.EventType.THREAD:
            self._on_thread(state, event)
        elif kind == abi.EventType.THREAD_EXIT:
            self._on_thread_exit(state, event)
        elif kind == abi.EventType.EXEC:
            self._on_exec(state)
        elif kind == abi.EventType.OOM_KILL:
            state.oom_killed = True
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
        """Whether memory was mapped inside of an allocator call whose return the kernel side has declined."""
        if self.level is not Level.SAMPLED or not event.stack:
            return False
        if not self.namer.is_known(event.stack):
            self._name([event.stack])
        return self.namer.is_in_allocator(event.stack)

    def _on_thread(self, state: TargetState, event: abi.Event) -> None:
        name = _comm(event)
        state.thread_names[event.tid] = name
        uid = event.thread or self._uid_of.get((state.slot, event.tid), 0)
        state.renamed = self._threads.get(uid) if uid else None
        if uid:
            self._uid_of[state.slot, event.tid] = uid
            self._set_thread(ThreadInfo(uid, state.slot, event.tid, name))

    def _on_thread_exit(self, state: TargetState, event: abi.Event) -> None:
        uid = self._uid_of.pop((state.slot, event.tid), 0) or event.thread
        if uid:
            self._set_thread(ThreadInfo(uid, state.slot, event.tid, _comm(event), alive=False))
            if state.java is not None and event.tid in state.java.names:
                self._set_thread(replace(self._threads[uid], name=state.java.names.pop(event.tid)))
        state.thread_names.pop(event.tid, None)
        state.space.forget_thread(event.tid)
        if event.tid == state.facts.pid and event.ret & 0x7F:
            state.info = replace(state.info, end_signal=event.ret & 0x7F)

    def name_java_threads(self) -> None:
        """Give Java threads their full names, while they live; looks at most once a second."""
        for state in self.targets.values():
            if state.java is None or state.is_over:
                continue
            names = state.java.read_names()
            for (slot, tid), uid in self._uid_of.items():
                if slot == state.slot and tid in names and self._threads[uid].name != names[tid]:
                    self._set_thread(replace(self._threads[uid], name=names[tid]))

    def _set_thread(self, thread: ThreadInfo) -> None:
        if self._threads.get(thread.uid) != thread:
            self._threads[thread.uid] = thread
            self._changed_threads.add(thread.uid)

    def _on_exec(self, state: TargetState) -> None:
        # The kernel renames the thread before it reports the exec: what the old program did it did by its old name.
        if state.renamed is not None:
            self._set_thread(state.renamed)
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

    def name_new_stacks(self, *, sweep: bool = False, within_s: float = math.inf) -> int:
        """Name what is new, while the target lives; returns how many stacks.

        Args:
            sweep: Look through the kernel's store too, for stacks whose event was lost.
            within_s: When this time is over the rest waits for the next call: a JVM that loads its classes makes
                thousands of new stacks, deep ones, and nothing else may wait for all of their names.
        """
        if sweep:
            self._new_keys.update(dict.fromkeys(self.engine.stacks.new_keys()))
        end_s = time.monotonic() + within_s
        n_named = 0
        while self._new_keys and time.monotonic() < end_s:
            keys = list(itertools.islice(self._new_keys, _NAMED_TOGETHER))
            n_named += self._name(keys)
            for key in keys:
                del self._new_keys[key]
        if not self._new_keys:
            self._unseen_code.clear()
        return n_named

    def look_at_code(self, within_s: float) -> None:
        """Name the Java code on stacks that wait for their turn, oldest first; those left over wait for the next call.

        Args:
            within_s: About how long it may take.
        """
        if not self._unseen_code:
            return
        for state in self.targets.values():
            if state.java is not None:
                state.java.begin_naming()
        until_s = time.monotonic() + within_s
        while self._unseen_code and time.monotonic() < until_s:
            key = self._unseen_code.popleft()
            if key not in self._new_keys:
                continue
            peeked = self.engine.stacks.peek(key)
            owner = self.targets.get(peeked[0]) if peeked is not None else None
            if peeked is not None and owner is not None and owner.java is not None:
                owner.java.look_at(peeked[1])

    @property
    def n_unnamed(self) -> int:
        """Stacks that wait for their names."""
        return len(self._new_keys)

    def _name(self, keys: Sequence[int]) -> int:
        """Name some stacks together: what is read of the target for one is believed for all of them."""
        raw = [stack for stack in map(self.engine.stacks.fetch, keys) if stack is not None]
        for slot in {stack.slot for stack in raw}:
            state = self.targets.get(slot)
            if state is not None and state.java is not None:
                state.java.begin_naming()
        named = [self.namer.name(self.targets[stack.slot], stack) for stack in raw if stack.slot in self.targets]
        if named:
            self._on_stacks(named)
        return len(named)

    def headline(self, key: SiteKey) -> tuple[str, str]:
        """Thread name and most telling function of a site, for the live view."""
        thread = self._threads.get(key.thread_uid)
        return (thread.name if thread else "?"), self.namer.headline(key.stack_key)

    # Snapshots

    def elapsed_s(self) -> float:
        """Seconds since the first window opened."""
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
        return True

    def read_heap(self) -> None:
        """Take in the kernel's totals."""
        raw = ((s.slot, s.thread, s.stack, s.value) for s in self.engine.read_sites() if s.slot in self.targets)
        self.heap.read(raw, self.generation)

    def snapshot(self, *, final: bool = False) -> Snapshot:
        """Everything as it is now.

        Args:
            final: The windows are closed: read exact ages from the live set.
        """
        started_ns = time.monotonic_ns()
        self.name_new_stacks(sweep=True, within_s=_LAST_NAMING_S if final else _NAMING_S)
        self.name_java_threads()
        counters = self.engine.read_counters()
        counters[abi.Counter.LOST_EVENTS] += self.engine.n_missed_calls()
        self._counters = {counter: value - self._counters_before.get(counter, 0) for counter, value in counters.items()}
        self._resync_after_loss()
        elapsed_s = self.elapsed_s()
        self.read_heap()
        self._retire()
        live = self._read_live(final=final)
        ages = self._births(live) if live is not None else None
        sites = self.heap.snapshot(elapsed_s, self.generation, self.namer.label, ages)
        if live is not None and live.uncertainty:
            sites = [replace(site, uncertainty=live.uncertainty.get(site.key, CERTAIN)) for site in sites]
        for state in self.targets.values():
            sites.extend(self._map_sites(state, elapsed_s))
        changed, self._changed_threads = self._changed_threads, set()
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return Snapshot(
            elapsed_s=elapsed_s,
            targets=tuple(state.info for state in self.targets.values()),
            threads=tuple(self._threads[uid] for uid in sorted(changed)),
            sites=tuple(sites),
            retired=(*self.heap.retired(), *self._map_retired.values()),
            counters=self._named_counters() | {"snapshot_us": (time.monotonic_ns() - started_ns) // 1000},
            rss_bytes=sum(self.rss_bytes(state) for state in self.targets.values()),
            slice_s=slice_seconds(self.generation),
            probe_hits=self._probe_hits(),
            target_cpu_s=sum(self._cpu_s(state) for state in self.targets.values()),
            tracer_cpu_s=round(usage.ru_utime + usage.ru_stime, 3),
            tracer_max_rss_bytes=procfs.read_peak_rss(os.getpid()),
            unmapped=tuple(row for state in self.targets.values() for row in state.space.unmaps.totals(state.slot)),
        )

    @staticmethod
    def rss_bytes(state: TargetState) -> int:
        """Resident memory of a target, 0 once it is gone."""
        try:
            return 0 if state.is_over else procfs.read_rss(state.facts.pid)
        except NativeleakError:
            return 0

    @staticmethod
    def _cpu_s(state: TargetState) -> float:
        """CPU seconds of a target since its window opened; after its end those of the last look."""
        with contextlib.suppress(NativeleakError):
            state.cpu_s = procfs.read_cpu_s(state.facts.pid) - state.cpu_before_s
        return state.cpu_s

    def _map_sites(self, state: TargetState, elapsed_s: float) -> Iterable[SiteTotals]:
        ranges = list(state.space.outstanding_ranges())
        resident: dict[object, int] | None = None
        if state.residency is not None and not state.is_over:
            resident = {}
            sizes = state.residency.resident_bytes([(start, end) for start, end, _ in ranges])
            for (_, _, site_id), n_bytes in zip(ranges, sizes, strict=True):
                resident[site_id] = resident.get(site_id, 0) + n_bytes
        return state.space.site_totals(state.slot, elapsed_s, resident)  # type: ignore[arg-type]

    def _read_live(self, *, final: bool) -> LiveFacts | None:
        """What the live set tells: ages for the last snapshot, and what sampling leaves open for all of them.

        None where it is not worth the time.
        """
        if self.is_sampled:
            if not final and self._live_read_s > _MAX_LIVE_READ_S:
                return None
        elif not final or self.heap.outstanding()[1] > _MAX_EXACT_AGES:
            return None
        started_s = time.monotonic()
        facts = read_live_set(self.engine.read_live(), abi.SLOT_SHIFT)
        self._live_read_s = time.monotonic() - started_s
        return facts

    def _births(self, live: LiveFacts) -> dict[SiteKey, float]:
        """Birth of the oldest outstanding block of each site, seconds since the first window opened."""
        first = min((state.start_ns for state in self.targets.values()), default=0)
        return {
            key: born_seconds(born) + (self.targets[key.slot].start_ns - first) / 1e9
            for key, born in live.born.items()
            if key.slot in self.targets
        }

    def _retire(self) -> None:
        gone = {uid for uid, thread in self._threads.items() if not thread.alive}
        if not gone:
            return
        for key in self.heap.retire(gone.__contains__):
            self.engine.delete_site(key.slot, key.thread_uid, key.stack_key)
        for state in self.targets.values():
            for totals in state.space.retire(state.slot, gone):
                where = (state.slot, totals.key.kind, totals.owner)
                self._map_retired[where] = _add(self._map_retired.get(where), totals)

    def _resync_after_loss(self) -> None:
        lost = self._counters[abi.Counter.LOST_EVENTS]
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

    def _named_counters(self) -> dict[str, int]:
        counters = {c.name.lower(): value for c, value in self._counters.items() if c is not abi.Counter.NUMBERED}
        counters["truncated_stacks"] = self.namer.n_truncated
        counters["unnamed_stacks"] = self.n_unnamed
        counters |= {f"stacks_ended_{end.replace(' ', '_')}": n for end, n in self.namer.ends.items() if end != "root"}
        symbolizers = [state.symbolizer for state in self.targets.values()]
        namers = [state.java.namer for state in self.targets.values() if state.java is not None]
        counters["resolved_frames"] = sum(s.resolved_frames for s in symbolizers) + sum(n.n_named for n in namers)
        counters["unresolved_frames"] = sum(s.unresolved_frames for s in symbolizers)
        counters["unresolved_frames"] += sum(n.n_stale + n.n_unreadable for n in namers)
        counters["stale_java_frames"] = sum(n.n_stale for n in namers)
        counters["unmap_sites_full"] = sum(s.space.unmaps.n_without_row for s in self.targets.values())
        counters["resync_unknown_bytes"] = sum(s.space.resync_unknown_bytes for s in self.targets.values())
        counters["uncertain_bytes"], counters["uncertain_allocations"] = self.heap.written_off
        counters["kernel_map_bytes"] = self.engine.map_memory_bytes()
        return counters

    def _probe_hits(self) -> int:
        """Times an allocator probe has run, entry and return apart."""
        c = self._counters
        return 2 * c[abi.Counter.CALLS] - c[abi.Counter.DECLINED] + c[abi.Counter.FREES]

    def close(self) -> None:
        """Close the files of all targets."""
        for state in self.targets.values():
            state.close()


def _add(before: SiteTotals | None, totals: SiteTotals) -> SiteTotals:
    if before is None:
        before = SiteTotals(SiteKey(totals.key.kind, totals.key.slot, 0, 0), owner=totals.owner)
    return replace(
        before,
        allocated_bytes=before.allocated_bytes + totals.allocated_bytes,
        allocated_count=before.allocated_count + totals.allocated_count,
        freed_bytes=before.freed_bytes + totals.freed_bytes,
        freed_count=before.freed_count + totals.freed_count,
    )


def _comm(event: abi.Event) -> str:
    raw = bytes(event.args)[:16]
    return raw.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")
