"""The report for people: first the answer in a few lines, then the evidence.

Scope: plain lines of text with a style each, coloured for a terminal. Names of the traced process are escaped.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import BinaryIO, Final, NamedTuple

from nativeleak.analysis.growth import Growth, Verdict
from nativeleak.model import Kind
from nativeleak.reports.completeness import Gap, gaps
from nativeleak.reports.formats import WriteOptions
from nativeleak.reports.names import printable
from nativeleak.reports.output import encode_text
from nativeleak.reports.report import Report
from nativeleak.reports.text_sites import jvm_lines, site_lines
from nativeleak.reports.text_unmapped import unmap_lines
from nativeleak.units import format_bytes, format_duration

_LABEL_WIDTH: Final = 16
_NO_SNAPSHOT: Final = (
    "unknown: the recording ends before its first snapshot; trace again, for longer than the interval between snapshots"
)
_MAX_THREADS: Final = 20
_ROUTINE: Final = frozenset({"probes", "engine", "unwind", "level", "blind", "unseen"})
"""Events of every trace, or that the report states in other words; all are in the JSON report."""


class Line(NamedTuple):
    """One line without its line end, and a rich style for it."""

    text: str
    style: str = ""


def write(report: Report, stream: BinaryIO, options: WriteOptions) -> None:
    """The report as lines of text, coloured where the options ask for it."""
    lines = list(text_lines(report, options.width, options.max_frames))
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


def text_lines(report: Report, width: int, max_frames: int | None) -> Iterator[Line]:
    """The whole report.

    Args:
        report: What to print; its ``sites`` are printed all.
        width: Columns that sentences are wrapped to; names are never cut.
        max_frames: Most frames shown of one stack, None for all.
    """
    yield from _answer(report, width)
    yield Line("")
    yield from (Line(*line) for line in site_lines(report, max_frames))
    yield from (Line(*line) for line in jvm_lines(report))
    yield from (Line(*line) for line in unmap_lines(report))
    yield from _threads(report)
    yield from _completeness(report, width)
    yield from _overhead(report, width)


def _answer(report: Report, width: int) -> Iterator[Line]:
    started = datetime.fromtimestamp(report.trace.info.started, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    who = ", ".join(f"{printable(target.comm)} (PID {target.pid})" for target in report.trace.targets)
    n_snapshots = _count(report.trace.n_snapshots, "snapshot")
    yield Line(f"{who}: traced for {format_duration(report.trace.duration_s)} from {started}, {n_snapshots}", "bold")
    yield Line("")
    for gap in gaps(report):
        if gap.is_loss:
            yield from _labelled("ATTENTION", _sentence(gap), width, "bold red")
    if not report.trace.n_snapshots:
        yield from _labelled("Outstanding", _NO_SNAPSHOT, width, "bold")
        return
    yield from _labelled("Outstanding", _outstanding(report), width, "bold")
    yield from _labelled("Growth", _growth(report), width, _style(report.sums.growth.verdict))
    for label, text in (
        ("Held by", _held_by(report)),
        ("Suspected leak", _suspect(report)),
        ("Resident", _resident(report)),
    ):
        if text:
            yield from _labelled(label, text, width, "bold red" if label == "Suspected leak" else "")


def _outstanding(report: Report) -> str:
    whole = report.sums.outstanding_bytes
    allocated = report.sums.allocated_bytes
    if not allocated:
        return "nothing: no allocation was seen during the trace"
    parts = []
    heap, mapped, brk = (report.sums.by_kind[kind] for kind in Kind)
    if heap.allocated_count:
        blocks = _count(heap.outstanding_count, "block")
        parts.append(f"heap {format_bytes(heap.outstanding_bytes)} in {blocks}")
    if mapped.allocated_count:
        resident = f"{format_bytes(mapped.resident_bytes)} of it in memory"
        parts.append(f"mapped {format_bytes(mapped.outstanding_bytes)} ({resident})")
    if brk.allocated_count:
        parts.append(f"brk {format_bytes(brk.outstanding_bytes)}")
    if report.sums.jvm.outstanding_bytes:
        parts.append(f"{format_bytes(report.sums.jvm.outstanding_bytes)} of all this belongs to the JVM itself")
    return (
        f"{format_bytes(whole)} allocated during the trace and not freed by its end, of {format_bytes(allocated)} "
        f"allocated: {'; '.join(parts)}"
    )


def _growth(report: Report) -> str:
    growth = report.sums.growth
    if growth.verdict is Verdict.UNDECIDED and report.trace.n_snapshots < 4:
        return f"undecided: {_count(report.trace.n_snapshots, 'snapshot')} cannot show growth; trace for longer"
    return f"{_verdict(growth)}: {_rates(growth)}{_interval(growth)}"


def _rates(growth: Growth) -> str:
    slope = growth.slope_bytes_per_s
    hourly = format_bytes(slope * 3600)
    return f"{_signed(slope * 60)}/min, {'+' if slope > 0 else ''}{hourly}/h"


def _interval(growth: Growth) -> str:
    low, high = growth.low_bytes_per_s, growth.high_bytes_per_s
    if low == high:
        return ""
    return f" (95 % confidence: between {_signed(low * 60)} and {_signed(high * 60)} a minute)"


def _verdict(growth: Growth) -> str:
    return {
        Verdict.GROWING: "growing",
        Verdict.STEADY: "steady",
        Verdict.SHRINKING: "shrinking",
        Verdict.UNDECIDED: "undecided, growth is neither certain nor ruled out",
    }.get(growth.verdict, growth.verdict.value)


def _held_by(report: Report) -> str:
    holders = [thread for thread in report.threads if thread.outstanding_bytes]
    if not holders or (len(holders) == 1 and not holders[0].tid):  # the engine cannot see threads
        return ""
    top = holders[0]
    others = f", the rest by {_count(len(holders) - 1, 'other thread')}" if len(holders) > 1 else ""
    return (
        f"thread {printable(top.name)} (TID {top.tid}): {_share(report, top.outstanding_bytes)} of it, "
        f"{format_bytes(top.outstanding_bytes)}{others}"
    )


def _suspect(report: Report) -> str:
    if not report.suspects:
        return ""
    first, *others = report.suspects
    more = f"; {_count(len(others), 'more suspect')}" if others else ""
    # No test can tell the two apart within one window: rss-ledger-and-verdicts.md 7.3, "Limits".
    unless = f"unless it is a cache that takes longer than {format_duration(report.trace.duration_s)} to fill"
    return f"{printable(first.name)} in thread {printable(first.threads)}: {_rates(first.growth)}, {unless}{more}"


def _resident(report: Report) -> str:
    resident = report.resident
    if resident is None:
        return ""
    grown = resident.last_bytes - resident.first_bytes
    course = f"{format_bytes(resident.first_bytes)} at the first snapshot, {format_bytes(resident.last_bytes)} at the "
    course += f"last: {_signed(grown)}"
    if resident.explained_pct is None:
        return course
    pct = round(resident.explained_pct)
    if pct < 100:
        return f"{course}; call sites account for {pct} % of it"
    why = f" ({pct} %: some of that memory was already resident)" if pct > 100 else ""
    return f"{course}; call sites account for all of it{why}"


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
        yield Line("  Nothing was lost: every allocation the probes saw is counted.")
    for gap in found:
        yield from _wrapped("  - " + _sentence(gap), "    ", width, "red" if gap.is_loss else "")
    if report.sums.backing.outstanding_bytes:
        yield from _wrapped(
            f"  - {format_bytes(report.sums.backing.outstanding_bytes)} that allocators mapped for themselves is not "
            "in the totals, because the blocks inside it are counted",
            "    ",
            width,
        )
    for event in (event for event in report.trace.events if event.what not in _ROUTINE):
        yield from _wrapped(f"  - at {format_duration(event.elapsed_s)}: {printable(event.text)}", "    ", width)
    yield Line("")


def _overhead(report: Report, width: int) -> Iterator[Line]:
    cost = report.overhead
    parts = [f"{cost.probe_hits:,} {printable(report.trace.info.coverage.hits)}"]
    if cost.probe_cost_ns:
        parts.append(
            f"about {cost.target_cpu_pct:.2g} % of the target's CPU time, {cost.core_pct:.2g} % of one core "
            f"(estimated; a hit with a shallow stack takes {cost.probe_cost_ns:,.0f} ns)"
        )
    parts.append(
        f"the tracer used {cost.tracer_cpu_s:.1f} s of CPU time, at most "
        f"{format_bytes(cost.tracer_max_rss_bytes)} of memory and {format_bytes(cost.kernel_bytes)} of kernel maps"
    )
    yield Line("Overhead of the trace", "bold")
    yield from _wrapped("  " + "; ".join(parts), "  ", width)


def _labelled(label: str, text: str, width: int, style: str = "") -> Iterator[Line]:
    first = f"{label:<{_LABEL_WIDTH}}"
    yield from _wrapped(first + text, " " * _LABEL_WIDTH, width, style)


def _wrapped(text: str, indent: str, width: int, style: str = "") -> Iterator[Line]:
    lines = textwrap.wrap(
        text,
        width,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
        drop_whitespace=True,
        replace_whitespace=False,
    )
    return (Line(line, style) for line in lines)


def _sentence(gap: Gap) -> str:
    return f"{gap.text} ({gap.remedy})" if gap.remedy else gap.text


def _style(verdict: Verdict) -> str:
    return {Verdict.GROWING: "bold red", Verdict.STEADY: "green", Verdict.SHRINKING: "green"}.get(verdict, "yellow")


def _share(report: Report, n_bytes: int) -> str:
    whole = report.sums.outstanding_bytes
    return f"{100 * n_bytes / whole:.1f} %" if whole else "-"


def _signed(n_bytes: float) -> str:
    return ("+" if n_bytes > 0 else "") + format_bytes(n_bytes)


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"
