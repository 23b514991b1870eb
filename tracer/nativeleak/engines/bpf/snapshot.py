"""A snapshot from what the kernel has counted and what is known of the targets."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from nativeleak.engines.bpf.blocks import read_blocks
from nativeleak.engines.bpf.kernel import abi
from nativeleak.engines.bpf.naming import StackNamer
from nativeleak.engines.bpf.targets import TargetState
from nativeleak.engines.resident import resident_by_site
from nativeleak.engines.threads import ThreadTable
from nativeleak.ledger.heap import HeapLedger
from nativeleak.ledger.sampling import LiveFacts, born_seconds, read_live_set
from nativeleak.ledger.slices import slice_seconds
from nativeleak.model import CERTAIN, Kind, Owner, SiteKey, SiteTotals, Snapshot
from nativeleak.process import procfs

_MAX_EXACT_AGES: Final = 2_000_000
"""Outstanding blocks up to which the last snapshot reads the live set for exact ages: about half a second a million."""
_MAX_LIVE_READ_S: Final = 0.2
"""A live set that takes longer to read is read for the last snapshot only."""


class Kernel(Protocol):
    """What a snapshot reads of the loaded programs."""

    def read_counters(self, counters: Iterable[abi.Counter] = ...) -> dict[abi.Counter, int]:
        """Counters, summed over the CPUs."""

    def n_missed_calls(self) -> int:
        """System calls that were not seen."""

    def read_live(self) -> Iterator[tuple[memoryview, memoryview, int]]:
        """Chunks of the live set: keys, values, how many."""

    def delete_sites(self, sites: Sequence[tuple[int, int, int]]) -> None:
        """Drop sites of which nothing is outstanding: (slot, thread, stack)."""

    def map_memory_bytes(self) -> int:
        """Kernel memory that the maps take."""


@dataclass(frozen=True, slots=True)
class Moment:
    """When a snapshot is made, and what was found out just before.

    Attributes:
        started_ns: When its making began, CLOCK_MONOTONIC.
        started_cpu_ns: CPU time of this process then.
        elapsed_s: Seconds since the first window opened.
        generation: Of the birth slices.
        counters: Since the windows opened.
        n_unnamed: Stacks that wait for their names.
        is_sampled: Blocks were sampled at any time.
        is_final: The windows are closed: ages are read exactly.
        keeps_blocks: The last snapshot lists the outstanding blocks.
    """

    started_ns: int
    started_cpu_ns: int
    elapsed_s: float
    generation: int
    counters: Mapping[abi.Counter, int]
    n_unnamed: int = 0
    is_sampled: bool = False
    is_final: bool = False
    keeps_blocks: bool = False


class SnapshotBuilder:
    """Makes snapshots of one trace, one after the other.

    Args:
        targets: By slot.
        threads: Of all targets.
        heap: The kernel's totals; read by the caller before each snapshot.
        namer: Names and owners of stacks.
    """

    def __init__(
        self, targets: Mapping[int, TargetState], threads: ThreadTable, heap: HeapLedger, namer: StackNamer
    ) -> None:
        self._targets = targets
        self._threads = threads
        self._heap = heap
        self._namer = namer
        self._counters_before: dict[abi.Counter, int] = {}
        self._map_retired: dict[tuple[int, Kind, Owner], SiteTotals] = {}
        self._live_read_s = 0.0

    def start_counters(self, kernel: Kernel) -> None:
        """Count from now on: what came before the windows open is not the targets'."""
        self._counters_before = kernel.read_counters()

    def read_counters(self, kernel: Kernel) -> dict[abi.Counter, int]:
        """Counters since ``start_counters``."""
        counters = kernel.read_counters()
        counters[abi.Counter.LOST_EVENTS] += kernel.n_missed_calls()
        return {counter: value - self._counters_before.get(counter, 0) for counter, value in counters.items()}

    def build(self, kernel: Kernel, moment: Moment) -> Snapshot:
        """Everything as it is at a moment; sites that ended threads have left empty are dropped."""
        states = self._targets.values()
        self._retire(kernel)
        sites = self._heap_sites(kernel, moment)
        for state in states:
            sites.extend(_map_sites(state, moment.elapsed_s))
        usage = resource.getrusage(resource.RUSAGE_SELF)
        counters = self._named_counters(kernel, moment)
        return Snapshot(
            elapsed_s=moment.elapsed_s,
            targets=tuple(state.info for state in states),
            threads=self._threads.take_changed(),
            sites=tuple(sites),
            retired=(*self._heap.retired(), *self._map_retired.values()),
            counters=counters | _took(moment),
            rss_bytes=sum(state.read_rss() for state in states),
            slice_s=slice_seconds(moment.generation),
            probe_hits=_probe_hits(moment.counters),
            target_cpu_s=sum(state.read_cpu() for state in states),
            tracer_cpu_s=round(usage.ru_utime + usage.ru_stime, 3),
            tracer_max_rss_bytes=procfs.read_peak_rss(os.getpid()),
            dropped=self._heap.take_dropped(),
            blocks=tuple(read_blocks(kernel.read_live())) if moment.is_final and moment.keeps_blocks else (),
            unmapped=tuple(row for state in states for row in state.space.unmaps.totals(state.slot)),
        )

    def _heap_sites(self, kernel: Kernel, moment: Moment) -> list[SiteTotals]:
        live = self._read_live(kernel, moment)
        ages = self._births(live) if live is not None else None
        sites = self._heap.snapshot(moment.elapsed_s, moment.generation, self._namer.label, ages)
        if live is None or not live.uncertainty:
            return sites
        return [replace(site, uncertainty=live.uncertainty.get(site.key, CERTAIN)) for site in sites]

    def _read_live(self, kernel: Kernel, moment: Moment) -> LiveFacts | None:
        """What the live set tells: ages for the last snapshot, and what sampling leaves open for all of them.

        None where it is not worth the time: with sites without end a birth slice tells the age well enough.
        """
        if moment.is_sampled:
            if not moment.is_final and self._live_read_s > _MAX_LIVE_READ_S:
                return None
        elif not moment.is_final or self._heap.hides_empty or self._heap.outstanding()[1] > _MAX_EXACT_AGES:
            return None
        started_s = time.monotonic()
        facts = read_live_set(kernel.read_live(), abi.SLOT_SHIFT)
        self._live_read_s = time.monotonic() - started_s
        return facts

    def _births(self, live: LiveFacts) -> dict[SiteKey, float]:
        """Birth of the oldest outstanding block of each site, seconds since the first window opened."""
        first = min((state.start_ns for state in self._targets.values()), default=0)
        return {
            key: born_seconds(born) + (self._targets[key.slot].start_ns - first) / 1e9
            for key, born in live.born.items()
            if key.slot in self._targets
        }

    def _retire(self, kernel: Kernel) -> None:
        ended = self._threads.ended
        if not ended:
            return
        if gone := self._heap.retire(ended.__contains__):
            kernel.delete_sites([(key.slot, key.thread_uid, key.stack_key) for key in gone])
        for state in self._targets.values():
            for totals in state.space.retire(state.slot, ended):
                where = (state.slot, totals.key.kind, totals.owner)
                self._map_retired[where] = _add(self._map_retired.get(where), totals)

    def _named_counters(self, kernel: Kernel, moment: Moment) -> dict[str, int]:
        counters = {c.name.lower(): value for c, value in moment.counters.items() if c is not abi.Counter.NUMBERED}
        counters["truncated_stacks"] = self._namer.n_truncated
        counters["unnamed_stacks"] = moment.n_unnamed
        ends = self._namer.ends
        counters |= {f"stacks_ended_{end.replace(' ', '_')}": n for end, n in ends.items() if end != "root"}
        states = self._targets.values()
        counts = [state.runtime.counts for state in states if state.runtime is not None]
        stale = sum(each.stale for each in counts)
        counters["resolved_frames"] = sum(s.symbolizer.resolved_frames for s in states) + sum(c.named for c in counts)
        counters["unresolved_frames"] = sum(s.symbolizer.unresolved_frames for s in states)
        counters["unresolved_frames"] += stale + sum(each.unreadable for each in counts)
        counters["stale_runtime_frames"] = stale
        counters["unmap_sites_full"] = sum(s.space.unmaps.n_without_row for s in states)
        counters["resync_unknown_bytes"] = sum(s.space.resync_unknown_bytes for s in states)
        counters["uncertain_bytes"], counters["uncertain_allocations"] = self._heap.uncertain
        counters["sites_retired"] = self._heap.n_retired
        counters["kernel_map_bytes"] = kernel.map_memory_bytes()
        return counters


def _took(moment: Moment) -> dict[str, int]:
    return {
        "snapshot_us": (time.monotonic_ns() - moment.started_ns) // 1000,
        "snapshot_cpu_us": (time.process_time_ns() - moment.started_cpu_ns) // 1000,
    }


def _map_sites(state: TargetState, now_s: float) -> list[SiteTotals]:
    residency = state.residency if not state.is_over else None
    return state.space.site_totals(state.slot, now_s, resident_by_site(state.space, residency))


def _probe_hits(counters: Mapping[abi.Counter, int]) -> int:
    """Times an allocator probe has run, entry and return apart."""
    return 2 * counters[abi.Counter.CALLS] - counters[abi.Counter.DECLINED] + counters[abi.Counter.FREES]


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
