"""The first screen of the text report: suspects first, then what does not grow, then what was not seen.

Scope: at most 40 lines for any recording. Everything else is below it, where options ask for it.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import Final

from nativeleak.analysis.class_leaks import FOLLOWS
from nativeleak.analysis.curves import MIN_WATCHED_PCT
from nativeleak.analysis.finding import Finding
from nativeleak.analysis.growth import Verdict
from nativeleak.analysis.paths import Step
from nativeleak.model import FrameKind, Kind, Level
from nativeleak.reports.completeness import Gap, gaps
from nativeleak.reports.held import fate_text, lost_text, why_not_held
from nativeleak.reports.json_findings import evidence
from nativeleak.reports.names import place, printable
from nativeleak.reports.numbers import count, held_bytes, interval_text, per_minute, percent, signed
from nativeleak.reports.report import Report
from nativeleak.reports.text_doubt import (
    MIN_SHARE,
    SETTLED,
    bounded_text,
    collected_text,
    followers_text,
    is_noticeable,
    long_enough,
    undecided,
)
from nativeleak.reports.text_seen import watched_lines
from nativeleak.reports.text_windows import price_text, share_text
from nativeleak.units import format_bytes, format_duration

Styled = tuple[str, str]

LABEL_WIDTH: Final = 13
_MAX_SUSPECTS: Final = 5
_MAX_LOSSES: Final = 4
_ALL_PCT: Final = 99.5
_MAX_DETAIL_LINES: Final = 2
_MAX_OTHERS: Final = 3
_MAX_FILLERS: Final = 4
_PEAK_SHARE: Final = 0.05
_CHURN_SHARE: Final = 0.05
_MIN_CHURN: Final = 16 << 10
"""Bytes a second: what is allocated and freed at a lower rate is not worth a line."""
_MAX_SHORTENED: Final = 1000
"""A longer name keeps its package: to look for one takes the square of the length."""
_PACKAGE: Final = re.compile(r"(?:[a-z_][\w]*[./])+(?=[\w$]+[.:])|\w+\$(?=[A-Z]\w*[.:])")
"""What stands before the class in the full name of a Java method, and the outer classes of an inner one."""
_JAVA: Final = (FrameKind.JAVA_COMPILED, FrameKind.JAVA_INLINED, FrameKind.JAVA_INTERPRETED)

VERDICTS: Final = {
    Verdict.GROWING: "growing, below 1 % of the growth",
    Verdict.LEVELLING_OFF: "levelling off, as a cache or pool that is full",
    Verdict.PERIODIC: "comes and goes",
    Verdict.STEADY: "steady",
    Verdict.SHRINKING: "shrinking",
    Verdict.UNDECIDED: "not decided",
    Verdict.UNKNOWN: "not known",
}


def answer_lines(report: Report, width: int) -> Iterator[Styled]:
    """The answer and its evidence; each line with its style."""
    yield from loss_lines(report, width)
    for label, text, style in watched_lines(report):
        if label != "Watched":
            yield from labelled(label, text, width, style)
    yield "", ""
    yield from leak_lines(report, width)
    if why := why_not_held(report.held):
        yield from wrapped(f"    holders: {why}", "    ", width)
    yield from _path_lines(report, width)
    yield from _other_lines(report, width)


def loss_lines(report: Report, width: int) -> Iterator[Styled]:
    """What makes totals too low, and the end of a target: a few lines, worst first."""
    losses = [gap for gap in gaps(report) if gap.is_loss]
    for gap in losses[:_MAX_LOSSES]:
        yield from labelled("ATTENTION", sentence(gap), width, "bold red")
    if len(losses) > _MAX_LOSSES:
        yield from labelled("", f"and {len(losses) - _MAX_LOSSES} more losses (--all)", width, "bold red")


def leak_lines(report: Report, width: int) -> Iterator[Styled]:
    """Whether something leaks, and the table of suspects: what a terminal shows last too."""
    if not report.suspects:
        lost = lost_text(report.held, report.findings, MIN_SHARE * report.sums.outstanding_bytes)
        yield from wrapped(lost, "    ", width, "bold red")
        for text, style in _no_suspect(report, width):
            yield text.replace("NO LEAK SEEN", "NO GROWTH SEEN").replace("Leak: ", "Growth: ") if lost else text, style
        return
    shown = report.suspects[:_MAX_SUSPECTS]
    pct = min(100.0, sum(each.share_pct for each in report.suspects))
    n = len(report.suspects)
    noun, verb = ("LEAK: 1 suspect", "explains") if n == 1 else (f"LEAKS: {n} suspects", "explain")
    yield f"{noun} {verb} {percent(pct)} of the growth", "bold red"
    if report.sums.in_windows:
        yield from wrapped(f"    {_explained(report)}", "    ", width)
    if text := followers_text(report):
        yield from wrapped(f"    {text}", "    ", width)
    yield "       holds   growth/min  (95 % sure)                 share   oldest", "dim"
    for number, finding in enumerate(shown, 1):
        yield from _suspect(report, number, finding, width)
    if n > len(shown):
        yield f"    and {n - len(shown)} more (--all)", ""
    if not all(report.held.is_lost(each) for each in report.suspects):
        unless = f"a cache that takes longer than {format_duration(report.trace.duration_s)} to fill looks the same"
        yield from wrapped(f"    ({unless})", "    ", width, "dim")
        if text := collected_text(report):
            yield from wrapped(f"    ({text})", "    ", width, "dim")


def _suspect(report: Report, number: int, finding: Finding, width: int) -> Iterator[Styled]:
    oldest = "-" if finding.oldest_s is None else format_duration(finding.oldest_s)
    row = (
        f"{number:>2} {_holds(report, finding):>10} {per_minute(finding.growth):>12}  "
        f"{interval_text(finding.growth):<26} {percent(finding.share_pct):>6} {oldest:>8}"
    )
    yield row, "bold red"
    yield f"      {title_text(finding)}", "bold"
    yield from list(wrapped(f"      {details_text(report, finding)}", "      ", width))[:_MAX_DETAIL_LINES]


def _holds(report: Report, finding: Finding) -> str:
    """What it holds; of windows about what grew."""
    if not report.sums.in_windows or finding.resident_bytes is not None:
        return format_bytes(held_bytes(finding))
    return "~" + format_bytes(max(held_bytes(finding), finding.growth.slope_bytes_per_s * report.trace.duration_s))


def _explained(report: Report) -> str:
    """The growth of the memory as a sum, where only windows tell who grows."""
    pct = min(100.0, sum(each.share_pct for each in report.suspects))
    growth = sum(each.growth.slope_bytes_per_s for each in report.suspects) / max(pct / 100, 1e-9)
    first = report.suspects[0]
    others = f" and {len(report.suspects) - 1} more" if len(report.suspects) > 1 else ""
    rest = f"; {percent(100 - pct)} not explained" if pct < _ALL_PCT else ""
    return (
        f"the heap grows by {format_bytes(growth * 60)}/min; {percent(pct)} of it by {printable(first.name)} "
        f"{interval_text(first.growth)}{others}{rest}. Watched {share_text(report)}"
    )


def title_text(finding: Finding) -> str:
    """A finding in one line: its name, its caller where that sets it apart, and its place."""
    where = place(finding.step.frame) if finding.step else ""
    by = f", called by {printable(finding.called_by)}" if finding.called_by else ""
    name = f"the JVM itself: {printable(finding.name)}" if finding.kind == "jvm" else printable(finding.name)
    return f"{name}{by}" + (f"  {where}" if where else "")


def details_text(report: Report, finding: Finding) -> str:
    """Kind, blocks, pool, threads and evidence of a finding, in one line."""
    n = finding.outstanding_count
    mean = format_bytes(finding.outstanding_bytes / n) if n else "-"
    blocks = f"{count(n, 'mapping' if finding.kind == 'mapping' else 'block')} of {mean}"
    parts = [f"{printable(finding.what)}: {blocks}" if finding.what else blocks]
    if held := fate_text(report.held, finding):
        parts.append(held)
    if finding.resident_bytes is not None:
        parts.append(f"{format_bytes(finding.outstanding_bytes)} of address space")
    if finding.pool:
        parts.append(_pool_text(finding))
    parts.append(threads_text(finding))
    if finding.median_age_s is not None:
        parts.append(f"half older than {format_duration(finding.median_age_s)}")
    if len(finding.slots) > 1 or len(report.trace.targets) > 1:
        pids = {target.slot: target.pid for target in report.trace.targets}
        parts.append("PID " + ", ".join(str(pids.get(slot, 0)) for slot in finding.slots))
    how = evidence(report, finding)
    if how != "exact":
        parts.append({"mapped-only": "of mapped memory only"}.get(how, how))
    if finding.note:
        parts.append(printable(finding.note))
    return "; ".join(parts)


def _pool_text(finding: Finding) -> str:
    """What a pool's finding says of the functions that made it take memory, and how to see past the pool."""
    pool = printable(finding.pool or "")
    switch = f" ({printable(finding.switch)})" if finding.switch else ""
    if finding.step is not None and finding.name != finding.pool:
        return f"the caller only filled {pool}{switch}"
    if not finding.fillers:
        return finding.switch
    names = ", ".join(map(printable, finding.fillers[:_MAX_FILLERS]))
    more = f" and {len(finding.fillers) - _MAX_FILLERS} more" if len(finding.fillers) > _MAX_FILLERS else ""
    return f"filled by {names}{more}{switch}"


def threads_text(finding: Finding) -> str:
    """Its threads in words: one name, a pattern and a number, or only their number."""
    if finding.n_threads == 1:
        return f"thread {printable(finding.threads)}"
    name = "" if finding.threads == "*" else f" {printable(finding.threads)}"
    return f"{finding.n_threads:,} threads{name}"


def _path_lines(report: Report, width: int) -> Iterator[Styled]:
    rows = [(number, each.path) for number, each in enumerate(report.suspects[:_MAX_SUSPECTS], 1) if each.path]
    if rows:
        yield "", ""
    for number, path in rows:
        lines = list(wrapped(f"{number:>2}  " + " < ".join(map(short_name, path)), "      ", width))
        yield from lines[:2]


def short_name(step: Step) -> str:
    """The name of a step in a path of one line: of a Java method without its package and outer class."""
    name = printable(step.name)
    return _PACKAGE.sub("", name) if step.frame.kind in _JAVA and len(name) <= _MAX_SHORTENED else name


def _no_suspect(report: Report, width: int) -> Iterator[Styled]:
    growth = report.sums.growth
    if not report.trace.n_snapshots:
        yield from wrapped(
            "NOT KNOWN: the recording ends before its first snapshot; trace again, for longer than the interval "
            "between snapshots",
            "    ",
            width,
            "bold yellow",
        )
    elif growth.verdict is Verdict.UNKNOWN:
        yield from wrapped(_unknown(report), "    ", width, "bold yellow")
    elif gained := report.gained_by_children:
        why = f"what grew is in children of this process ({signed(gained)}), see CHILDREN"
        yield from wrapped(f"Leak: not known, because {why}", "    ", width, "bold yellow")
    elif why := undecided(report):
        yield from wrapped(why, "    ", width, "bold yellow")
    else:
        live = f"live memory {per_minute(growth)}/min {interval_text(growth)}".rstrip()
        yield from wrapped(f"NO LEAK SEEN: {live}{bounded_text(report)}", "    ", width, "bold green")
        if text := long_enough(report):
            yield from wrapped(f"    {text}", "    ", width)


def _unknown(report: Report) -> str:
    trace, growth = report.trace, report.sums.growth
    if "malloc" not in trace.info.probes:
        why = f"malloc was not watched by {printable(trace.info.backend)}"
    else:
        watched_s = round(report.sums.watched_pct / 100 * trace.duration_s, 3)
        why = f"malloc was watched for {format_duration(watched_s)} of {format_duration(trace.duration_s)}"
    resident = ""
    if report.resident is not None:
        resident = f"; resident memory {per_minute(growth)}/min {interval_text(growth)}".rstrip()
    levels = {window.level for window in trace.windows}
    to_see = f". {price_text(report)[:1].upper()}{price_text(report)[1:]}" if levels != {Level.EXACT} else ""
    return f"Leak: not known, because {why}{resident}{to_see}"


def _other_lines(report: Report, width: int) -> Iterator[Styled]:
    """What is no suspect: what does not grow, what has a bound, what follows a leak, what is not decided."""
    rows = [each for each in report.findings if _is_worth_a_line(report, each)]
    settled = [each for each in rows if each.growth.verdict in SETTLED]
    open_ = [each for each in rows if each.growth.verdict not in SETTLED]
    groups = {
        "Not growing": settled,
        "Bounded": [each for each in open_ if each.bounded_by not in (None, FOLLOWS)],
        "Because of the leak": [each for each in open_ if each.bounded_by == FOLLOWS],
        "Not decided, or little": [each for each in open_ if each.bounded_by is None],
    }
    for title, chosen in groups.items():
        if chosen:
            yield "", ""
            yield title, "bold"
        for each in chosen[:_MAX_OTHERS]:
            yield from wrapped(f"    {format_bytes(held_bytes(each)):>9}  {_other(report, each)}", " " * 15, width)
        if len(chosen) > _MAX_OTHERS:
            yield f"    and {len(chosen) - _MAX_OTHERS} more (--all)", ""


def _is_worth_a_line(report: Report, finding: Finding) -> bool:
    whole = max(1, report.sums.outstanding_bytes)
    holds = held_bytes(finding) >= MIN_SHARE * whole or (is_noticeable(finding) and finding.outstanding_bytes > 0)
    return holds or _peaked(report, finding) or _turns_over(report, finding)


def _peaked(report: Report, finding: Finding) -> bool:
    """Whether it held far more in between, as much as counts in the process."""
    resident = report.memory.resident
    whole = max(report.sums.outstanding_bytes, resident.peak_bytes if resident is not None else 0)
    return finding.peak_bytes - finding.outstanding_bytes >= max(held_bytes(finding), _PEAK_SHARE * whole, 1)


def _turns_over(report: Report, finding: Finding) -> bool:
    """Whether it allocates much and frees nearly all of it."""
    freed = finding.freed_bytes
    is_much = freed >= _CHURN_SHARE * report.sums.allocated_bytes and freed >= report.trace.duration_s * _MIN_CHURN
    return is_much and finding.outstanding_bytes <= MIN_SHARE * finding.allocated_bytes


def _other(report: Report, finding: Finding) -> str:
    if _turns_over(report, finding):
        rate = format_bytes(finding.allocated_bytes / max(report.trace.duration_s, 1e-9))
        how = f"allocates {rate}/s and frees it"
    elif finding.growth.verdict is Verdict.UNDECIDED and _was_unseen(report, finding):
        how = "growth not known"
    elif finding.growth.verdict is Verdict.UNDECIDED and finding.bounded_by is None:
        how = f"{per_minute(finding.growth)}/min {interval_text(finding.growth)}".rstrip()
    else:
        how = verdict_text(finding)
    peak = f"; peak {format_bytes(finding.peak_bytes)} at {format_duration(finding.peak_s)}"
    held = f"; {text}" if (text := fate_text(report.held, finding)) else ""
    return f"{how}: {title_text(finding)}; {threads_text(finding)}{held}{peak if _peaked(report, finding) else ''}"


def verdict_text(finding: Finding) -> str:
    """The verdict on what is no suspect; its rate where that is bounded, or a runtime's and small."""
    is_open = finding.growth.verdict not in SETTLED
    if is_open and finding.bounded_by is not None:
        return f"{per_minute(finding.growth)}/min, {finding.bounded_by}"
    if finding.is_minor and finding.growth.verdict is Verdict.GROWING:
        return f"{per_minute(finding.growth)}/min"
    return VERDICTS[finding.growth.verdict]


def _was_unseen(report: Report, finding: Finding) -> bool:
    """Whether its blocks were watched for too short a part of the trace: a rate, or an interval, would tell nothing."""
    sums = report.sums
    is_heap = finding.resident_bytes is None
    return is_heap and not sums.in_windows and sums.watched_pct < MIN_WATCHED_PCT


def totals_text(report: Report) -> str:
    """Outstanding memory by kind; kinds of which nothing is left are left out."""
    allocated = report.sums.allocated_bytes
    if not allocated:
        return "nothing: no allocation was seen during the trace"
    heap, mapped, brk = (report.sums.by_kind[kind] for kind in Kind)
    parts = []
    if heap.outstanding_bytes:
        parts.append(f"heap {format_bytes(heap.outstanding_bytes)} in {count(heap.outstanding_count, 'block')}")
    if mapped.outstanding_bytes:
        resident = f"{format_bytes(mapped.resident_bytes)} of it in memory"
        parts.append(f"mapped {format_bytes(mapped.outstanding_bytes)} ({resident})")
    if brk.outstanding_bytes:
        parts.append(f"brk {format_bytes(brk.outstanding_bytes)}")
    if report.sums.jvm.outstanding_bytes:
        parts.append(f"{format_bytes(report.sums.jvm.outstanding_bytes)} of all this is the JVM's own")
    whole = format_bytes(report.sums.outstanding_bytes)
    seen = "seen in windows" if report.sums.in_windows else "since the start"
    return f"{whole} of {format_bytes(allocated)} allocated {seen}" + (f": {'; '.join(parts)}" if parts else "")


def labelled(label: str, text: str, width: int, style: str = "") -> Iterator[Styled]:
    """A text behind its label, wrapped below itself."""
    yield from wrapped(f"{label:<{LABEL_WIDTH}}{text}", " " * LABEL_WIDTH, width, style)


def wrapped(text: str, indent: str, width: int, style: str = "") -> Iterator[Styled]:
    """A text as lines; names are never cut."""
    lines = textwrap.wrap(
        text,
        width,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
        drop_whitespace=True,
        replace_whitespace=False,
    )
    return ((line, style) for line in lines)


def sentence(gap: Gap) -> str:
    """A gap with its remedy."""
    return f"{gap.text} ({gap.remedy})" if gap.remedy else gap.text


def cut(lines: Sequence[Styled], most: int) -> list[Styled]:
    """The lines, with a note for those beyond the most that fit."""
    if len(lines) <= most:
        return list(lines)
    return [*lines[: most - 1], (f"... {len(lines) - most + 1} more lines: --all", "dim")]
