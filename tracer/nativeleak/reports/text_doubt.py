"""Why there is no decision, and how long a trace would have to be; what grows and is bounded is no reason for doubt."""

from __future__ import annotations

from typing import Final

from nativeleak.analysis.class_leaks import CODE, FOLLOWS
from nativeleak.analysis.curves import MIN_SNAPSHOTS
from nativeleak.analysis.finding import Finding
from nativeleak.analysis.growth import Verdict, watch_s
from nativeleak.analysis.part_rates import least_bytes
from nativeleak.reports.names import printable
from nativeleak.reports.numbers import count, interval_text, per_minute, percent, signed
from nativeleak.reports.report import Report
from nativeleak.units import format_bytes, format_duration

MIN_SHARE: Final = 0.01
SETTLED: Final = (Verdict.STEADY, Verdict.LEVELLING_OFF, Verdict.PERIODIC, Verdict.SHRINKING)
_BOUNDED_SHARE: Final = 0.90
_BY_COLLECTOR: Final = frozenset({"direct buffer", "zlib stream", "image", "mapped file", "zip file"})
"""Kinds of memory that a Java object frees when it is collected."""
_FEW_BLOCKS: Final = 6
_SHARE_TO_SAY: Final = 0.25
_MIN_BOUNDED: Final = 256 << 10
"""Bytes a minute."""
_DAY_S: Final = 86400


def undecided(report: Report) -> str:
    """Why there is no decision; empty where there is one."""
    growth = report.sums.growth
    n_snapshots = report.trace.n_snapshots
    rows = [each for each in report.findings if each.growth.verdict is Verdict.UNDECIDED and is_noticeable(each)]
    rows = [each for each in rows if each.bounded_by is None and not each.is_minor and not _is_trifle(report, each)]
    rising = [each for each in rows if each.growth.slope_bytes_per_s > 0]
    if n_snapshots < MIN_SNAPSHOTS:
        why = f"{count(n_snapshots, 'snapshot')} cannot show growth"
    elif rising:
        first = max(rising, key=lambda each: each.growth.slope_bytes_per_s)
        whose = "memory of the JVM itself for " if first.kind == "jvm" else ""
        why = f"{whose}{printable(first.name)} gained {per_minute(first.growth)}/min, {_doubt(first)}"
    elif _is_bounded(report):
        return ""
    elif growth.verdict is Verdict.UNDECIDED and report.sums.outstanding_bytes:
        why = f"live memory changed by {per_minute(growth)}/min {interval_text(growth)}, which may be chance"
    elif growth.verdict is Verdict.GROWING:
        why = f"live memory grows by {per_minute(growth)}/min, but no single cause grows for certain"
    else:
        return ""
    times = [each.growth.enough_s for each in rows if each.growth.enough_s] or [growth.enough_s or 0.0]
    enough_s = watch_s(max(times[0], 3 * report.trace.duration_s if growth.enough_s is None else growth.enough_s))
    return f"Leak: not decided, because {why}; watch for {format_duration(enough_s)}"


def _is_bounded(report: Report) -> bool:
    """Whether what rises is known to be bounded, or a runtime's working memory, for the most part.

    No finding is a reason for doubt by itself.
    """
    growth = report.sums.growth
    rising = [
        each
        for each in report.findings
        if each.bounded_by or each.is_minor or _has_filled(each) or _is_trifle(report, each)
    ]
    explained = sum(max(0.0, each.growth.slope_bytes_per_s) for each in rising)
    # Where no part of a runtime's memory is a reason for doubt, their sum is none either.
    is_runtimes = report.sums.jvm.outstanding_bytes >= _BOUNDED_SHARE * report.sums.outstanding_bytes
    return is_runtimes or explained >= _BOUNDED_SHARE * growth.slope_bytes_per_s


def _is_trifle(report: Report, finding: Finding) -> bool:
    """Whether it is a block or a few, and gained too little beside resident memory to be a reason for doubt."""
    gained = finding.growth.slope_bytes_per_s * report.trace.duration_s
    return finding.outstanding_count < _FEW_BLOCKS and gained < _least(report)


def _least(report: Report) -> float:
    resident_bytes = report.resident.last_bytes if report.resident is not None else 0
    return least_bytes(resident_bytes)


def _has_filled(finding: Finding) -> bool:
    return finding.growth.verdict in SETTLED


def _doubt(finding: Finding) -> str:
    if finding.outstanding_count < _FEW_BLOCKS:
        return f"but in only {count(finding.outstanding_count, 'block')}"
    if not finding.path and finding.kind != "jvm":
        return "but whose they are is not known"
    if finding.growth.low_bytes_per_s > 0:
        return "but lets go of old blocks"
    return f"which may be chance {interval_text(finding.growth)}".rstrip()


def is_noticeable(finding: Finding) -> bool:
    """Whether it grows by enough of the process's growth to be a reason for doubt."""
    return finding.share_pct >= 100 * MIN_SHARE


def long_enough(report: Report) -> str:
    """How long a trace would have to be to see a growth of 1 % of the limit a day."""
    limit, what = _limit(report)
    growth, duration_s = report.sums.growth, report.trace.duration_s
    if limit <= 0 or duration_s <= 0:
        return ""
    wanted = MIN_SHARE * limit / _DAY_S
    noise = (growth.high_bytes_per_s - growth.low_bytes_per_s) / 2 * duration_s
    enough_s = watch_s(max(noise / wanted, duration_s))
    rate = format_bytes(wanted * _DAY_S)
    if enough_s <= max(60.0, duration_s):
        return f"a growth of {rate} a day, 1 % of {what}, would have been seen"
    return f"to see a growth of {rate} a day, 1 % of {what}, watch for {format_duration(enough_s)}"


def _limit(report: Report) -> tuple[float, str]:
    """The least limit of memory in bytes, and its name; resident memory where no limit is known."""
    limits = [each.limit for each in report.memory.limits if each.limit.limit_bytes > 0]
    if limits:
        least = min(limits, key=lambda each: each.limit_bytes)
        return float(least.limit_bytes), f"the limit of {format_bytes(least.limit_bytes)}"
    if report.resident is None:
        return 0.0, ""
    return float(report.resident.last_bytes), "its resident memory"


def bounded_text(report: Report) -> str:
    """What of the growth is bounded, behind a comma; empty where it is little."""
    rates: dict[str, float] = {}
    for each in report.findings:
        if each.bounded_by is not None and each.bounded_by != FOLLOWS:
            use = "code that is loaded and compiled" if each.bounded_by == CODE else printable(each.name)
            how = f"for {use}, which is {'bounded' if each.bounded_by == CODE else each.bounded_by}"
            rates[how] = rates.get(how, 0.0) + each.growth.slope_bytes_per_s
    least = max(_MIN_BOUNDED / 60, _SHARE_TO_SAY * report.sums.growth.slope_bytes_per_s)
    return "".join(f", {signed(rate * 60)}/min of it {how}" for how, rate in rates.items() if rate >= least)


def collected_text(report: Report) -> str:
    """What to do where a suspect may be garbage of Java that no collection has freed yet; empty where none may."""
    rows = [each for each in report.suspects if each.what in _BY_COLLECTOR and not each.freed_bytes and not each.pool]
    if not rows:
        return ""
    pid = f"{report.trace.targets[0].pid} " if len(report.trace.targets) == 1 else "PID "
    return f"unused Java objects free it at a collection only: trace again, with jcmd {pid}GC.run meanwhile"


def followers_text(report: Report) -> str:
    """What grows because classes leak, beside the classes; empty where nothing does."""
    rows = [each for each in report.findings if each.bounded_by == FOLLOWS and each.growth.slope_bytes_per_s > 0]
    rate = sum(each.growth.slope_bytes_per_s for each in rows)
    if rate * 60 < _MIN_BOUNDED:
        return ""
    pct = min(100.0, sum(each.share_pct for each in (*report.suspects, *rows)))
    return f"with compiled code and profiles of the classes, {signed(rate * 60)}/min more: {percent(pct)}"
