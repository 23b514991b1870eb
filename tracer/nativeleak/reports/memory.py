"""What a report says of the targets' memory as a whole: limits, resident memory by use, threads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from nativeleak.analysis.limits import LimitReport, limit_reports
from nativeleak.analysis.resident import Moment, ResidentLine, ResidentMemory, resident_memory
from nativeleak.analysis.thread_growth import ThreadGrowth, thread_growth
from nativeleak.recording import Recording

Json = dict[str, Any]

LABELS: Final = {
    ResidentLine.LIVE: "live blocks",
    ResidentLine.RETAINED: "allocator memory not in live blocks: retained or from before the trace",
    ResidentLine.JAVA_HEAP: "Java heap",
    ResidentLine.JVM: "JVM itself",
    ResidentLine.MAPPED: "mapped by the program",
    ResidentLine.STACKS: "thread stacks",
    ResidentLine.FILES: "files",
    ResidentLine.SHARED: "shared memory",
    ResidentLine.UNEXPLAINED: "unexplained",
}
UNWATCHED: Final = "allocator memory, blocks not watched"
"""Label of ``RETAINED`` while the blocks inside of allocators were not watched."""


@dataclass(frozen=True, slots=True)
class MemoryReport:
    """Memory of the targets.

    Attributes:
        limits: That which may be reached soonest first; empty in recordings without limits.
        resident: None where resident memory is unknown.
        threads: None in recordings without the number of threads.
    """

    limits: tuple[LimitReport, ...]
    resident: ResidentMemory | None
    threads: ThreadGrowth | None


def memory_report(recording: Recording) -> MemoryReport:
    """Count it.

    Raises:
        RecordingError: The recording is damaged.
    """
    return MemoryReport(limit_reports(recording), resident_memory(recording), thread_growth(recording))


def limits_json(memory: MemoryReport) -> list[Json]:
    """Value of ``limits`` in the JSON report."""
    return [_limit(report) for report in memory.limits]


def resident_json(memory: MemoryReport) -> Json:
    """Keys that ``resident`` in the JSON report has beside those of its growth."""
    resident = memory.resident
    if resident is None:
        return {"lines": [], "peak_bytes": 0, "peak_at_s": 0.0}
    start, end, peak = resident.start, resident.end, resident.peak
    lines = [
        {
            "id": line.value,
            "label": LABELS[line],
            "start_bytes": _bytes(start, line),
            "end_bytes": _bytes(end, line),
            "peak_bytes": _bytes(peak, line),
        }
        for line in ResidentLine
    ]
    return {
        "lines": lines if end is not None else [],
        "lines_start_s": None if start is None else start.elapsed_s,
        "lines_end_s": None if end is None else end.elapsed_s,
        "lines_peak_s": None if peak is None else peak.elapsed_s,
        "untouched_bytes": None if end is None else end.untouched_bytes,
        "peak_bytes": resident.peak_bytes,
        "peak_at_s": resident.peak_at_s,
        "peak_between_snapshots": resident.is_between,
    }


def threads_json(memory: MemoryReport) -> Json | None:
    """Value of ``thread_growth`` in the JSON report."""
    threads = memory.threads
    if threads is None:
        return None
    growth = threads.growth
    return {
        "start": threads.start,
        "end": threads.end,
        "peak": threads.peak,
        "growth": {
            "slope_per_s": growth.slope_bytes_per_s,
            "ci95": [growth.low_bytes_per_s, growth.high_bytes_per_s],
            "verdict": growth.verdict.value,
        },
        "is_finding": threads.is_finding,
        "started_by": [
            {
                "functions": [frame.function for frame in starter.frames],
                "threads": starter.n_threads,
                "resident_bytes": starter.resident_bytes,
            }
            for starter in threads.starters
        ],
    }


def _bytes(moment: Moment | None, line: ResidentLine) -> int:
    return 0 if moment is None else moment.lines[line]


def _limit(report: LimitReport) -> Json:
    forecast = report.forecast
    return {
        "kind": report.limit.kind.value,
        "name": report.limit.name,
        "pid": report.pid,
        "limit_bytes": report.limit.limit_bytes,
        "start_usage_bytes": report.start_bytes,
        "usage_bytes": report.usage_bytes,
        "reached_in_s": None if forecast is None else forecast.reached_in_s,
        "reached_in_ci95_s": None if forecast is None else [forecast.soonest_s, forecast.latest_s],
        "accelerating": forecast is not None and forecast.accelerates,
    }
