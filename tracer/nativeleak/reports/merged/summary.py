"""Sums of a report of many recordings by host and by process, and the sentences that belong to it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Final

from nativeleak.analysis.growth import Growth, Verdict
from nativeleak.analysis.select import Metric
from nativeleak.reports.merged.merge import KEYS, Merged, Process, Rows, merge_rows, metric_values
from nativeleak.reports.merged.sites import MergedTable
from nativeleak.reports.names import printable
from nativeleak.reports.numbers import count

_MAX_REASONS: Final = 3


@dataclass(frozen=True, slots=True)
class Dimension:
    """Memory of one host or process.

    Attributes:
        number: Of the host or process.
        growth: None where it is not known.
        n_processes: Processes of a host; 1 of a process.
    """

    number: int
    outstanding_bytes: int
    outstanding_count: int
    allocated_bytes: int
    growth: Growth | None
    n_processes: int


def dimensions(merged: Merged, name: str, metric: Metric) -> list[Dimension]:
    """Every ``host`` or ``process`` that any row has, most of the metric first."""
    rows = merge_rows(merged.rows, (name,))
    values = metric_values(rows, metric).tolist() if len(rows) else []
    return [
        Dimension(
            int(rows.keys[i, KEYS.index(name)]),
            int(rows.figure("outstanding_bytes")[i]),
            int(rows.figure("outstanding_count")[i]),
            int(rows.figure("allocated_bytes")[i]),
            growth_of(rows, i),
            int(rows.n_processes[i]),
        )
        for i in sorted(range(len(rows)), key=lambda i: -values[i])
    ]


def growth_of(rows: Rows, at: int) -> Growth | None:
    """Growth of a row, without a verdict; None where it is not known."""
    if not rows.grows[at]:
        return None
    slope, margin = float(rows.growth[at, 0]), math.sqrt(float(rows.growth[at, 1]))
    return Growth(slope, slope - margin, slope + margin, Verdict.UNKNOWN)


def headline(table: MergedTable) -> str:
    """What was read, and the time that it covers."""
    merged = table.merged
    start_s, end_s = table.trace.info.started, table.trace.info.started + table.trace.duration_s
    start, end = (datetime.fromtimestamp(each, UTC) for each in (start_s, end_s))
    ends = f"{end:%H:%M}" if end.date() == start.date() else f"{end:%Y-%m-%d %H:%M}"
    return (
        f"{count(len(merged.sources), 'recording')} of {_processes(len(merged.processes))} on "
        f"{count(len(merged.hosts), 'host')} \N{MIDDLE DOT} {start:%Y-%m-%d %H:%M} to {ends} UTC"
    )


def process_text(merged: Merged, process: Process) -> str:
    """A process with its host."""
    return f"{process.comm} (PID {process.pid}) on {merged.hosts[process.host]}"


def notes(merged: Merged) -> Iterator[str]:
    """What a reader must know of the figures, as sentences."""
    several = [process for process in merged.processes if len(process.sources) > 1]
    if several:
        yield (
            f"{_processes(len(several))} have several recordings: memory of an earlier one may be freed since, and is "
            "outstanding here."
        )
    overlapping = sum(any(_overlaps(merged, process)) for process in several)
    if overlapping:
        yield f"Recordings of {_processes(overlapping)} overlap in time: memory in both counts twice."
    unknown = [source for source in merged.sources if not source.grows]
    if unknown:
        yield (
            f"Growth is not known of {count(len(unknown), 'recording')}: too short, or too little of the heap was "
            "watched. It is that of the others."
        )
    sampled = [source for source in merged.sources if source.sample_bytes]
    if sampled:
        yield f"Heap memory of {count(len(sampled), 'recording')} is estimated from samples."
    blind = [source for source in merged.sources if source.watched_pct < 100]
    if blind:
        least = min(source.watched_pct for source in blind)
        yield f"The heap was not watched all the time in {count(len(blind), 'recording')}: in one, {least:.0f} %."
    kinds = {(source.info.backend, source.info.probes, source.info.min_size) for source in merged.sources}
    if len(kinds) > 1:
        yield "The recordings did not see the same: engine, probes or --min-size differ."
    versions = sorted({source.info.version for source in merged.sources})
    if len(versions) > 1:
        yield f"Versions {', '.join(versions)} of nativeleak wrote them."
    looked = [source for source in merged.sources if source.looks]
    if looked and len(looked) < len(merged.sources):
        yield f"Who holds the blocks was looked for after {count(len(looked), 'recording')}, not after the others."
    reasons = Counter(why for source in looked for why in {look.why_not for look in source.looks if look.why_not})
    for why, n in reasons.most_common(_MAX_REASONS):
        yield f"Who holds the blocks of {count(n, 'recording')} is not known: {printable(why)}."
    losing = [source for source in merged.sources if any(name.startswith("lost_") for name in source.counters)]
    if losing:
        lost = sum(source.counters.get("lost_allocations", 0) for source in losing)
        yield f"{count(len(losing), 'recording')} lost something: {lost:,} allocations are in no total."


def _overlaps(merged: Merged, process: Process) -> Iterator[bool]:
    spans = sorted(
        (merged.sources[i].info.started, merged.sources[i].info.started + merged.sources[i].duration_s)
        for i in process.sources
    )
    for (_, end_s), (start_s, _) in pairwise(spans):
        yield start_s < end_s


def _processes(n: int) -> str:
    return f"{n:,} process{'' if n == 1 else 'es'}"
