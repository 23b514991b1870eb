"""Call sites as a table of comma-separated values (RFC 4180), one line a site.

Caveat: a spreadsheet runs a cell that begins like a formula, and the target chooses names. Text that begins with one
of ``= + - @`` has a ``'`` before it.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import BinaryIO, Final

from nativeleak.analysis.naming import head_of, shown_name
from nativeleak.analysis.select import pool_of
from nativeleak.reports.folded import metric_value
from nativeleak.reports.formats import WriteOptions
from nativeleak.reports.names import folded_name, printable
from nativeleak.reports.output import encode_text
from nativeleak.reports.report import Report, SiteReport

COLUMNS: Final = (
    "id", "kind", "owner", "pid", "tid", "thread", "pool", "head", "functions",
    "outstanding_bytes", "outstanding_count", "allocated_bytes", "allocated_count", "freed_bytes", "freed_count",
    "resident_bytes", "reserved_bytes", "oldest_s", "growth_bytes_per_s", "growth_low", "growth_high", "verdict",
    "n_threads", "n_stacks", "truncated", "stack",
)  # fmt: skip
"""Names of the columns; scripts may rely on them, and on nothing about their order."""

_FORMULA: Final = ("=", "+", "-", "@")


def write(report: Report, stream: BinaryIO, options: WriteOptions) -> None:
    """A line of names, then a line a site, most of the metric first; what is not known is an empty cell."""
    del options
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(COLUMNS)
    metric = report.selection.metric
    for site in sorted(report.sites.rows, key=lambda site: -metric_value(site, metric)):
        table.writerow(_cells(site))
        stream.write(encode_text(text.getvalue()))
        text.seek(0)
        text.truncate()
    stream.write(encode_text(text.getvalue()))


def _cells(site: SiteReport) -> Iterator[object]:
    totals, frames = site.totals, site.stack.frames
    low, high = site.growth.low_bytes_per_s, site.growth.high_bytes_per_s
    yield from (site.id, site.kind.value, site.owner.value, site.pid or "", site.tid or "")
    yield from (_text(site.thread), _text(pool_of(site.thread)))
    yield _text(shown_name(frames[head_of(frames).index])) if frames else ""
    yield _text(" ".join(site.functions))
    yield from (totals.outstanding_bytes, totals.outstanding_count, totals.allocated_bytes, totals.allocated_count)
    yield from (totals.freed_bytes, totals.freed_count)
    yield "" if site.resident_bytes is None else site.resident_bytes
    yield totals.reserved_bytes
    yield "" if site.oldest_s is None else round(site.oldest_s, 3)
    yield from (round(site.growth.slope_bytes_per_s, 3), round(low, 3), round(high, 3), site.growth.verdict.value)
    yield from (site.n_threads, site.n_stacks, str(site.stack.truncated).lower())
    yield _text(";".join(folded_name(frame) for frame in reversed(frames)))


def _text(name: str) -> str:
    shown = printable(name)
    return f"'{shown}" if shown.startswith(_FORMULA) else shown
