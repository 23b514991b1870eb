"""Callers that unmapped memory, in the text report: one line each, to compare with the sites that mapped it.

Scope: shown only where mapped memory is outstanding or one thread unmapped what another had mapped. The JSON report
always has all callers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from nativeleak.model import Kind, Owner
from nativeleak.reports.names import place, printable
from nativeleak.reports.report import Report, UnmapReport
from nativeleak.runtimes.frames import headline_frame
from nativeleak.units import format_bytes

_MAX_ROWS: Final = 5


def unmap_lines(report: Report) -> Iterator[tuple[str, str]]:
    """The callers that unmapped most, each line with its style; no line where the table would answer no question."""
    rows = [row for row in report.unmapped or () if row.totals.owner is Owner.PROGRAM and row.given_bytes]
    is_useful = report.sums.by_kind[Kind.MAP].outstanding_bytes or any(row.totals.other_threads_bytes for row in rows)
    if not rows or not is_useful:
        return
    yield "Unmapped memory, by the caller of munmap, mremap or shmdt", "bold"
    yield "      unmapped       calls  by", "dim"
    for row in rows[:_MAX_ROWS]:
        yield f"  {format_bytes(row.given_bytes):>12} {row.totals.n_calls:>11,}  {_who(report, row)}", ""
    if len(rows) > _MAX_ROWS:
        rest = sum(row.given_bytes for row in rows[_MAX_ROWS:])
        yield f"  and {len(rows) - _MAX_ROWS:,} more with {format_bytes(rest)} (all: --format json)", ""
    yield "", ""


def _who(report: Report, row: UnmapReport) -> str:
    frame = headline_frame(row.stack.frames)
    where = place(frame) if frame else ""
    parts = [printable(frame.function) + (f"  {where}" if where else "") if frame else "[no stack]"]
    parts.append(f"thread {printable(row.thread)}" + (f" (TID {row.tid})" if row.tid else ""))
    if len(report.trace.targets) > 1:
        parts.append(f"PID {row.pid}")
    for n_bytes, what in (
        (row.totals.other_threads_bytes, "of it mapped by other threads"),
        (row.totals.older_bytes, "of it older than the trace"),
        (row.totals.reserved_bytes, "more that was only reserved"),
    ):
        if n_bytes:
            parts.append(f"{format_bytes(n_bytes)} {what}")
    return "; ".join(parts)
