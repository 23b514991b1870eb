"""The report of many recordings for people: hosts, processes, then call paths, each with what it holds and gains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import BinaryIO, Final

from nativeleak.analysis.growth import Growth
from nativeleak.analysis.naming import head_of, shown_name
from nativeleak.model import FrameKind
from nativeleak.reports.formats import WriteOptions
from nativeleak.reports.held import fate_words
from nativeleak.reports.merged.merge import Merged
from nativeleak.reports.merged.sites import MANY, MergedTable
from nativeleak.reports.merged.summary import Dimension, dimensions, growth_of, headline, notes, process_text
from nativeleak.reports.names import place, printable
from nativeleak.reports.numbers import count, interval_text, per_minute
from nativeleak.reports.output import encode_text
from nativeleak.reports.report import SiteReport
from nativeleak.reports.text_answer import labelled
from nativeleak.units import format_bytes

_MAX_FAILURES: Final = 20
_MAX_PARTS: Final = 10


def write(table: MergedTable, stream: BinaryIO, options: WriteOptions) -> None:
    """The report as lines of text."""
    for line in text_lines(table, options):
        stream.write(encode_text(f"{line}\n"))


def text_lines(table: MergedTable, options: WriteOptions) -> Iterator[str]:
    """The whole report."""
    merged, width = table.merged, options.width
    yield headline(table)
    yield from _failures(merged, width)
    held, growth = table.sums.outstanding_bytes, table.sums.growth
    known = growth if any(source.grows for source in merged.sources) else None
    allocated = format_bytes(table.sums.allocated_bytes)
    yield from _labelled("Outstanding", f"{format_bytes(held)} of {allocated} allocated", width)
    yield from _labelled("Growth", growth_text(known), width)
    for note in notes(merged):
        yield from _labelled("Note", note, width)
    metric = table.selection.metric
    by_host, by_process = dimensions(merged, "host", metric), dimensions(merged, "process", metric)
    most = None if options.detail and table.selection.top is None else table.selection.top or _MAX_PARTS
    names = [printable(merged.hosts[each.number]) for each in by_host]
    yield from _parts("HOSTS", by_host, names, most)
    names = [printable(process_text(merged, merged.processes[each.number])) for each in by_process]
    yield from _parts("PROCESSES", by_process, names, most)
    yield from _paths(table, options)


def growth_text(growth: Growth | None) -> str:
    """Bytes a minute with the interval; says so where it is not known."""
    return "not known" if growth is None else f"{per_minute(growth)}/min {interval_text(growth)}".rstrip()


def _labelled(label: str, text: str, width: int) -> Iterator[str]:
    return (line for line, _ in labelled(label, text, width))


def _failures(merged: Merged, width: int) -> Iterator[str]:
    if not merged.failures:
        return
    n_all = len(merged.sources) + len(merged.failures)
    yield from _labelled(
        "NOT READ", f"{len(merged.failures):,} of {count(n_all, 'recording')}; no figure has them", width
    )
    for failure in merged.failures[:_MAX_FAILURES]:
        yield from _labelled("", printable(failure.what), width)
    if len(merged.failures) > _MAX_FAILURES:
        yield from _labelled("", f"... and {len(merged.failures) - _MAX_FAILURES:,} more", width)


def _parts(title: str, parts: Sequence[Dimension], names: Sequence[str], most: int | None) -> Iterator[str]:
    shown = parts if most is None else parts[:most]
    yield ""
    yield f"{title}: {len(shown):,} of {len(parts):,}" if len(shown) < len(parts) else f"{title}: {len(parts):,}"
    for part, name in zip(shown, names, strict=False):
        yield f"  {format_bytes(part.outstanding_bytes):>11}  {growth_text(part.growth):<44}  {name}"


def _paths(table: MergedTable, options: WriteOptions) -> Iterator[str]:
    listing = table.sites
    yield ""
    yield f"CALL PATHS: {len(listing.rows):,} of {listing.n_all:,}, by {table.selection.metric.value}"
    rows = table.shown
    for at, site in enumerate(listing.rows):
        growth = growth_of(rows, at)
        held = f"{format_bytes(site.totals.outstanding_bytes)} in {count(site.totals.outstanding_count, 'block')}"
        where = places_text(site, int(rows.n_hosts[at]), int(rows.n_processes[at]))
        yield f"{at + 1:>3}  {head_name(site)}: {held}, {growth_text(growth)}"
        yield f"     {site.kind.value}, {site.owner.value}; {where}"
        if became := fate_words(site.fate, site.lost_certainty):
            yield f"     {became}"
        yield from _frames(site, options.max_frames)


def head_name(site: SiteReport) -> str:
    """The function that heads the path of a site."""
    frames = site.stack.frames
    return printable(shown_name(frames[head_of(frames).index]))


def places_text(site: SiteReport, n_hosts: int, n_processes: int) -> str:
    """Where a row was seen: hosts, processes, and the pool where rows are parted by it."""
    host = count(n_hosts, "host") if site.host == MANY else f"host {printable(site.host)}"
    process = f"{n_processes:,} process{'' if n_processes == 1 else 'es'}"
    if site.process != MANY:
        process = f"{printable(site.process)} (PID {site.pid})"
    return f"{host}, {process}" + ("" if site.thread == MANY else f", threads {printable(site.thread)}")


def _frames(site: SiteReport, most: int | None) -> Iterator[str]:
    frames = site.stack.frames
    shown = frames if most is None else frames[:most]
    for frame in shown:
        name = printable(frame.function if frame.kind is FrameKind.UNRESOLVED else shown_name(frame))
        where = place(frame)
        yield f"       {name}" + (f"  {where}" if where else "")
    if len(shown) < len(frames):
        yield f"       ... {count(len(frames) - len(shown), 'more frame')}: --full-stacks"
