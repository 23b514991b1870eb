"""What a report says, whatever its format: plain data, made by ``build`` and printed by the formats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from nativeleak.analysis.certainty import Certainty
from nativeleak.analysis.finding import Finding
from nativeleak.analysis.growth import Growth, Verdict
from nativeleak.analysis.select import Selection
from nativeleak.model import BlockFate, Child, Kind, Owner, Stack, TargetInfo, TraceInfo, UnmapTotals, Unwatched, Window
from nativeleak.recording import Event
from nativeleak.reports.census import CensusSum
from nativeleak.reports.detail import Detail
from nativeleak.reports.held import Held
from nativeleak.reports.memory import MemoryReport
from nativeleak.reports.stacks import Stacks

_MIN_EXPLAINED_BYTES: Final = 1 << 20
_MIN_CHILD_GROWTH: Final = 256 << 10


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over sites; bytes and counts."""

    outstanding_bytes: int = 0
    outstanding_count: int = 0
    allocated_bytes: int = 0
    allocated_count: int = 0
    freed_bytes: int = 0
    freed_count: int = 0
    resident_bytes: int = 0
    reserved_bytes: int = 0


@dataclass(frozen=True, slots=True)
class SiteReport:
    """One row of the report: a call site, or several merged.

    Attributes:
        tid: 0 where threads were merged or the engine cannot see threads.
        resident_bytes: None where it was not measured.
        oldest_s: Age of the oldest outstanding allocation; None where nothing is outstanding.
        stack: Leaf first; without frames where stacks were merged.
        growth: NaN where it is not known, in rows of several recordings only.
        stacks: Where the stack's text id is got from.
        certainty: Bounds of the true totals; None where they are exact.
        host: Name of the machine; * where several were merged.
        process: Name of the process, likewise.
        fate: What became of its blocks, by looks after the traces; None where nothing is known of any.
        lost_certainty: How certain it is that its lost blocks are; empty without any.
    """

    kind: Kind
    owner: Owner
    functions: tuple[str, ...]
    pid: int
    tid: int
    thread: str
    n_threads: int
    n_stacks: int
    totals: Totals
    resident_bytes: int | None
    oldest_s: float | None
    growth: Growth
    stack: Stack
    stacks: TellsId
    certainty: Certainty | None = None
    host: str = ""
    process: str = ""
    fate: BlockFate | None = None
    lost_certainty: str = ""

    @property
    def id(self) -> str:
        """Text id of the stack, made of its functions and offsets."""
        return self.stacks.id_of(self.stack)


@dataclass(frozen=True, slots=True)
class UnmapReport:
    """A caller that unmapped memory: one thread at one stack, or an allocator.

    Attributes:
        id: Text id of the stack, as that of a site.
        tid: 0 where the engine cannot see threads.
        stack: Leaf first; without frames for an allocator.
    """

    id: str
    totals: UnmapTotals
    pid: int
    tid: int
    thread: str
    stack: Stack

    @property
    def given_bytes(self) -> int:
        """Unmapped bytes, without address space that was only reserved."""
        return self.totals.freed_bytes + self.totals.older_bytes


@dataclass(frozen=True, slots=True)
class ThreadReport:
    """Outstanding memory of one thread's sites."""

    tid: int
    name: str
    alive: bool
    outstanding_bytes: int
    outstanding_count: int


@dataclass(frozen=True, slots=True)
class Overhead:
    """Cost of the trace.

    Attributes:
        cost_s: CPU seconds of the target that the probes took, estimated.
        core_pct: The same as a share of one core.
        kernel_bytes: Memory of the tracer's maps in the kernel.
        probe_hits: Times a probe ran; for an engine without probes, what ``Coverage.hits`` names.
        probe_cost_ns: One hit of a probe; 0.0 where it was not measured.
        target_cpu_pct: Estimated share of the target's CPU time that the probes took.
    """

    cost_s: float
    core_pct: float
    kernel_bytes: int
    probe_hits: int
    probe_cost_ns: float
    target_cpu_pct: float
    tracer_cpu_s: float
    tracer_max_rss_bytes: int


@dataclass(frozen=True, slots=True)
class Resident:
    """Resident memory of the targets, first and last known, and how much of the change the sites account for."""

    first_bytes: int
    last_bytes: int
    explained_bytes: float
    growth: Growth

    @property
    def explained_pct(self) -> float | None:
        """Share of the growth, never below 0; None where growth is below one MiB, which is noise."""
        grown = self.last_bytes - self.first_bytes
        return max(0.0, 100 * self.explained_bytes / grown) if grown >= _MIN_EXPLAINED_BYTES else None


@dataclass(frozen=True, slots=True)
class TraceFacts:
    """The trace that the report is about.

    Attributes:
        name: The recording's path.
        duration_s: From the start to the last snapshot.
        end_reason: Why the trace ended; None where the recorder was killed.
        recording_error: Why and when the file could no longer be written; None where it always could.
        events: In the order they were added.
        windows: One for each level of detail that the trace went through, oldest first; at least one.
    """

    name: str
    info: TraceInfo
    targets: tuple[TargetInfo, ...]
    duration_s: float
    n_snapshots: int
    end_reason: str | None
    recording_error: str | None
    events: tuple[Event, ...]
    windows: tuple[Window, ...]

    @property
    def sample_bytes(self) -> int:
        """Mean bytes from one sample to the next, the highest if it changed; 0 where every block was kept."""
        return max([self.info.sample_bytes, *(window.sample_bytes for window in self.windows)])


@dataclass(frozen=True, slots=True)
class Sums:
    """Totals over all sites of the selected threads and functions.

    Attributes:
        by_kind: Without what allocators mapped for themselves.
        jvm: The part of ``by_kind`` that the JVM allocated and mapped for itself.
        backing: Memory that allocators took from the kernel for themselves.
        answer: What tells the growth.
        watched_pct: Share of the trace in which allocations and frees of the heap were seen.
        certainty: Of all outstanding heap memory; None where it is exact.
        in_windows: The heap was watched in windows, and growth is estimated from what is left of their blocks.
    """

    by_kind: Mapping[Kind, Totals]
    jvm: Totals
    backing: Totals
    answer: TellsGrowth
    watched_pct: float
    certainty: Certainty | None = None
    in_windows: bool = False

    @property
    def growth(self) -> Growth:
        """Growth of the sum of all outstanding memory.

        It is that of resident memory with the verdict "unknown" where too little was watched.
        """
        return self.answer.growth

    @property
    def outstanding_bytes(self) -> int:
        """Outstanding bytes of all kinds."""
        return sum(totals.outstanding_bytes for totals in self.by_kind.values())

    @property
    def allocated_bytes(self) -> int:
        """Allocated bytes of all kinds."""
        return sum(totals.allocated_bytes for totals in self.by_kind.values())


@dataclass(frozen=True, slots=True)
class Listing:
    """Rows to show, in order.

    Attributes:
        rows: The rows.
        n_all: Number of rows without ``--min`` and ``--top``.
    """

    rows: Sequence[SiteReport]
    n_all: int


class SiteRows(Protocol):
    """The sites of a report."""

    @property
    def sites(self) -> Listing:
        """The selected sites."""

    @property
    def program(self) -> Listing:
        """The selected sites of the program, for readers who want the JVM's apart."""

    @property
    def jvm_sites(self) -> tuple[SiteReport, ...]:
        """All selected sites that the JVM allocated and mapped for itself."""

    @property
    def backing_sites(self) -> tuple[SiteReport, ...]:
        """Sites where allocators took memory from the kernel for themselves; not selected."""


class TellsId(Protocol):
    """Text ids of stacks."""

    def id_of(self, stack: Stack) -> str:
        """Text id of a stack."""


class TellsGrowth(Protocol):
    """Growth of the whole."""

    @property
    def growth(self) -> Growth:
        """Of all outstanding memory."""


class ReportAnswer(Protocol):
    """What grows, what holds memory, and how resident memory went; each found when it is asked for."""

    def find(self) -> None:
        """Find all of it now."""

    @property
    def suspects(self) -> tuple[Finding, ...]:
        """What grows for certain, fastest first."""

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What holds something and does not grow for certain, largest first."""

    @property
    def growth(self) -> Growth:
        """Of all that was seen; of resident memory with the verdict "unknown" where too little was watched."""

    @property
    def resident(self) -> Resident | None:
        """Resident memory, first and last known; None where it is unknown."""

    @property
    def memory(self) -> MemoryReport:
        """Limits, resident memory by use, and the number of threads."""

    @property
    def threads(self) -> tuple[ThreadReport, ...]:
        """Threads that are alive or hold outstanding memory, largest first."""

    @property
    def unmapped(self) -> tuple[UnmapReport, ...] | None:
        """Callers that unmapped memory, most first; None where the engine cannot see them."""

    @property
    def guessed(self) -> Mapping[str, int]:
        """Outstanding bytes at stacks with a guessed caller, by the module whose unwind information is missing."""


class SiteTable(Protocol):
    """The part of a report that its exports as a table or profile need; one of many recordings has no other."""

    @property
    def trace(self) -> TraceFacts:
        """The trace."""

    @property
    def selection(self) -> Selection:
        """What is shown."""

    @property
    def sums(self) -> Sums:
        """Totals."""

    @property
    def rows(self) -> SiteRows:
        """The sites."""

    @property
    def counters(self) -> Mapping[str, int]:
        """What was lost."""


@dataclass(frozen=True, slots=True)
class Report:
    """All that a report says.

    Attributes:
        stacks: Where stacks of the recording are got from, while it is open.
        detail: The tables behind all this, for formats that show every site's course.
        rows: The selected sites, made when they are asked for.
        answer: What grows and what holds memory, found when it is asked for.
        counters: At least ``model.COUNTERS``.
        held: Who holds the blocks, where a look after the trace was asked for.
        census: What walks of the heaps counted, where that was asked for.
    """

    trace: TraceFacts
    selection: Selection
    sums: Sums
    stacks: Stacks
    detail: Detail
    rows: SiteRows
    answer: ReportAnswer
    counters: Mapping[str, int]
    overhead: Overhead
    held: Held = field(default_factory=Held)
    census: tuple[CensusSum, ...] = ()

    @property
    def suspects(self) -> tuple[Finding, ...]:
        """What grows for certain, fastest first."""
        return self.answer.suspects

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What holds something and does not grow for certain, largest first."""
        return self.answer.findings

    @property
    def resident(self) -> Resident | None:
        """Resident memory, first and last known; None where it is unknown."""
        return self.answer.resident

    @property
    def memory(self) -> MemoryReport:
        """Limits, resident memory by use, and the number of threads."""
        return self.answer.memory

    @property
    def threads(self) -> tuple[ThreadReport, ...]:
        """Threads that are alive or hold outstanding memory, largest first."""
        return self.answer.threads

    @property
    def unmapped(self) -> tuple[UnmapReport, ...] | None:
        """Callers that unmapped memory, most first; None where the engine cannot see them."""
        return self.answer.unmapped

    @property
    def guessed(self) -> Mapping[str, int]:
        """Outstanding bytes at stacks with a guessed caller, by the module whose unwind information is missing."""
        return self.answer.guessed

    @property
    def unwatched(self) -> tuple[Unwatched, ...]:
        """Allocators in the targets that are not watched."""
        return tuple(each for target in self.trace.targets for each in target.unwatched)

    @property
    def children(self) -> tuple[Child, ...]:
        """Processes that descend from a target and hold or grew as much as it; largest growth first."""
        found = [child for target in self.trace.targets for child in target.children if child.holds_as_much]
        return tuple(sorted(found, key=lambda child: (-child.growth_bytes, -child.rss_bytes, child.pid)))

    @property
    def gained_by_children(self) -> int:
        """Bytes that children gained, where that is more than the targets themselves did; 0 else."""
        gained = sum(max(0, child.growth_bytes) for child in self.children)
        own = self.resident.last_bytes - self.resident.first_bytes if self.resident is not None else 0
        return gained if gained > max(own, _MIN_CHILD_GROWTH) else 0

    @property
    def growth(self) -> Growth:
        """Growth of the process. Where nothing is suspected and its children gained more, nothing is known of it."""
        growth = self.sums.growth
        if self.suspects or not self.gained_by_children:
            return growth
        return replace(growth, verdict=Verdict.UNKNOWN, enough_s=None)
