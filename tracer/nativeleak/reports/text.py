"""The report for people: first the answer in a few lines, then the evidence.

Scope: plain lines of text with a style each, coloured for a terminal. Names of the traced process are escaped.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import BinaryIO, Final, NamedTuple

from nativeleak.model import Level
from nativeleak.reports.census import census_lines
from nativeleak.reports.completeness import gaps, is_from_input
from nativeleak.reports.formats import WriteOptions
from nativeleak.reports.names import printable
from nativeleak.reports.numbers import percent, signed
from nativeleak.reports.output import encode_text
from nativeleak.reports.report import Report, Resident
from nativeleak.reports.text_answer import (
    LABEL_WIDTH,
    Styled,
    answer_lines,
    cut,
    labelled,
    leak_lines,
    sentence,
    totals_text,
    wrapped,
)
from nativeleak.reports.text_resident import memory_line, resident_lines
from nativeleak.reports.text_seen import process_name, saw_everything, watched_lines
from nativeleak.reports.text_sites import filter_text, jvm_lines, site_lines
from nativeleak.reports.text_unmapped import unmap_lines
from nativeleak.units import format_bytes, format_duration

MAX_LINES: Final = 40
"""Most lines of a report without options."""
_MAX_THREADS: Final = 20
ROUTINE: Final = frozenset(
    {"audit", "probes", "engine", "unwind", "level", "blind", "unseen", "unwatched", "children", "returns"}
)
"""Events of every trace, or that the report states in other words; all are in the JSON report."""


class Line(NamedTuple):
    """One line without its line end, and a rich style for it."""

    text: str
    style: str = ""


def write(report: Report, stream: BinaryIO, options: WriteOptions) -> None:
    """The report as lines of text, coloured where the options ask for it."""
    lines = list(text_lines(report, options))
    text = _coloured(lines, options.width) if options.colour else "".join(f"{line.text}\n" for line in lines)
    stream.write(encode_text(text))


def _coloured(lines: Sequence[Line], width: int) -> str:
    from rich.console import Console  # only on a terminal: 14 MB
    from rich.text import Text

    console = Console(file=io.StringIO(), force_terminal=True, width=width, highlight=False)
    with console.capture() as capture:
        for line in lines:
            console.print(Text(line.text, style=line.style), overflow="fold", soft_wrap=False)
    return capture.get()


def text_lines(report: Report, options: WriteOptions) -> Iterator[Line]:
    """The whole report: the first screen, then the evidence where the options ask for it.

    Args:
        report: What to print; its ``sites`` are printed all.
        options: How it is laid out; names are never cut.
    """
    width = options.width
    first = [*_headline(report, width), *answer_lines(report, width), ("", ""), *_facts(report, width, options)]
    lines = [Line(*line) for line in (first if options.detail else cut(first, MAX_LINES))]
    yield from lines
    if options.detail:
        details = list(_details(report, options))
        lines += details
        yield from details
    if options.screen_lines is not None and len(lines) >= options.screen_lines:
        yield Line("")
        yield from (Line(*line) for line in leak_lines(report, width))


def _headline(report: Report, width: int) -> Iterator[Styled]:
    trace = report.trace
    who = ", ".join(map(process_name, trace.targets))
    source = f"recorded output of {printable(trace.info.backend)}," if is_from_input(report) else "traced"
    facts = [f"{who or 'no process'}", f"{source} {format_duration(trace.duration_s)}{how_watched(report)}"]
    if memory := memory_text(report):
        facts.append(memory)
    if filters := filter_text(report.selection):
        facts.append(f"only {filters}")
    yield from wrapped(" \N{MIDDLE DOT} ".join(facts), "    ", width, "bold")


def how_watched(report: Report) -> str:
    """How closely the heap was watched, where one word tells."""
    levels = {window.level for window in report.trace.windows}
    if "malloc" not in report.trace.info.probes:
        return ""
    if levels == {Level.EXACT}:
        return ", every allocation"
    if report.sums.in_windows:
        return ", malloc in windows"
    return ", sampled" if levels <= {Level.EXACT, Level.SAMPLED} else ""


def memory_text(report: Report) -> str:
    """Resident memory from start to end, its peak, and the limit that comes first; empty where nothing is known."""
    if line := memory_line(report.memory):
        return line
    resident = report.resident  # recordings that have it only as one number
    if resident is None:
        return ""
    change = resident.last_bytes - resident.first_bytes
    return f"memory {format_bytes(resident.first_bytes)} -> {format_bytes(resident.last_bytes)} ({signed(change)})"


def _facts(report: Report, width: int, options: WriteOptions) -> Iterator[Styled]:
    if report.trace.n_snapshots:
        yield from labelled("Outstanding", totals_text(report), width)
        lines = list(resident_lines(report.memory))
        if not lines and report.resident is not None and report.resident.explained_pct is not None:
            lines = [_explained(report.resident)]
        for label, text in zip(("Memory", *[""] * len(lines)), lines, strict=False):
            yield from labelled(label, text, width)
    for text in census_lines(report.census, is_exact=saw_everything(report)):
        yield from labelled("Heap walk", text, width)
    seen = next((text for label, text, _ in watched_lines(report) if label == "Watched"), "")
    seen = seen or ", ".join(map(printable, report.trace.info.probes)) or "nothing"
    yield from labelled("Watched", "; ".join(filter(None, (seen, _losses_and_cost(report)))), width)
    if not options.detail and not report.trace.name.startswith("/proc/"):
        more = f"nativeleak report {printable(report.trace.name)} --full-stacks   (--all: threads and completeness)"
        yield f"{'More':<{LABEL_WIDTH}}{more}", "dim"


def _explained(resident: Resident) -> str:
    pct = round(resident.explained_pct or 0.0)
    change = signed(resident.last_bytes - resident.first_bytes)
    if pct < 100:
        return f"resident {change}; what is outstanding accounts for {pct} % of it"
    return f"resident {change}; what is outstanding accounts for all of it"


def _losses_and_cost(report: Report) -> str:
    cost = report.overhead
    n_losses = sum(gap.is_loss for gap in gaps(report))
    lost = f"{n_losses} loss{'' if n_losses == 1 else 'es'}, see ATTENTION" if n_losses else ""
    if not n_losses and saw_everything(report):
        lost = "nothing lost"
    price = f"cost {percent(cost.core_pct)} of a core" if cost.probe_cost_ns else ""
    if price:
        price += f", {percent(cost.target_cpu_pct)} of the target's CPU"
    return "; ".join(filter(None, (lost, price)))


def _details(report: Report, options: WriteOptions) -> Iterator[Line]:
    yield Line("")
    yield from (Line(*line) for line in site_lines(report, options.max_frames))
    yield from (Line(*line) for line in jvm_lines(report))
    yield from (Line(*line) for line in unmap_lines(report))
    yield from _threads(report)
    yield from _completeness(report, options.width)
    yield from _overhead(report, options.width)


def _threads(report: Report) -> Iterator[Line]:
    holders = [thread for thread in report.threads if thread.outstanding_bytes or thread.outstanding_count]
    yield Line("Threads that hold outstanding memory", "bold")
    if not holders:
        yield Line("  none")
    else:
        yield Line("   share  outstanding      blocks  state      TID  name", "dim")
    for thread in holders[:_MAX_THREADS]:
        state = "alive" if thread.alive else "ended"
        yield Line(
            f"  {_share(report, thread.outstanding_bytes):>6} {format_bytes(thread.outstanding_bytes):>12} "
            f"{thread.outstanding_count:>11,}  {state} {thread.tid:>8}  {printable(thread.name)}"
        )
    if len(holders) > _MAX_THREADS:
        rest = sum(thread.outstanding_bytes for thread in holders[_MAX_THREADS:])
        yield Line(f"  and {len(holders) - _MAX_THREADS:,} more with {format_bytes(rest)} (all: --format json)")
    yield Line("")


def _completeness(report: Report, width: int) -> Iterator[Line]:
    yield Line("Completeness", "bold")
    found = gaps(report)
    if not any(gap.is_loss for gap in found):
        is_whole = saw_everything(report)
        yield Line(
            "  Nothing was lost: every allocation the probes saw is counted."
            if is_whole
            else "  What was watched is counted whole; not all was watched, see below and the first lines."
        )
    for gap in found:
        yield from _lines("  - " + sentence(gap), "    ", width, "red" if gap.is_loss else "")
    if report.sums.backing.outstanding_bytes:
        yield from _lines(
            f"  - {format_bytes(report.sums.backing.outstanding_bytes)} that allocators mapped for themselves is not "
            "in the totals, because the blocks inside it are counted",
            "    ",
            width,
        )
    for event in (event for event in report.trace.events if event.what not in ROUTINE):
        yield from _lines(f"  - at {format_duration(event.elapsed_s)}: {printable(event.text)}", "    ", width)
    yield Line("")


def _overhead(report: Report, width: int) -> Iterator[Line]:
    cost = report.overhead
    parts = [f"{cost.probe_hits:,} {printable(report.trace.info.coverage.hits)}"]
    if cost.probe_cost_ns:
        parts.append(
            f"about {percent(cost.core_pct)} of one core, {percent(cost.target_cpu_pct)} of the target's CPU time "
            f"(estimated; a hit with a shallow stack takes {cost.probe_cost_ns:,.0f} ns)"
        )
    parts.append(
        f"the tracer used {cost.tracer_cpu_s:.1f} s of CPU time, at most "
        f"{format_bytes(cost.tracer_max_rss_bytes)} of memory and {format_bytes(cost.kernel_bytes)} of kernel maps"
    )
    yield Line("Overhead of the trace", "bold")
    yield from _lines("  " + "; ".join(parts), "  ", width)


def _lines(text: str, indent: str, width: int, style: str = "") -> Iterator[Line]:
    return (Line(*line) for line in wrapped(text, indent, width, style))


def _share(report: Report, n_bytes: int) -> str:
    whole = report.sums.outstanding_bytes
    return f"{100 * n_bytes / whole:.1f} %" if whole else "-"
