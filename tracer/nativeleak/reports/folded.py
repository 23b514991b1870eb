"""Folded stacks, one line a site: what flamegraph.pl, inferno and speedscope take."""

from __future__ import annotations

from itertools import chain

from nativeleak.analysis.select import Metric
from nativeleak.reports.build import Report, SiteReport
from nativeleak.reports.names import folded_name, folded_text


def format_folded(report: Report) -> str:
    """Frames root first below the thread's name, joined by ``;``, a space, the metric. Sites of nothing are left out.

    Bytes, a count, or for growth bytes a minute; whole numbers only.
    """
    lines = []
    for site in report.sites:
        value = metric_value(site, report.selection.metric)
        if value > 0:
            frames = map(folded_name, reversed(site.stack.frames))
            lines.append(f"{';'.join(chain([folded_text(site.thread)], frames))} {value}\n")
    return "".join(lines)


def metric_value(site: SiteReport, metric: Metric) -> int:
    """The metric of a site; growth in bytes a minute, so that slow growth does not round to nothing."""
    match metric:
        case Metric.OUTSTANDING:
            return site.totals.outstanding_bytes
        case Metric.ALLOCATED:
            return site.totals.allocated_bytes
        case Metric.COUNT:
            return site.totals.outstanding_count
        case Metric.RESIDENT:
            return site.resident_bytes or 0
        case Metric.GROWTH:
            return round(site.growth.slope_bytes_per_s * 60)
