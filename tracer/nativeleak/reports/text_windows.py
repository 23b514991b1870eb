"""What the text report says of a heap that was watched in windows."""

from __future__ import annotations

from typing import Final

from nativeleak.analysis.calls import share_of_calls
from nativeleak.model import Level, Window
from nativeleak.reports.report import Report
from nativeleak.units import format_duration

_WATCHED: Final = (Level.EXACT, Level.SAMPLED)
_PROBES_A_CALL: Final = 3
"""Entry, return, and the free later."""
_NOTICEABLE_PCT: Final = 0.1


def watched_windows(report: Report) -> list[Window]:
    """The windows in which allocations were recorded."""
    return [each for each in report.trace.windows if each.level in _WATCHED and each.to_s > each.from_s]


def watched_s(report: Report) -> float:
    """Seconds in which allocations were recorded."""
    return sum(window.to_s - window.from_s for window in watched_windows(report))


def sites_s(report: Report) -> float:
    """Seconds in which call sites were watched by themselves, the windows among them."""
    begin_s = min((each.from_s for each in report.trace.windows if each.level is Level.HOT), default=None)
    if begin_s is None:
        return 0.0
    levels = (*_WATCHED, Level.HOT)
    return sum(
        each.to_s - each.from_s for each in report.trace.windows if each.level in levels and each.from_s >= begin_s
    )


def share_text(report: Report) -> str:
    """How long the heap was watched: "in 11 windows, 0.5s of 15s (3.5 % of the time, about 3.1 % of the calls)"."""
    n = len(watched_windows(report))
    seconds, whole_s = round(watched_s(report), 2), report.trace.duration_s
    pct = 100 * seconds / whole_s if whole_s else 0.0
    windows = "1 window" if n == 1 else f"{n:,} windows"
    calls = share_of_calls(report.trace.windows)
    of_calls = ""
    if calls is not None:
        low, high = two_digits(calls.low_pct), two_digits(calls.high_pct)
        of_calls = f", about {two_digits(calls.pct)} % [{low} {high}] of the calls"
    rare_s = sites_s(report)
    of_sites = f"; rare call sites for {format_duration(round(rare_s, 2))}" if rare_s else ""
    text = f"in {windows}, {format_duration(seconds)} of {format_duration(whole_s)}"
    return f"{text} ({pct:.2g} % of the time{of_calls}){of_sites}"


def price_text(report: Report) -> str:
    """What it takes to see everything: "200,000 calls/s; recording all takes 34 % of a core: ..."."""
    seconds = watched_s(report)
    command = "--max-overhead off --duration 5s"
    hits = sum(window.probe_hits for window in watched_windows(report))
    cost_s = sum(window.cost_s for window in watched_windows(report))
    pct = 100 * cost_s / seconds if seconds else 0.0
    if pct < _NOTICEABLE_PCT:
        return f"to see all of it: {command}"
    calls = _rounded(hits / _PROBES_A_CALL / seconds)
    return f"about {calls:,} calls/s; recording all takes {pct:.0f} % of a core: {command}"


def two_digits(value: float) -> str:
    """A share in per cent with two digits, and 100 as it is."""
    return f"{float(f'{value:.2g}'):g}"


def _rounded(rate: float) -> int:
    """Two digits: what a window sees is no more exact."""
    return round(float(f"{rate:.1e}"))
