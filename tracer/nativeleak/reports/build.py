"""Turns a recording into the report that all formats print: the one place that counts.

Caveat: memory that an allocator took from the kernel for itself (``Owner.ALLOCATOR``) is no memory of the program on
top of the blocks inside of it; it is kept apart and in no total.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import pairwise
from typing import Any, Final

import numpy as np
import pandas as pd

from nativeleak.analysis.certainty import Certainty, certainty
from nativeleak.analysis.growth import Growth, Ints, course, measure, resident_estimate, site_curves
from nativeleak.analysis.select import By, Metric, Selection, keep_functions, keep_threads, merge, rank
from nativeleak.analysis.table import TOTALS, UNKNOWN_THREAD, site_table, unmap_table
from nativeleak.model import (
    COUNTERS,
    Frame,
    FrameKind,
    FrameSource,
    Kind,
    Level,
    Owner,
    Stack,
    TargetInfo,
    TraceInfo,
    Uncertainty,
    UnmapTotals,
    Window,
)
from nativeleak.recording import Event, Recording

_NO_TABLE: Final = "no table"  # how the walk of a stack ended that came to code without unwind rules: Stack.end
_WITHOUT_STACKS: Final = ("strace", "pmap")
_MIN_EXPLAINED_BYTES: Final = 1 << 20

LOST_STACK: Final = Stack(0, (Frame("[stack lost]", None, 0, 0, FrameKind.UNRESOLVED),), end="lost")


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
        id: Text id of the stack, made of its functions and offsets.
        tid: 0 where threads were merged or were not told apart.
        resident_bytes: None where it was not measured.
        oldest_s: Age of the oldest outstanding allocation; None where nothing is outstanding.
        stack: Leaf first; without frames where stacks were merged.
        certainty: Between which bounds the true totals lie; None where they are exact.
    """

    id: str
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
    certainty: Certainty | None = None


@dataclass(frozen=True, slots=True)
class UnmapReport:
    """Who gave address space back: one thread at one stack, or an allocator.

    Attributes:
        id: Text id of the stack, as that of a site.
        tid: 0 where threads were not told apart.
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
        """What it gave back, without address space that was reserved only."""
        return self.totals.freed_bytes + self.totals.older_bytes


@dataclass(frozen=True, slots=True)
class ThreadReport:
    """What a thread's sites hold."""

    tid: int
    name: str
    alive: bool
    outstanding_bytes: int
    outstanding_count: int


@dataclass(frozen=True, slots=True)
class Overhead:
    """What the trace cost.

    Attributes:
        probe_cost_ns: One hit of a probe; 0.0 where it was not measured.
        target_cpu_pct: Estimated share of the target's CPU time that went into probes.
        cost_s: CPU seconds of the target that went into probes, estimated.
        core_pct: The same as a share of one core.
        kernel_bytes: Memory of the kernel that our maps take.
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
        """Share of the growth, never below 0; None where memory did not grow by a MiB at least: noise then."""
        grown = self.last_bytes - self.first_bytes
        return max(0.0, 100 * self.explained_bytes / grown) if grown >= _MIN_EXPLAINED_BYTES else None


@dataclass(frozen=True, slots=True)
class Report:
    """All that a report says, whatever its format.

    Attributes:
        name: The recording's path.
        end_reason: Why the trace ended; None where the recorder was killed.
        totals: By kind, without what allocators mapped for themselves.
        jvm: The part of ``totals`` that the JVM allocated and mapped for itself.
        backing: What allocators took from the kernel for themselves.
        growth: Of the sum of all outstanding memory.
        resident: None where resident memory is unknown.
        sites: The rows to show, in order.
        n_sites: Rows there would be without ``--min`` and ``--top``.
        program_sites: Those of the program alone, for readers who want the JVM's apart.
        n_program_sites: The same of them.
        jvm_sites: All rows of what the JVM allocated and mapped for itself.
        guessed: Outstanding bytes at stacks with a guessed caller, by the module whose unwind information is missing.
        top_path: The site that holds most, and what its stack holds over all threads; None without any.
        fastest: The fastest of the growing sites; None without any.
        threads: Those that hold anything or live, largest first.
        counters: At least ``model.COUNTERS``.
        windows: In which way each part of the trace was watched, oldest first; one at least.
        certainty: Of all outstanding heap memory; None where it is exact.
        unmapped: Who gave address space back, most first; None where it was not recorded.
    """

    name: str
    info: TraceInfo
    targets: tuple[TargetInfo, ...]
    duration_s: float
    n_snapshots: int
    end_reason: str | None
    recording_error: str | None
    events: tuple[Event, ...]
    selection: Selection
    totals: Mapping[Kind, Totals]
    jvm: Totals
    backing: Totals
    backing_sites: tuple[SiteReport, ...]
    growth: Growth
    resident: Resident | None
    sites: tuple[SiteReport, ...]
    n_sites: int
    program_sites: tuple[SiteReport, ...]
    n_program_sites: int
    jvm_sites: tuple[SiteReport, ...]
    n_growing: int
    top_path: tuple[SiteReport, int] | None
    fastest: SiteReport | None
    threads: tuple[ThreadReport, ...]
    counters: Mapping[str, int]
    guessed: Mapping[str, int]
    overhead: Overhead
    windows: tuple[Window, ...] = ()
    certainty: Certainty | None = None
    unmapped: tuple[UnmapReport, ...] | None = None

    @property
    def sample_bytes(self) -> int:
        """Mean bytes from one sample to the next, the most where that changed; 0 where every block was kept."""
        return max([self.info.sample_bytes, *(window.sample_bytes for window in self.windows)])


def build(recording: Recording, selection: Selection) -> Report:
    """Counts everything a report says.

    Raises:
        RecordingError: The recording is damaged.
        UsageError: A filter of the selection makes no sense.
    """
    curves = site_curves(recording)
    table = site_table(recording)
    everything = _with_growth(table, measure(curves))
    program = everything[everything["owner"] != Owner.ALLOCATOR.value]
    backing = everything[everything["owner"] == Owner.ALLOCATOR.value]
    whole = curves.grouped(_labels(len(table), program), 1)

    chosen = keep_threads(program, selection.thread)
    chosen = keep_functions(chosen, selection.function, recording.stack)
    merged, labels = merge(chosen, selection.by, len(table))
    rows = _with_growth(merged, measure(curves.grouped(labels, len(merged))))
    rows = rows[_is_shown(rows, selection.metric)]
    of_jvm = rows["owner"] == Owner.JVM.value
    holding = program[_is_shown(program, Metric.OUTSTANDING)]
    of_program = holding[holding["owner"] == Owner.PROGRAM.value]
    growing = of_program[of_program["verdict"] == "growing"]
    return Report(
        name=recording.name,
        info=recording.info,
        targets=recording.targets,
        duration_s=recording.elapsed_s,
        n_snapshots=len(recording.snapshots),
        end_reason=recording.end_reason,
        recording_error=recording.recording_error,
        events=recording.events,
        selection=selection,
        totals={kind: _kind_totals(recording, program, kind) for kind in Kind},
        jvm=_sum(program[program["owner"] == Owner.JVM.value]),
        backing=_sum(backing),
        backing_sites=_site_reports(recording, backing[_is_shown(backing, Metric.OUTSTANDING)]),
        growth=measure(whole)[0],
        resident=_resident(recording),
        sites=_site_reports(recording, rank(rows, selection), selection.by),
        n_sites=len(rows),
        program_sites=_site_reports(recording, rank(rows[~of_jvm], selection), selection.by),
        n_program_sites=int((~of_jvm).sum()),
        jvm_sites=_site_reports(recording, rows[of_jvm], selection.by),
        n_growing=len(growing),
        top_path=_top_path(recording, of_program),
        fastest=_first(recording, growing, "slope_bytes_per_s"),
        threads=_threads(recording, holding),
        guessed=_guessed(recording, holding),
        counters=dict.fromkeys(COUNTERS, 0) | dict(recording.last_snapshot.counters),
        overhead=_overhead(recording),
        windows=recording.windows or (_only_window(recording),),
        certainty=_certainty(program[program["kind"] == Kind.HEAP.value]),
        unmapped=_unmapped(recording, selection),
    )


def stack_id(stack: Stack) -> str:
    """Text id of a stack: the same for the same functions and offsets, wherever the modules were loaded.

    One without frames is known by its key.
    """
    if not stack.frames:
        return f"{stack.key:016x}"
    digest = blake2b(digest_size=8)
    for frame in stack.frames:
        name = "" if frame.kind is FrameKind.UNRESOLVED and frame.module else frame.function
        digest.update(f"{name}\0{frame.module}\0{frame.offset}\0{frame.kind}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _with_growth(table: pd.DataFrame, growths: Sequence[Growth]) -> pd.DataFrame:
    return table.assign(
        growth=pd.Series(list(growths), index=table.index, dtype=object),
        slope_bytes_per_s=pd.Series([g.slope_bytes_per_s for g in growths], index=table.index, dtype="float64"),
        verdict=pd.Series([g.verdict.value for g in growths], index=table.index, dtype=object),
    )


def _labels(n_sites: int, chosen: pd.DataFrame) -> Ints:
    labels = np.full(n_sites, -1, dtype=np.int64)
    labels[chosen.index.to_numpy()] = 0
    return labels


def _is_shown(table: pd.DataFrame, metric: Metric) -> pd.Series[bool]:
    shown = (table["outstanding_bytes"] > 0) | (table["outstanding_count"] > 0)
    return shown | (table["allocated_count"] > 0) if metric is Metric.ALLOCATED else shown


def _sum(table: pd.DataFrame) -> Totals:
    return Totals(
        outstanding_bytes=int(table["outstanding_bytes"].sum()),
        outstanding_count=int(table["outstanding_count"].sum()),
        allocated_bytes=int(table["allocated_bytes"].sum()),
        allocated_count=int(table["allocated_count"].sum()),
        freed_bytes=int(table["freed_bytes"].sum()),
        freed_count=int(table["freed_count"].sum()),
        resident_bytes=int(table["resident_bytes"].sum()),
        reserved_bytes=int(table["reserved_bytes"].sum()),
    )


def _certainty(table: pd.DataFrame) -> Certainty | None:
    """Of the sum over some sites."""
    uncertainty = Uncertainty(
        int(table["n_sampled"].sum()), float(table["variance_bytes"].sum()), float(table["variance_count"].sum())
    )
    totals = _sum(table)
    return certainty(totals.outstanding_bytes, totals.outstanding_count, uncertainty)


def _only_window(recording: Recording) -> Window:
    """Of a recording from before there were several."""
    last = recording.last_snapshot
    sample_bytes = recording.info.sample_bytes
    level = Level.SAMPLED if sample_bytes else Level.EXACT if "malloc" in recording.info.probes else Level.SYSCALLS
    return Window(0.0, last.elapsed_s, level, sample_bytes, last.probe_hits, 0.0, last.target_cpu_s)


def _kind_totals(recording: Recording, program: pd.DataFrame, kind: Kind) -> Totals:
    """Sums over the sites of a kind and those that were dropped, which hold nothing but have allocated."""
    totals = _sum(program[program["kind"] == kind.value])
    retired = [site for site in recording.retired if site.key.kind is kind and site.owner is not Owner.ALLOCATOR]
    return replace(
        totals,
        allocated_bytes=totals.allocated_bytes + sum(site.allocated_bytes for site in retired),
        allocated_count=totals.allocated_count + sum(site.allocated_count for site in retired),
        freed_bytes=totals.freed_bytes + sum(site.freed_bytes for site in retired),
        freed_count=totals.freed_count + sum(site.freed_count for site in retired),
    )


def _site_reports(recording: Recording, rows: pd.DataFrame, by: By = By.SITE_AND_THREAD) -> tuple[SiteReport, ...]:
    pids = {target.slot: target.pid for target in recording.targets}
    merged_stacks = by is By.THREAD
    return tuple(_site_report(recording, row, pids, merged_stacks) for row in rows.to_dict("records"))


def _site_report(
    recording: Recording, row: Mapping[Hashable, Any], pids: Mapping[int, int], merged_stacks: bool
) -> SiteReport:
    stack = Stack(0, ()) if merged_stacks else _stack(recording, int(row["stack_key"]))
    resident, oldest = row["resident_bytes"], row["oldest_s"]
    return SiteReport(
        id=stack_id(stack),
        kind=Kind(row["kind"]),
        owner=Owner(row["owner"]),
        functions=row["functions"],
        pid=pids.get(row["slot"], 0),
        tid=int(row["tid"]),
        thread=row["thread"],
        n_threads=int(row["n_threads"]),
        n_stacks=int(row["n_stacks"]),
        totals=Totals(
            **{name: int(row[name]) for name in TOTALS}, resident_bytes=0 if math.isnan(resident) else int(resident)
        ),
        resident_bytes=None if math.isnan(resident) else int(resident),
        oldest_s=None if math.isnan(oldest) else float(oldest),
        growth=row["growth"],
        stack=stack,
        certainty=certainty(
            int(row["outstanding_bytes"]),
            int(row["outstanding_count"]),
            Uncertainty(int(row["n_sampled"]), float(row["variance_bytes"]), float(row["variance_count"])),
        ),
    )


def _stack(recording: Recording, key: int) -> Stack:
    known = recording.stack(key)
    if known is not None and known.frames:
        return known
    return Stack(key, ()) if recording.info.backend in _WITHOUT_STACKS else LOST_STACK


def _unmapped(recording: Recording, selection: Selection) -> tuple[UnmapReport, ...] | None:
    """Those that the selection's thread and function leave: neither merged nor cut, since they are no sites."""
    if recording.unmapped is None or recording.info.backend in _WITHOUT_STACKS:
        return None
    pids = {target.slot: target.pid for target in recording.targets}
    table = keep_threads(unmap_table(recording), selection.thread)
    chosen = keep_functions(table, selection.function, recording.stack).index
    rows = []
    for totals, tid, thread in zip(
        (recording.unmapped[i] for i in chosen), table["tid"][chosen], table["thread"][chosen], strict=True
    ):
        is_allocators = totals.owner is Owner.ALLOCATOR and not totals.stack_key
        stack = Stack(0, ()) if is_allocators else _stack(recording, totals.stack_key)
        rows.append(UnmapReport(stack_id(stack), totals, pids.get(totals.slot, 0), int(tid), thread, stack))
    return tuple(sorted(rows, key=_by_given))


def _by_given(row: UnmapReport) -> tuple[int, ...]:
    return -row.given_bytes, -row.totals.reserved_bytes, -row.totals.n_calls, row.totals.slot, row.totals.number


def _first(recording: Recording, rows: pd.DataFrame, column: str) -> SiteReport | None:
    return next(iter(_site_reports(recording, rows.sort_values(column, ascending=False).head(1))), None)


def _top_path(recording: Recording, holding: pd.DataFrame) -> tuple[SiteReport, int] | None:
    if holding.empty:
        return None
    by_stack = holding.groupby(["slot", "stack_key"])["outstanding_bytes"].transform("sum")
    most = int(by_stack.max())
    site = _first(recording, holding[by_stack == most], "outstanding_bytes")
    return None if site is None else (site, most)


def _guessed(recording: Recording, holding: pd.DataFrame) -> dict[str, int]:
    """Bytes at stacks whose walk had to guess or stop, by the module of the first frame without unwind information."""
    by_stack = holding.groupby("stack_key")["outstanding_bytes"].sum()
    guessed: dict[str, int] = {}
    for key, n_bytes in zip(by_stack.index.to_numpy(), by_stack.tolist(), strict=True):
        stack = recording.stack(int(key))
        frames = stack.frames if stack is not None else ()
        callee = next((a for a, b in pairwise(frames) if b.found is FrameSource.GUESS), None)
        if callee is None and frames and stack is not None and stack.end == _NO_TABLE:
            callee = frames[-1]
        if callee is not None:
            module = callee.module or "code without a file (JIT)"
            guessed[module] = guessed.get(module, 0) + int(n_bytes)
    return guessed


def _threads(recording: Recording, holding: pd.DataFrame) -> tuple[ThreadReport, ...]:
    """One row a tid, which is all that the sites of a report name a thread by; the latest owner of a tid names it."""
    by_tid = holding.groupby("tid")
    sums = by_tid[["outstanding_bytes", "outstanding_count"]].sum()
    tids = [int(tid) for tid in sums.index.to_numpy()]
    n_bytes = dict(zip(tids, sums["outstanding_bytes"].tolist(), strict=True))
    n_blocks = dict(zip(tids, sums["outstanding_count"].tolist(), strict=True))
    latest = {thread.tid: thread for _, thread in sorted(recording.threads.items())}
    rows = []
    for tid in latest.keys() | n_bytes.keys():
        thread = latest.get(tid)
        # TID 0 stands for threads that found no room: no thread of its own.
        if tid in n_bytes or (thread is not None and thread.alive and tid):
            name, alive = (thread.name, thread.alive) if thread else (UNKNOWN_THREAD, False)
            rows.append(ThreadReport(int(tid), name, alive, int(n_bytes.get(tid, 0)), int(n_blocks.get(tid, 0))))
    return tuple(sorted(rows, key=lambda row: (-row.outstanding_bytes, -row.outstanding_count, row.tid)))


def _resident(recording: Recording) -> Resident | None:
    known = [i for i, snapshot in enumerate(recording.snapshots) if snapshot.rss_bytes > 0]
    if not known:
        return None
    first, last = known[0], known[-1]
    estimate = resident_estimate(recording)
    return Resident(
        first_bytes=recording.snapshots[first].rss_bytes,
        last_bytes=recording.snapshots[last].rss_bytes,
        explained_bytes=estimate[last] - estimate[first],
        growth=course(
            [recording.snapshots[i].elapsed_s for i in known], [recording.snapshots[i].rss_bytes for i in known]
        ),
    )


def _overhead(recording: Recording) -> Overhead:
    last = recording.last_snapshot
    # Where there was a budget its windows say what was measured in each; else all hits cost the same.
    in_probes_s = sum(window.cost_s for window in recording.windows) or last.probe_hits * last.probe_cost_ns / 1e9
    whole_s = last.target_cpu_s or last.elapsed_s
    return Overhead(
        cost_s=in_probes_s,
        core_pct=100 * in_probes_s / last.elapsed_s if last.elapsed_s else 0.0,
        kernel_bytes=last.counters.get("kernel_map_bytes", 0),
        probe_hits=last.probe_hits,
        probe_cost_ns=last.probe_cost_ns,
        target_cpu_pct=100 * in_probes_s / whole_s if whole_s else 0.0,
        tracer_cpu_s=last.tracer_cpu_s,
        tracer_max_rss_bytes=last.tracer_max_rss_bytes,
    )
