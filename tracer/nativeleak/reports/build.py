"""Counts what a report says, from a recording. No format counts anything itself.

Caveat: memory that an allocator took from the kernel for itself (``Owner.ALLOCATOR``) holds the blocks that are counted
already. It is reported apart, and no total includes it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from nativeleak.analysis.certainty import Certainty, certainty
from nativeleak.analysis.curves import watched_span
from nativeleak.analysis.paths import Paths
from nativeleak.analysis.rows import Table
from nativeleak.analysis.select import Selection, keep_functions, keep_threads
from nativeleak.analysis.table import add_paths, site_table
from nativeleak.model import (
    COUNTERS,
    Kind,
    Level,
    Owner,
    Uncertainty,
    Window,
)
from nativeleak.recording import Recording
from nativeleak.reports.answer import Answer
from nativeleak.reports.census import read_sums
from nativeleak.reports.detail import Detail
from nativeleak.reports.held import Held
from nativeleak.reports.report import (
    Overhead,
    Report,
    Sums,
    Totals,
    TraceFacts,
)
from nativeleak.reports.rows import Rows
from nativeleak.reports.stacks import Stacks
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
    program = chosen.where(chosen["owner"] != Owner.ALLOCATOR.value)
    backing = table.where(table["owner"] == Owner.ALLOCATOR.value)

    begin("reading the stacks", 0.24)
    paths, span = Paths(recording), watched_span(recording)
    program = add_paths(program, paths)
    stacks = Stacks(recording)
    held = Held.read(recording)
    answer = Answer(recording, program, paths, selection, stacks, span)
    return Report(
        trace=_trace_facts(recording),
        selection=selection,
        sums=Sums(
            by_kind={kind: _kind_totals(recording, program, kind, selection) for kind in Kind},
            jvm=_sum(program.where(program["owner"] == Owner.RUNTIME.value)),
            backing=_sum(backing),
            answer=answer,
            watched_pct=span.watched_pct,
            in_windows=span.in_windows,
            certainty=_certainty(program.where(program["kind"] == Kind.HEAP.value)),
        ),
        stacks=stacks,
        detail=Detail(recording, paths, program, selection, span),
        rows=Rows(recording, program, backing, selection, stacks, span, held),
        answer=answer,
        counters=dict.fromkeys(COUNTERS, 0) | dict(recording.last_snapshot.counters),
        overhead=_overhead(recording),
        held=held,
        census=read_sums(recording),
    )


def _sum(table: Table) -> Totals:
    return Totals(
        outstanding_bytes=int(table["outstanding_bytes"].sum()),
        outstanding_count=int(table["outstanding_count"].sum()),
        allocated_bytes=int(table["allocated_bytes"].sum()),
        allocated_count=int(table["allocated_count"].sum()),
        freed_bytes=int(table["freed_bytes"].sum()),
        freed_count=int(table["freed_count"].sum()),
        resident_bytes=int(np.nansum(table["resident_bytes"])),
        reserved_bytes=int(table["reserved_bytes"].sum()),
    )


def _certainty(table: Table) -> Certainty | None:
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


def _kind_totals(recording: Recording, program: Table, kind: Kind, selection: Selection) -> Totals:
    """Sums over the sites of a kind, with retired sites: those hold nothing but have allocated.

    Retired sites have no thread and no stack, so none passes a filter.
    """
    totals = _sum(program.where(program["kind"] == kind.value))
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
