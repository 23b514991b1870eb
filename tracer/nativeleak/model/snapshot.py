"""State of a trace at one moment, and facts of the whole trace."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple

from nativeleak.model.coverage import Coverage
from nativeleak.model.memory import LimitUse, MemoryReading, ProcessMemory
from nativeleak.model.process import TargetInfo, ThreadInfo
from nativeleak.model.site import SiteKey, SiteTotals, UnmapTotals

COUNTERS: Final = (
    "lost_allocations",
    "lost_bytes",
    "lost_stacks",
    "truncated_stacks",
    "lost_events",
    "unmatched_frees",
    "unresolved_frames",
    "resolved_frames",
)
"""Counters that every snapshot carries and the JSON report's ``completeness`` must show."""


class Level(StrEnum):
    """Level of detail at which allocator calls are traced; the values are those of the JSON report."""

    EXACT = "exact"
    HOT = "hot"
    """Between windows: call sites that are rare are watched all the time, the others not at all."""
    SAMPLED = "sampled"
    BIG = "big-blocks"
    SYSCALLS = "syscalls"


class Window(NamedTuple):
    """A part of the trace at one level of detail.

    Attributes:
        from_s: Seconds since the trace began.
        to_s: Its end; the latest window ends at the snapshot.
        sample_bytes: Mean bytes from one sample to the next at level ``sampled``, 0 at the others.
        probe_hits: Times an allocator probe ran in it.
        cost_s: CPU seconds of the targets that these hits took, estimated.
        target_cpu_s: CPU seconds that the targets used in it.
    """

    from_s: float
    to_s: float
    level: Level
    sample_bytes: int = 0
    probe_hits: int = 0
    cost_s: float = 0.0
    target_cpu_s: float = 0.0


@dataclass(frozen=True, slots=True)
class TraceInfo:
    """Facts of a trace that are known when it starts.

    Attributes:
        started: Wall-clock start, seconds since 1970 (UTC).
        backend: ``bpf-libbpf``, ``bpf-bcc``, ``strace`` or ``pmap``.
        probes: What was attached: ``("malloc", "mmap", "brk")``.
        options: Options of the command line, by name.
        coverage: What the engine could see.
        host: Name of the machine, as the tracer's own UTS namespace has it; empty in recordings of older versions.
    """

    version: str
    started: float
    backend: str
    kernel: str
    machine: str
    boot_id: str
    probes: tuple[str, ...]
    min_size: int = 0
    max_size: int = 0
    sample_bytes: int = 0
    slice_s: float = 0.0
    options: Mapping[str, str] = field(default_factory=dict)
    coverage: Coverage = field(default_factory=Coverage)
    host: str = ""

    @property
    def host_name(self) -> str:
        """Name of the machine; without one, what tells its boots apart."""
        return self.host or (f"boot {self.boot_id[:8]}" if self.boot_id else "unknown host")


class BlockChunk(NamedTuple):
    """Some outstanding heap blocks.

    Attributes:
        n: How many.
        columns: Compressed: addresses, keys of stacks, requested bytes (u64 each), targets' slots, threads' uids (u32
            each), one column after the other, little-endian. Bytes of a sampled block stand for others too. Empty
            for blocks that are not listed.
    """

    n: int
    columns: bytes


@dataclass(frozen=True, slots=True)
class Snapshot:
    """State of the whole trace at one moment.

    Attributes:
        elapsed_s: Seconds since the trace began.
        targets: All targets, with their states.
        threads: Threads that are new or have changed since the last snapshot.
        sites: Every site that ever had anything outstanding, or whose totals changed since the last snapshot.
        retired: Totals of sites that were dropped because they have nothing outstanding and their thread has ended or
            their room was needed; one per target, keyed with thread 0 and stack 0.
        counters: By name, absolute since the trace began; at least ``COUNTERS``.
        rss_bytes: Resident memory of the targets together, 0 when they are gone.
        slice_s: Width of one birth slice at this moment, seconds.
        probe_hits: Times a probe has run since the trace began.
        probe_cost_ns: Estimated cost of one hit on this machine, 0.0 where it was not measured.
        tracer_cpu_s: CPU seconds the tracer has used.
        tracer_max_rss_bytes: Highest resident memory of the tracer.
        windows: Level of detail of each part of the trace so far, oldest first.
        unmapped: All callers that unmapped address space so far.
        dropped: Sites of earlier snapshots that were dropped since the last one because their room was needed.
        limits: Limits of memory and how much of each is used.
        processes: Sums of each target that lives.
        readings: Resident memory by use, where it was read since the last snapshot.
        blocks: Outstanding heap blocks one by one, at the end of a trace that keeps them.
    """

    elapsed_s: float
    targets: tuple[TargetInfo, ...]
    threads: tuple[ThreadInfo, ...]
    sites: tuple[SiteTotals, ...]
    retired: tuple[SiteTotals, ...] = ()
    counters: Mapping[str, int] = field(default_factory=dict)
    rss_bytes: int = 0
    slice_s: float = 0.0
    probe_hits: int = 0
    probe_cost_ns: float = 0.0
    target_cpu_s: float = 0.0
    tracer_cpu_s: float = 0.0
    tracer_max_rss_bytes: int = 0
    windows: tuple[Window, ...] = ()
    unmapped: tuple[UnmapTotals, ...] = ()
    dropped: tuple[SiteKey, ...] = ()
    limits: tuple[LimitUse, ...] = ()
    processes: tuple[ProcessMemory, ...] = ()
    readings: tuple[MemoryReading, ...] = ()
    blocks: tuple[BlockChunk, ...] = ()
