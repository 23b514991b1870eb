"""Folded stacks, one line a site: the input of flamegraph.pl, inferno and speedscope."""

from __future__ import annotations

import math
from itertools import chain
from typing import BinaryIO

from nativeleak.analysis.select import Metric
from nativeleak.reports.formats import WriteOptions
from nativeleak.reports.names import folded_name, folded_text
from nativeleak.reports.output import encode_text
from nativeleak.reports.report import SiteReport, SiteTable


def write(report: SiteTable, stream: BinaryIO, options: WriteOptions) -> None:
    """Frames root first below the thread's name, joined by ``;``, a space, the metric. Sites without any are left out.

    Bytes, a count, or for growth bytes a minute; whole numbers only.
    """
    del options
    for site in report.rows.sites.rows:
        value = metric_value(site, report.selection.metric)
        if value > 0:
            frames = map(folded_name, reversed(site.stack.frames))
            stream.write(encode_text(f"{';'.join(chain([folded_text(site.thread)], frames))} {value}\n"))


def metric_value(site: SiteReport, metric: Metric) -> int:
    """The metric of a site; growth in bytes a minute, so that slow growth does not round to nothing, 0 if not known."""
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
            slope = site.growth.slope_bytes_per_s
            return 0 if math.isnan(slope) else round(slope * 60)
