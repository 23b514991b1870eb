"""The common part of the engines without BPF: processes, their threads, their address spaces, snapshots.

An engine of this kind sees address space only, as a whole: what an allocator maps is the program's here, since nobody
counts the blocks inside.
"""

from __future__ import annotations

import abc
import contextlib
import os
import resource
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from nativeleak.engines.base import Progress, Row, Sink
from nativeleak.engines.memory import read_memory_lines
from nativeleak.engines.options import Budget
from nativeleak.engines.resident import resident_by_site
from nativeleak.engines.threads import ThreadTable
from nativeleak.errors import NativeleakError, UsageError
from nativeleak.ledger.address_space import AddressSpace
from nativeleak.ledger.map_sites import SiteId
from nativeleak.model import (
    COUNTERS,
    Coverage,
    Frame,
    Limit,
    MemoryLine,
    SiteTotals,
    Snapshot,
    Stack,
    TargetEnd,
    TargetInfo,
)
from nativeleak.process import procfs
from nativeleak.process.cgroups import tightest_shared_group
from nativeleak.process.kills import EndWatch, ProcessEnd
from nativeleak.process.residency import ResidencyReader
from nativeleak.process.shortage import no_room_error
from nativeleak.runtimes.frames import headline_frame
from nativeleak.units import format_bytes

_IDLE_S: Final = 0.25
_GROWTH_BYTES: Final = 4 << 20
"""What the recorder takes at least beside what it has resident when it begins: symbols, SQLite, some sites."""
_MIN_SNAPSHOTS: Final = 20
_MAX_SNAPSHOTS: Final = 2000
_MAX_TOTALS: Final = 1 << 19
"""Totals of sites in all snapshots of recorded output together: some five seconds' work."""


def most_snapshots(n_sites: int) -> int:
    """How many snapshots may be made of recorded output that shows this many sites, whatever times it claims."""
    return min(_MAX_SNAPSHOTS, max(_MIN_SNAPSHOTS, _MAX_TOTALS // max(1, n_sites)))


@dataclass(slots=True)
class TracedProcess:
    """One target.

    Attributes:
        slot: Its number.
        info: Facts that stay.
        space: Its address space.
        residency: How much of it is in memory; None where it may not be asked, and for recorded output.
        watch: Tells how it ended; None for recorded output.
        is_end_told: Whether the engine was told how it ended, so that no signal means none.
        cpu_before_s: CPU seconds used before the window.
        cpu_s: CPU seconds used in it.
    """

    slot: int
    info: TargetInfo
    space: AddressSpace = field(default_factory=AddressSpace)
    residency: ResidencyReader | None = None
    watch: EndWatch | None = None
    is_end_told: bool = False
    cpu_before_s: float = 0.0
    cpu_s: float = 0.0

    @classmethod
    def live(cls, slot: int, info: TargetInfo) -> TracedProcess:
        """A process that is there now."""
        process = cls(slot, info, watch=EndWatch(info.pid, info.comm))
        try:
            process.residency = ResidencyReader(info.pid)
        except NativeleakError:
            process.residency = None
        return process

    @property
    def is_over(self) -> bool:
        """Whether its window is closed for good."""
        return self.info.end is not TargetEnd.RUNNING

    def end(self, how: TargetEnd, signal_number: int = 0) -> None:
        """The process is gone, or is another program now."""
        if not self.is_over:
            self.info = replace(self.info, end=how, end_signal=signal_number)

    def tell_end(self) -> tuple[str, str] | None:
        """(word, sentence) on its end, which the kernel is asked about first; None where the engine has told it."""
        if self.info.end not in (TargetEnd.KILLED, TargetEnd.EXITED):
            return None
        found = ProcessEnd(self.info.end_signal)
        if self.watch is not None:
            is_told = self.is_end_told or self.info.end_signal
            found = self.watch.look(signal_number=self.info.end_signal if is_told else None)
            if found.signal_number:
                how = TargetEnd.OOM_KILLED if found.is_oom_kill else TargetEnd.KILLED
                self.info = replace(self.info, end=how, end_signal=found.signal_number)
        pid = self.info.pid
        if found.is_oom_kill:
            return "oom", f"PID {pid} was killed by the kernel's OOM killer"
        if self.info.end is TargetEnd.KILLED:
            return "exit", f"PID {pid} was ended by signal {self.info.end_signal}"
        return "exit", f"PID {pid} ended by itself" if found.is_known else f"PID {pid} has ended: how is not known"

    def open_window(self) -> None:
        """The window opens: present mappings are from before.

        Raises:
            NativeleakError: Its mappings cannot be read.
        """
        pid = self.info.pid
        self.cpu_before_s = procfs.read_cpu_s(pid)
        self.space.load_baseline(procfs.read_maps(pid), procfs.read_break_start(pid))

    def read_rss(self) -> int:
        """Resident bytes, 0 once it is gone."""
        try:
            return 0 if self.is_over else procfs.read_rss(self.info.pid)
        except NativeleakError:
            return 0

    def read_cpu(self) -> float:
        """CPU seconds since the window opened; after its end those of the last look."""
        with contextlib.suppress(NativeleakError):
            self.cpu_s = procfs.read_cpu_s(self.info.pid) - self.cpu_before_s
        return self.cpu_s

    def sites(self, now_s: float) -> list[SiteTotals]:
        """Totals of all its sites."""
        resident = resident_by_site(self.space, self.residency if not self.is_over else None)
        return self.space.site_totals(self.slot, now_s, resident)

    def close(self) -> None:
        """Close its files."""
        if self.residency is not None:
            self.residency.close()
            self.residency = None
        if self.watch is not None:
            self.watch.close()
            self.watch = None


def snapshot_of(
    processes: Sequence[TracedProcess],
    threads: ThreadTable,
    elapsed_s: float,
    counters: Mapping[str, int],
    *,
    events: int = 0,
    is_live: bool = True,
    sites: Iterable[SiteTotals] | None = None,
) -> Snapshot:
    """All that an engine of this kind knows at one moment.

    Args:
        counters: Added to those that every snapshot carries.
        events: Times the target was looked at or held up: the report's probe hits.
        is_live: False for recorded output, whose process may be another one by now.
        sites: Instead of those of the processes.
    """
    started_ns = time.monotonic_ns()
    found = tuple(sites) if sites is not None else tuple(s for p in processes for s in p.sites(elapsed_s))
    usage = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    taken = {"snapshot_us": (time.monotonic_ns() - started_ns) // 1000}
    return Snapshot(
        elapsed_s=elapsed_s,
        targets=tuple(process.info for process in processes),
        threads=threads.take_changed(),
        sites=found,
        counters=dict.fromkeys(COUNTERS, 0) | taken | dict(counters),
        rss_bytes=sum(process.read_rss() for process in processes) if is_live else 0,
        probe_hits=events,
        target_cpu_s=sum(process.read_cpu() for process in processes) if is_live else 0.0,
        tracer_cpu_s=round(usage.ru_utime + usage.ru_stime + children.ru_utime + children.ru_stime, 3),
        tracer_max_rss_bytes=procfs.read_peak_rss(os.getpid()),
    )


class UserspaceEngine(abc.ABC):
    """The part of an engine without BPF that does not depend on how it observes; see ``Engine``.

    Args:
        targets: The processes.
        sink: Gets stacks and notes.
        coverage: What the engine can see.
        budget: Of which the bound on memory counts here.

    Attributes:
        processes: The targets, by slot.
        threads: Their threads.

    Raises:
        MendableError: The recorder does not fit into a memory group that a target shares.
        UsageError: The recorder itself does not fit into the bound on memory.
    """

    probes: tuple[str, ...] = ("mmap", "brk")
    may_yield = False
    """The target may wait for this process: for a pipe to be read, or for a lock of its address space."""
    details: Sequence[str] = ()

    def __init__(self, targets: Sequence[TargetInfo], sink: Sink, coverage: Coverage, budget: Budget) -> None:
        _check_bound(budget.max_memory_bytes)
        _check_group([info.pid for info in targets])
        self.coverage = coverage
        self.ended = ""
        self.processes = [TracedProcess.live(info.slot, info) for info in targets]
        self.threads = ThreadTable()
        self._sink = sink
        self._start_ns = 0
        self._told_ends: set[int] = set()

    @property
    def targets(self) -> list[TargetInfo]:
        """Facts of all targets."""
        return [process.info for process in self.processes]

    @property
    def elapsed_s(self) -> float:
        """Seconds since the window opened."""
        return (time.monotonic_ns() - self._start_ns) / 1e9 if self._start_ns else 0.0

    def work(self) -> float:
        """Hand on what is new."""
        self._pass_on()
        return _IDLE_S

    def is_urgent(self) -> bool:
        """No: nothing piles up."""
        return False

    def target_exited(self, slot: int) -> None:
        """The process is gone; the report of its end asks for the cause."""
        self.processes[slot].end(TargetEnd.EXITED)

    def progress(self, n_rows: int) -> Progress:
        """Sums of all address spaces, with the largest sites."""
        held: Counter[tuple[int, SiteId]] = Counter()
        counts: Counter[tuple[int, SiteId]] = Counter()
        for process in self.processes:
            for start, end, site in process.space.outstanding_ranges():
                held[process.slot, site] += end - start
                counts[process.slot, site] += 1
        rows = (
            Row(n_bytes, counts[slot, site], self.threads.name(site.thread_uid), self._site_name(slot, site.stack_key))
            for (slot, site), n_bytes in held.most_common(n_rows)
        )
        return Progress(sum(process.read_rss() for process in self.processes), held.total(), rows=tuple(rows))

    def memory_bytes(self) -> int:
        """Of this process."""
        return procfs.read_rss(os.getpid())

    def memory_lines(self, slot: int) -> Mapping[MemoryLine, int]:
        """Resident memory of a target by use; what an allocator mapped counts as the program's here."""
        process = self.processes[slot]
        return read_memory_lines(process.info, process.space.owned_ranges, None, process.residency)

    def runtime_limits(self, slot: int) -> Sequence[Limit]:
        """None: this engine opens no runtime."""
        del slot
        return ()

    def freeze(self, near: str) -> None:
        """Tell new threads and stacks apart no longer: what they map counts as that of one site."""
        self.threads.is_frozen = True
        self._sink.note("memory", f"the recorder takes {near}: new call sites are no longer told apart")

    def _site_name(self, slot: int, stack_key: int) -> str:
        """A name of a site for people."""
        frames = self._frames(slot, stack_key)
        frame = headline_frame(frames) or next(iter(frames), None)
        return frame.function if frame is not None else "(no stack)"

    @abc.abstractmethod
    def _frames(self, slot: int, stack_key: int) -> Sequence[Frame]:
        """Frames of a stack, leaf first; empty for an unknown one."""

    @abc.abstractmethod
    def _take_stacks(self) -> list[Stack]:
        """Stacks seen for the first time since the last call."""

    @abc.abstractmethod
    def _take_notes(self) -> list[tuple[str, str]]:
        """(word, sentence) of events, each once."""

    def _pass_on(self) -> None:
        """Hand new stacks and notes to the sink, and say which targets have ended."""
        for what, text in self._take_notes():
            self._sink.note(what, text)
        self._sink.add_stacks(self._take_stacks())
        for process in self.processes:
            if not process.is_over or process.slot in self._told_ends:
                continue
            self._told_ends.add(process.slot)
            if said := process.tell_end():
                self._sink.note(*said)


def _check_bound(bound_bytes: int) -> None:
    least_bytes = procfs.read_rss(os.getpid()) + _GROWTH_BYTES
    if bound_bytes and bound_bytes < least_bytes:
        raise UsageError(
            f"--max-memory {format_bytes(bound_bytes)} is too little: the recorder takes {format_bytes(least_bytes)}",
            f"give at least --max-memory {-(-least_bytes >> 20)}M",
        )


def _check_group(pids: Sequence[int]) -> None:
    """Refuse to begin in a memory group that a target shares and that has no room for the recorder."""
    group = tightest_shared_group(pids)
    if group is not None and group.room_bytes < _GROWTH_BYTES:
        raise no_room_error(group, _GROWTH_BYTES, "recorder and recording")
