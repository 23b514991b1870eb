"""Resident memory over time for the page's chart: a stack of named lines, limits, growth and peaks."""

from __future__ import annotations

from typing import Any, Final

from nativeleak.analysis.growth import Growth, Verdict
from nativeleak.analysis.resident import Moment, ResidentLine, resident_course
from nativeleak.recording import Recording
from nativeleak.reports.html.redact import Redactor
from nativeleak.reports.memory import LABELS, UNWATCHED
from nativeleak.reports.report import Report
from nativeleak.reports.text_resident import limit_text

Json = dict[str, Any]

_ORDER: Final = (
    ResidentLine.LIVE,
    ResidentLine.RETAINED,
    ResidentLine.MAPPED,
    ResidentLine.JAVA_HEAP,
    ResidentLine.JVM,
    ResidentLine.STACKS,
    ResidentLine.UNEXPLAINED,
    ResidentLine.SHARED,
    ResidentLine.FILES,
)
"""From the top of the stack to its bottom: what may leak lies on top, where its growth shows."""
_MAX_MOMENTS: Final = 2000
_MIN_SHARE: Final = 0.002


def chart_facts(report: Report, redactor: Redactor) -> Json:
    """What the chart shows; ``lines`` is empty where resident memory was not read by use."""
    recording = report.detail.recording
    course = _thinned(resident_course(recording))
    known = [(each.elapsed_s, each.rss_bytes) for each in recording.snapshots if each.rss_bytes > 0]
    total = known if not course else [(moment.elapsed_s, moment.rss_bytes) for moment in course]
    return {
        "duration": report.trace.duration_s,
        "times": [round(at_s, 3) for at_s, _ in total],
        "total": [n_bytes for _, n_bytes in total],
        "lines": _lines(course),
        "limits": [
            {"text": redactor.text(limit_text(each)), "bytes": each.limit.limit_bytes, "kind": each.limit.kind.value}
            for each in report.memory.limits
            if each.limit.limit_bytes > 0 and each.pid
        ],
        "growth": _growth(report),
        "peak": _peak(report),
        "snapshots": _n_seen(recording),
    }


def _n_seen(recording: Recording) -> int:
    return len(recording.snapshots)


def _lines(course: list[Moment]) -> list[Json]:
    if len(course) < 2:
        return []
    highest = max(moment.rss_bytes for moment in course)
    is_watched = all(moment.is_watched for moment in course)
    lines, rest = [], [0] * len(course)
    for line in _ORDER:
        values = [moment.lines[line] for moment in course]
        if max(values) < _MIN_SHARE * highest:
            rest = [a + b for a, b in zip(rest, values, strict=True)]
            continue
        label = UNWATCHED if line is ResidentLine.RETAINED and not is_watched else LABELS[line]
        lines.append({"id": line.value, "label": label, "values": values})
    if any(rest):
        lines.append({"id": "other", "label": "other", "values": rest})
    return lines


def _thinned(course: list[Moment]) -> list[Moment]:
    """At most ``_MAX_MOMENTS`` readings, with the first, the last and the highest."""
    if len(course) <= _MAX_MOMENTS:
        return course
    step = len(course) / _MAX_MOMENTS
    highest = max(range(len(course)), key=lambda i: course[i].rss_bytes)
    chosen = {int(i * step) for i in range(_MAX_MOMENTS)} | {highest, len(course) - 1}
    return [course[i] for i in sorted(chosen)]


def _growth(report: Report) -> Json | None:
    """Growth of resident memory, for the band; None where it is not known."""
    growth: Growth | None = report.resident.growth if report.resident is not None else None
    if growth is None or growth.verdict is Verdict.UNKNOWN or not growth.slope_bytes_per_s:
        return None
    return {"slope": growth.slope_bytes_per_s, "low": growth.low_bytes_per_s, "high": growth.high_bytes_per_s}


def _peak(report: Report) -> Json | None:
    resident = report.memory.resident
    if resident is None or not resident.peak_bytes:
        return None
    return {"bytes": resident.peak_bytes, "at": resident.peak_at_s, "between": resident.is_between}
