"""When a limit of memory is reached at the growth of the trace, as an interval.

The trace is divided into eight equal parts. The rate at which the limit's usage grows is the mean of the parts, and
what it will be over ``m`` parts to come lies in the prediction interval of Student's t, ``sd * sqrt(1/n + 1/m)``. The
limit is reached soonest at the upper end of that interval and latest at the lower end; where the lower end does not
grow, there is no latest time.

Caveat: in 9 of 10 simulated courses the true time lay in the interval. It fails for growth that accelerates, which is
said instead.

Source: rss-ledger-and-verdicts.md, 7.5.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, stdev
from typing import Final

from nativeleak.model import Limit, LimitKind
from nativeleak.recording import Recording

N_PARTS: Final = 8
_MIN_PARTS: Final = 4
_T_975: Final = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365)
"""97.5 % quantiles of Student's t for 1 to 7 degrees of freedom. Source: any table of the distribution."""
FORESEEABLE_S: Final = 366 * 86400.0
"""Later times are not stated."""
_FORECAST: Final = frozenset({LimitKind.CGROUP, LimitKind.RLIMIT, LimitKind.MACHINE})
"""Usage of the other kinds is not known at each snapshot."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """When a limit is reached, in seconds after the end of the trace.

    Attributes:
        reached_in_s: At the mean growth; None where the mean does not grow, or not within ``FORESEEABLE_S``.
        soonest_s: Lower end of the 95 % interval.
        latest_s: Upper end; None where it is open.
        accelerates: The second half grew faster than the first by more than chance: it may be sooner than all this.
    """

    reached_in_s: float | None
    soonest_s: float
    latest_s: float | None
    accelerates: bool = False


@dataclass(frozen=True, slots=True)
class LimitReport:
    """A limit with what is used of it at the end.

    Attributes:
        pid: The process it holds for.
        start_bytes: Usage at the first snapshot; None where it is not known.
        usage_bytes: Usage at the last one.
        forecast: None where it does not grow, or where that cannot be told.
    """

    limit: Limit
    pid: int
    start_bytes: int | None
    usage_bytes: int | None
    forecast: Forecast | None


def limit_reports(recording: Recording) -> tuple[LimitReport, ...]:
    """All limits, that which may be reached soonest first, then by room."""
    memory, times = recording.memory, [snapshot.elapsed_s for snapshot in recording.snapshots]
    pids = {target.slot: target.pid for target in recording.targets}
    reports = []
    for limit, usage in zip(memory.limits, memory.usage, strict=True):
        known = [number for number in sorted(usage) if number < len(times)]
        course = [(times[number], usage[number]) for number in known]
        is_forecast = limit.kind in _FORECAST and len(course) >= _MIN_PARTS + 1
        reports.append(
            LimitReport(
                limit,
                pids.get(limit.slot, 0),
                course[0][1] if course else None,
                course[-1][1] if course else None,
                forecast(course, limit.limit_bytes) if is_forecast else None,
            )
        )
    return tuple(sorted(reports, key=_urgency))


def _urgency(report: LimitReport) -> tuple[float, float]:
    soonest_s = report.forecast.soonest_s if report.forecast is not None else math.inf
    return soonest_s, report.limit.limit_bytes - (report.usage_bytes or 0)


def forecast(course: Sequence[tuple[float, int]], limit_bytes: int) -> Forecast | None:
    """When usage reaches a limit; None where it does not grow, or where too few parts of the trace were seen.

    Args:
        course: (seconds, bytes used), in order of time.
        limit_bytes: The limit.
    """
    edges = _edges(course)
    spans = [later[0] - earlier[0] for earlier, later in pairwise(edges)]
    if len(spans) < _MIN_PARTS:
        return None
    rates = [(later[1] - earlier[1]) / span for earlier, later, span in zip(edges, edges[1:], spans, strict=False)]
    room = limit_bytes - edges[-1][1]
    if room <= 0:
        return Forecast(0.0, 0.0, 0.0)
    n_parts, span_s = len(rates), fmean(spans)
    mean = (edges[-1][1] - edges[0][1]) / sum(spans)
    margin = _T_975[n_parts - 2] * stdev(rates)

    def reached(time_s: float, sign: int) -> float:
        """Bytes that are added until then, at an end of the interval."""
        return time_s * mean + sign * margin * math.sqrt(time_s * time_s / n_parts + time_s * span_s)

    soonest_s = _first_time(lambda time_s: reached(time_s, 1), room)
    if soonest_s is None:
        return None
    latest_s = _first_time(lambda time_s: reached(time_s, -1), room)
    if latest_s is None and mean <= margin / math.sqrt(n_parts) and mean <= 0:
        return None
    central_s = room / mean if mean > 0 and room / mean <= FORESEEABLE_S else None
    return Forecast(central_s, soonest_s, latest_s, _accelerates(rates))


def _edges(course: Sequence[tuple[float, int]]) -> list[tuple[float, int]]:
    """The moments nearest to the ends of at most ``N_PARTS`` equal parts, each once."""
    if len(course) < 2:
        return list(course)
    first_s, last_s = course[0][0], course[-1][0]
    wanted = [first_s + (last_s - first_s) * i / N_PARTS for i in range(N_PARTS + 1)]
    chosen = {min(range(len(course)), key=lambda i: abs(course[i][0] - moment_s)) for moment_s in wanted}
    edges: list[tuple[float, int]] = []
    for number in sorted(chosen):
        if not edges or course[number][0] > edges[-1][0]:
            edges.append(course[number])
    return edges


def _first_time(added: Callable[[float], float], room: float) -> float | None:
    """When so much is added; None where not within ``FORESEEABLE_S``. What is added may fall before it rises."""
    low, high = 0.0, FORESEEABLE_S
    if added(high) < room:
        return None
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (low, middle) if added(middle) >= room else (middle, high)
    return high


def _accelerates(rates: Sequence[float]) -> bool:
    """Whether the later half grew faster than the earlier by more than their spread explains (t test, one half each).

    The spread is taken inside each half: that over all parts holds the acceleration itself.
    """
    half = len(rates) // 2
    early, late = rates[:half], rates[-half:]
    spread = math.sqrt((stdev(early) ** 2 + stdev(late) ** 2) / 2)
    return fmean(late) > 0 and fmean(late) - fmean(early) > _T_975[2 * half - 3] * spread * math.sqrt(2 / half) + 1
