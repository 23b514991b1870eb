"""The sites of the text report: one row of figures each, then the stack, leaf first, one frame a line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Final

from nativeleak.analysis.growth import Growth, Verdict
from nativeleak.analysis.select import By, Metric, Selection
from nativeleak.model import Frame, FrameSource, Stack
from nativeleak.reports.names import place, printable
from nativeleak.reports.report import Report, SiteReport
from nativeleak.runtimes.frames import purpose_of_stack
from nativeleak.units import format_bytes, format_duration

Styled = tuple[str, str]

_METRIC_WORDS: Final = {
    Metric.OUTSTANDING: "outstanding bytes",
    Metric.ALLOCATED: "bytes allocated during the trace",
    Metric.COUNT: "number of outstanding blocks",
    Metric.GROWTH: "growth",
    Metric.RESIDENT: "resident bytes",
}

_LEGEND: Final = (
    "share       of all outstanding bytes",
    "outstanding allocated during the trace and not freed by its end; blocks: how many allocations",
    "mean block  outstanding / blocks; oldest: age of the oldest outstanding allocation",
    "growth/min  bytes per minute over the trace; verdict: whether growth is certain (95 %) and lasting",
    "stacks      allocator first; each function was called by the one below it; [?] is a guess, see Completeness",
)


def site_lines(report: Report, max_frames: int | None) -> Iterator[Styled]:
    """The table of sites with their stacks and a legend; each line with its style."""
    yield _heading(report), "bold"
    if not report.rows.program.rows:
        yield "  none", ""
        yield "", ""
        return
    for line in _LEGEND:
        yield f"  {line}", "dim"
    yield "", ""
    extra = _extra_column(report.selection.metric)
    columns = "    #   share  outstanding      blocks  mean block   oldest     growth/min  verdict"
    yield (f"{columns:<92}{extra}" if extra else columns), "dim"
    for number, site in enumerate(report.rows.program.rows, 1):
        yield from _site(report, number, site, max_frames)
        yield "", ""


def _heading(report: Report) -> str:
    selection = report.selection
    what = {
        By.PATH: "Call paths, all threads together",
        By.SITE: "Call sites, all threads together",
        By.THREAD: "Threads, all call sites together",
        By.POOL: "Call paths, threads of a pool together",
    }.get(selection.key, "Call sites")
    listing, whole = report.rows.program, report.sums.outstanding_bytes
    shown, n_all = len(listing.rows), listing.n_all
    n_bytes = sum(site.totals.outstanding_bytes for site in listing.rows)
    share = f", {100 * n_bytes / whole:.1f} % of what is outstanding" if whole else ""
    left_out = f" (--top {n_all} shows all)" if shown < n_all and not selection.min_bytes else ""
    filters = filter_text(selection)
    only = f", only {filters}" if filters else ""
    return f"{what} by {_METRIC_WORDS[selection.metric]}{only}: {shown:,} of {n_all:,}{left_out}{share}"


def filter_text(selection: Selection) -> str:
    """The filters of a selection as options; empty without any."""
    return " ".join(
        f"{option} {printable(str(value))}"
        for option, value in (
            ("--thread", selection.thread),
            ("--function", selection.function),
            ("--min", selection.min_bytes or None),
        )
        if value is not None
    )


def jvm_lines(report: Report) -> Iterator[Styled]:
    """Memory that the JVM holds for itself, one line a purpose, below the program's sites."""
    if not report.rows.jvm_sites:
        return
    sums: dict[str, list[int]] = {}
    for site in report.rows.jvm_sites:
        row = sums.setdefault(purpose_of_stack(site.stack.frames), [0, 0, 0])
        row[0] += site.totals.outstanding_bytes
        row[1] += site.totals.outstanding_count
        row[2] += site.totals.reserved_bytes
    whole = report.sums.outstanding_bytes
    yield "Held by the JVM itself, not by the program's calls", "bold"
    yield "   share  outstanding      blocks     reserved  for", "dim"
    for purpose, (n_bytes, n_blocks, reserved) in sorted(sums.items(), key=lambda item: -item[1][0]):
        share = f"{100 * n_bytes / whole:.1f} %" if whole else "-"
        yield f"  {share:>6} {format_bytes(n_bytes):>12} {n_blocks:>11,} {format_bytes(reserved):>12}  {purpose}", ""
    yield "", ""


def _extra_column(metric: Metric) -> str:
    return {Metric.ALLOCATED: "allocated", Metric.RESIDENT: "resident"}.get(metric, "")


def _site(report: Report, number: int, site: SiteReport, max_frames: int | None) -> Iterator[Styled]:
    totals, whole = site.totals, report.sums.outstanding_bytes
    share = f"{100 * totals.outstanding_bytes / whole:.1f} %" if whole else "-"
    mean = format_bytes(totals.outstanding_bytes // totals.outstanding_count) if totals.outstanding_count else "-"
    oldest = "-" if site.oldest_s is None else format_duration(site.oldest_s)
    row = (
        f"{number:>5} {share:>7} {format_bytes(totals.outstanding_bytes):>12} {totals.outstanding_count:>11,} "
        f"{mean:>11} {oldest:>8} {_per_minute(site.growth):>14}  {_verdict(site.growth)}"
    )
    extra = {
        Metric.ALLOCATED: format_bytes(totals.allocated_bytes),
        Metric.RESIDENT: "-" if site.resident_bytes is None else format_bytes(site.resident_bytes),
    }.get(report.selection.metric)
    growing = site.growth.verdict is Verdict.GROWING
    yield (f"{row:<92}{extra}" if extra else row), "bold red" if growing else "bold"
    yield f"      {_where(report, site)}", ""
    if site.n_stacks > 1 and not site.stack.frames:
        yield f"      {site.n_stacks:,} stacks merged (--by site,thread shows them)", "dim"
    yield from stack_lines(site.stack, max_frames)


def _where(report: Report, site: SiteReport) -> str:
    if report.selection.key in (By.SITE, By.PATH):
        who = f"{site.n_threads:,} thread{'' if site.n_threads == 1 else 's'}"
    elif report.selection.key is By.POOL:
        who = f"{site.n_threads:,} thread{'' if site.n_threads == 1 else 's'} {printable(site.thread)}"
    else:
        who = f"thread {printable(site.thread)}" + (f" (TID {site.tid})" if site.tid else "")
    parts = [who, {"heap": "heap", "map": "mapped", "brk": "brk"}[site.kind.value]]
    if len(report.trace.targets) > 1:
        parts.insert(0, f"PID {site.pid}")
    if site.functions:
        parts[-1] += " by " + ", ".join(printable(name) for name in site.functions)
    if site.resident_bytes is not None:
        parts.append(f"{format_bytes(site.resident_bytes)} of it in memory")
    if site.totals.reserved_bytes:
        parts.append(f"{format_bytes(site.totals.reserved_bytes)} more reserved without access")
    return "; ".join(parts)


def stack_lines(stack: Stack, max_frames: int | None) -> Iterator[Styled]:
    """The frames, leaf first, recursion folded into one line, then why the stack is incomplete if it is."""
    folded = _fold_recursion(stack.frames)
    shown = folded if max_frames is None or len(folded) <= max_frames else folded[: max_frames - 1] + folded[-1:]
    width = max((len(name) for name, _ in shown), default=0)
    for i, (name, where) in enumerate(shown):
        if len(shown) < len(folded) and i == len(shown) - 1:
            yield f"        ... {len(folded) - len(shown):,} frames hidden (--max-frames 0 shows all)", "dim"
        yield f"        {name:<{min(width, 60)}}  {where}".rstrip(), ""
    if stack.frames and stack.end not in ("root", "lost"):
        remedy = " (trace with a larger --max-depth)" if stack.end == "depth" else ""
        yield f"        ... stack walk ended here: {printable(stack.end)}{remedy}", "dim"


def _fold_recursion(frames: Sequence[Frame]) -> list[Styled]:
    rows = []
    for (name, where), group in groupby((_marked_name(frame), place(frame)) for frame in frames):
        n_times = sum(1 for _ in group)
        rows.append((f"{name}  [x{n_times}]" if n_times > 1 else name, where))
    return rows


def _marked_name(frame: Frame) -> str:
    """The function, with a question mark where the frame is a guess."""
    name = printable(frame.function) or "[no name]"
    return f"{name}  [?]" if frame.found in (FrameSource.GUESS, FrameSource.SIGNAL) else name


def _per_minute(growth: Growth) -> str:
    n_bytes = growth.slope_bytes_per_s * 60
    return ("+" if n_bytes > 0 else "") + format_bytes(n_bytes)


def _verdict(growth: Growth) -> str:
    return "growing: suspected leak" if growth.verdict is Verdict.GROWING else growth.verdict.value
