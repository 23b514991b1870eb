"""Counts what a report says, from a recording. No format counts anything itself.

Caveat: memory that an allocator took from the kernel for itself (``Owner.ALLOCATOR``) holds the blocks that are counted
already. It is reported apart, and no total includes it.
"""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from nativeleak.analysis.certainty import Certainty, certainty
from nativeleak.analysis.curves import MIN_WATCHED_PCT, Span, watched_span
from nativeleak.analysis.findings import find
from nativeleak.analysis.growth import Growth, Verdict, course, resident_estimate
from nativeleak.analysis.paths import Paths
from nativeleak.analysis.select import Metric, Selection, keep_functions, keep_threads
from nativeleak.analysis.table import UNKNOWN_THREAD, add_paths, site_table, unmap_table
from nativeleak.model import (
    COUNTERS,
    Kind,
    Level,
    Owner,
    Stack,
    Uncertainty,
    Window,
)
from nativeleak.recording import Recording
from nativeleak.reports.detail import Detail
from nativeleak.reports.memory import memory_report
from nativeleak.reports.report import (
    Overhead,
    Report,
    Resident,
    Sums,
    ThreadReport,
    Totals,
    TraceFacts,
    UnmapReport,
)
from nativeleak.reports.rows import Rows, is_shown
from nativeleak.reports.stacks import Stacks, stack_id
from nativeleak.reports.stages import begin


def build(recording: Recording, selection: Selection) -> Report:
    """Counts everything a report says.

    Raises:
        RecordingError: The recording is damaged.
        UsageError: A filter of the selection makes no sense.
    """
    begin("reading the sites", 0.0)
    table = site_table(recording)
    chosen = keep_threads(table, selection.thread)
    chosen = keep_functions(chosen, selection.function, recording.stack)
    program = chosen[chosen["owner"] != Owner.ALLOCATOR.value]
    backing = table[table["owner"] == Owner.ALLOCATOR.value]
    holding = program[is_shown(program, Metric.OUTSTANDING)]

    begin("reading the stacks", 0.24)
    paths, span = Paths(recording), watched_span(recording)
    program = add_paths(program, paths)
    begin("looking for causes", 0.45)
    found = find(recording, program, paths, span)
    resident = _resident(recording)
    begin("reading the memory", 0.75)
    stacks = Stacks(recording)
    return Report(
        trace=_trace_facts(recording),
        selection=selection,
        sums=Sums(
            by_kind={kind: _kind_totals(recording, program, kind, selection) for kind in Kind},
            jvm=_sum(program[program["owner"] == Owner.RUNTIME.value]),
            backing=_sum(backing),
            growth=_process_growth(found.growth, resident, span, has_suspects=bool(found.suspects)),
            watched_pct=span.watched_pct,
            in_windows=span.in_windows,
            certainty=_certainty(program[program["kind"] == Kind.HEAP.value]),
        ),
        resident=resident,
        suspects=found.suspects,
        findings=found.others,
        stacks=stacks,
        detail=Detail(recording, paths, program, selection, span),
        rows=Rows(recording, program, backing, selection, stacks, span),
        threads=_threads(recording, holding),
        unmapped=_unmapped(recording, selection, stacks),
        counters=dict.fromkeys(COUNTERS, 0) | dict(recording.last_snapshot.counters),
        guessed=_guessed(paths, holding),
        overhead=_overhead(recording),
        memory=memory_report(recording),
    )


def _process_growth(growth: Growth | None, resident: Resident | None, span: Span, *, has_suspects: bool) -> Growth:
    """Growth of all that was seen; of resident memory, without a verdict, where too little was watched.

    Windows prove growth where they name who grows. They do not prove that nothing does.
    """
    if span.in_windows and resident is not None:
        verdict = Verdict.GROWING if has_suspects else Verdict.UNKNOWN
        return replace(resident.growth, verdict=verdict, enough_s=None)
    if span.watched_pct < MIN_WATCHED_PCT:
        seen = resident.growth if resident is not None else Growth(0.0, 0.0, 0.0, Verdict.UNKNOWN)
        return replace(seen, verdict=Verdict.UNKNOWN, enough_s=None)
    return growth or Growth(0.0, 0.0, 0.0, Verdict.STEADY)


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
    """Bounds of the sum over some sites; None where it is exact."""
    uncertainty = Uncertainty(
        int(table["n_sampled"].sum()), float(table["variance_bytes"].sum()), float(table["variance_count"].sum())
    )
    totals = _sum(table)
    return certainty(totals.outstanding_bytes, totals.outstanding_count, uncertainty)


def _trace_facts(recording: Recording) -> TraceFacts:
    return TraceFacts(
        name=recording.name,
        info=recording.info,
        targets=recording.targets,
        duration_s=recording.elapsed_s,
        n_snapshots=len(recording.snapshots),
        end_reason=recording.end_reason,
        recording_error=recording.recording_error,
        events=recording.events,
        windows=recording.windows or (_only_window(recording),),
    )


def _only_window(recording: Recording) -> Window:
    """The whole trace as one window, for recordings of versions that wrote no windows."""
    last = recording.last_snapshot
    sample_bytes = recording.info.sample_bytes
    level = Level.SAMPLED if sample_bytes else Level.EXACT if "malloc" in recording.info.probes else Level.SYSCALLS
    return Window(0.0, last.elapsed_s, level, sample_bytes, last.probe_hits, 0.0, last.target_cpu_s)


def _kind_totals(recording: Recording, program: pd.DataFrame, kind: Kind, selection: Selection) -> Totals:
    """Sums over the sites of a kind, with retired sites: those hold nothing but have allocated.

    Retired sites have no thread and no stack, so none passes a filter.
    """
    totals = _sum(program[program["kind"] == kind.value])
    if selection.thread is not None or selection.function is not None:
        return totals
    retired = [site for site in recording.retired if site.key.kind is kind and site.owner is not Owner.ALLOCATOR]
    return replace(
        totals,
        allocated_bytes=totals.allocated_bytes + sum(site.allocated_bytes for site in retired),
        allocated_count=totals.allocated_count + sum(site.allocated_count for site in retired),
        freed_bytes=totals.freed_bytes + sum(site.freed_bytes for site in retired),
        freed_count=totals.freed_count + sum(site.freed_count for site in retired),
    )


def _unmapped(recording: Recording, selection: Selection, stacks: Stacks) -> tuple[UnmapReport, ...] | None:
    """Callers that pass the selection's thread and function filters; they are no sites, so none is merged or cut."""
    if recording.unmapped is None or not recording.info.coverage.has_unmappers:
        return None
    pids = {target.slot: target.pid for target in recording.targets}
    table = keep_threads(unmap_table(recording), selection.thread)
    chosen = keep_functions(table, selection.function, recording.stack).index
    rows = []
    for totals, tid, thread in zip(
        (recording.unmapped[i] for i in chosen), table["tid"][chosen], table["thread"][chosen], strict=True
    ):
        is_allocators = totals.owner is Owner.ALLOCATOR and not totals.stack_key
        stack = Stack(0, ()) if is_allocators else stacks.stack(totals.stack_key)
        rows.append(UnmapReport(stack_id(stack), totals, pids.get(totals.slot, 0), int(tid), thread, stack))
    return tuple(sorted(rows, key=_by_given))


def _by_given(row: UnmapReport) -> tuple[int, ...]:
    return -row.given_bytes, -row.totals.reserved_bytes, -row.totals.n_calls, row.totals.slot, row.totals.number


def _guessed(paths: Paths, holding: pd.DataFrame) -> dict[str, int]:
    """Bytes at stacks with a guessed or missing caller, by the module of the first frame without unwind information."""
    by_stack = holding.groupby("stack_key")["outstanding_bytes"].sum()
    guessed: dict[str, int] = {}
    for key, n_bytes in zip(by_stack.index.tolist(), by_stack.tolist(), strict=True):
        module = paths.unsure_module(int(key))
        if module is not None:
            guessed[module] = guessed.get(module, 0) + int(n_bytes)
    return guessed


def _threads(recording: Recording, holding: pd.DataFrame) -> tuple[ThreadReport, ...]:
    """One row a TID: sites of a report know a thread by its TID only. Its last thread gives the name."""
    by_tid = holding.groupby("tid")
    sums = by_tid[["outstanding_bytes", "outstanding_count"]].sum()
    tids = [int(tid) for tid in sums.index.to_numpy()]
    n_bytes = dict(zip(tids, sums["outstanding_bytes"].tolist(), strict=True))
    n_blocks = dict(zip(tids, sums["outstanding_count"].tolist(), strict=True))
    latest = {thread.tid: thread for _, thread in sorted(recording.threads.items())}
    rows = []
    for tid in latest.keys() | n_bytes.keys():
        thread = latest.get(tid)
        # TID 0 stands for threads beyond the limit: it is no thread of its own.
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
    # With a budget each window has a measured cost; without one every hit costs the same.
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
