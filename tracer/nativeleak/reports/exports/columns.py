"""The columns of a table of call sites, for the formats that are tables."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

from nativeleak.analysis.naming import head_of, shown_name
from nativeleak.analysis.select import pool_of
from nativeleak.reports.folded import metric_value
from nativeleak.reports.names import folded_name, printable
from nativeleak.reports.report import SiteReport, SiteTable

COLUMNS: Final = {
    "id": "string", "kind": "string", "owner": "string", "host": "string", "process": "string",
    "pid": "Int64", "tid": "Int64", "thread": "string",
    "pool": "string", "head": "string", "functions": "string",
    "outstanding_bytes": "Int64", "outstanding_count": "Int64", "allocated_bytes": "Int64", "allocated_count": "Int64",
    "freed_bytes": "Int64", "freed_count": "Int64", "resident_bytes": "Int64", "reserved_bytes": "Int64",
    "oldest_s": "Float64", "growth_bytes_per_s": "Float64", "growth_low": "Float64", "growth_high": "Float64",
    "verdict": "string", "n_threads": "Int64", "n_stacks": "Int64", "truncated": "boolean", "stack": "string",
    "recorded_blocks": "Int64", "blocks_in_use": "Int64", "lost_blocks": "Int64", "lost_bytes": "Int64",
    "lost_certainty": "string", "held_by": "string", "held_by_blocks": "Int64",
}  # fmt: skip
"""Names of the columns and their types in pandas; scripts may rely on them, and on nothing about their order."""

Cell = str | int | float | bool | None


def rows(report: SiteTable) -> Iterator[tuple[Cell, ...]]:
    """Cells of each site, most of the report's metric first; None for what is not known."""
    metric = report.selection.metric
    for site in sorted(report.rows.sites.rows, key=lambda site: -metric_value(site, metric)):
        yield _cells(site)


def _known(rate: float) -> float | None:
    return None if math.isnan(rate) else round(rate, 3)


def _cells(site: SiteReport) -> tuple[Cell, ...]:
    totals, growth, frames = site.totals, site.growth, site.stack.frames
    return (
        site.id,
        site.kind.value,
        site.owner.value,
        printable(site.host) or None,
        printable(site.process) or None,
        site.pid or None,
        site.tid or None,
        printable(site.thread),
        printable(pool_of(site.thread)),
        printable(shown_name(frames[head_of(frames).index])) if frames else None,
        printable(" ".join(site.functions)),
        totals.outstanding_bytes,
        totals.outstanding_count,
        totals.allocated_bytes,
        totals.allocated_count,
        totals.freed_bytes,
        totals.freed_count,
        site.resident_bytes,
        totals.reserved_bytes,
        None if site.oldest_s is None else round(site.oldest_s, 3),
        _known(growth.slope_bytes_per_s),
        _known(growth.low_bytes_per_s),
        _known(growth.high_bytes_per_s),
        growth.verdict.value,
        site.n_threads or None,
        site.n_stacks or None,
        site.stack.truncated,
        ";".join(folded_name(frame) for frame in reversed(frames)),
        *_fate_cells(site),
    )


def _fate_cells(site: SiteReport) -> tuple[Cell, ...]:
    """What a look found; of several holders the one of the most blocks."""
    fate = site.fate
    if fate is None:
        return (None,) * 7
    holder, n_held = fate.held_by[0] if fate.held_by else (None, None)
    return (
        fate.n_recorded,
        fate.n_in_use,
        fate.n_lost,
        fate.lost_bytes,
        printable(site.lost_certainty) or None,
        None if holder is None else printable(holder),
        n_held,
    )
