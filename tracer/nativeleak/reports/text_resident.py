"""Memory as a whole in the text report: one line for the head, and its sum by use."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Final

from nativeleak.analysis.limits import Forecast, LimitReport
from nativeleak.analysis.resident import Moment, ResidentLine
from nativeleak.analysis.thread_growth import Starter, ThreadGrowth
from nativeleak.model import FrameKind, LimitKind
from nativeleak.reports.memory import LABELS, UNWATCHED, MemoryReport
from nativeleak.reports.names import printable
from nativeleak.runtimes.frames import headline_frame
from nativeleak.units import format_bytes, format_duration

_KINDS: Final = {
    LimitKind.CGROUP: "cgroup",
    LimitKind.RLIMIT: "ulimit",
    LimitKind.JAVA_HEAP: "Java heap",
    LimitKind.DIRECT_MEMORY: "direct memory",
    LimitKind.MACHINE: "machine",
}
_UNITS: Final = ((2 * 86400, 86400, "days"), (2 * 3600, 3600, "h"), (120, 60, "min"), (0, 1, "s"))
_JAVA: Final = (FrameKind.JAVA_COMPILED, FrameKind.JAVA_INLINED, FrameKind.JAVA_INTERPRETED)
_CLASS_LIBRARY: Final = ("java.", "javax.", "jdk.", "sun.", "com.sun.")
_MAX_STARTERS: Final = 3


def memory_line(memory: MemoryReport) -> str:
    """Resident memory from start to end, its peak, and the limit that comes first; empty where nothing is known."""
    resident = memory.resident
    if resident is None:
        return ""
    change = resident.end_bytes - resident.start_bytes
    text = f"memory {format_bytes(resident.start_bytes)} -> {format_bytes(resident.end_bytes)} ({_signed(change)})"
    if resident.is_above_end:
        moment = format_duration(resident.peak_at_s)
        when = f"before {moment}, between two snapshots" if resident.is_between else f"at {moment}"
        text += f", peak {format_bytes(resident.peak_bytes)} {when}"
    first = next((limit for limit in memory.limits if _is_said(limit)), None)
    return f"{text}, {limit_text(first)}" if first is not None else text


def limit_text(report: LimitReport) -> str:
    """A limit and when it is reached: as an interval, never as one number."""
    text = f"limit {format_bytes(report.limit.limit_bytes)} ({_KINDS[report.limit.kind]})"
    if report.forecast is not None and (report.limit.kind is not LimitKind.MACHINE or report.forecast.latest_s):
        return f"{text} {forecast_text(report.forecast)}"
    return text if report.usage_bytes is None else f"{text}, {format_bytes(report.usage_bytes)} used"


def forecast_text(forecast: Forecast) -> str:
    """When a limit is reached."""
    if forecast.latest_s is not None and forecast.latest_s <= 0:
        return "reached"
    soonest = _rough(forecast.soonest_s, math.floor)
    if forecast.accelerates:
        latest = forecast.latest_s if forecast.latest_s is not None else forecast.reached_in_s
        return "reached at growing speed" + (f", sooner than in {_rough(latest, math.ceil)}" if latest else "")
    if forecast.latest_s is None:
        return f"reached not before {soonest}"
    return f"reached in between {soonest} and {_rough(forecast.latest_s, math.ceil)}"


def resident_lines(memory: MemoryReport) -> Iterator[str]:
    """The change of resident memory as a sum, the peak by use where it was far above the end, and the threads."""
    resident = memory.resident
    if resident is None or resident.start is None or resident.end is None:
        return
    start, end = resident.start, resident.end
    yield f"{_signed(end.rss_bytes - start.rss_bytes)} = {_sum(start, end)}"
    if resident.is_above_end and resident.peak is not None and resident.peak.rss_bytes > end.rss_bytes:
        at = format_duration(resident.peak.elapsed_s)
        yield f"at {at} {format_bytes(resident.peak.rss_bytes)} = {_uses(resident.peak)}"
    if memory.threads is not None and memory.threads.is_finding:
        yield from thread_lines(memory.threads)


def thread_lines(threads: ThreadGrowth) -> Iterator[str]:
    """The number of threads, and by which calls they were started."""
    yield f"threads {threads.start:,} -> {threads.end:,}: {threads.growth.slope_bytes_per_s:+.2g} a second"
    for starter in threads.starters[:_MAX_STARTERS]:
        memory = f", {format_bytes(starter.resident_bytes)} in memory" if starter.resident_bytes else ""
        yield f"{starter.n_threads:,} started by {_starter(starter)}{memory}"


def _starter(starter: Starter) -> str:
    """The program's function that started threads, and the library's that it called."""
    frames = list(starter.frames)
    own = (each for each in frames if each.kind in _JAVA and not each.function.startswith(_CLASS_LIBRARY))
    frame = next(own, None) or headline_frame(frames)
    if frame is None:
        return " < ".join(printable(each.function) for each in frames[:3]) or "[no caller]"
    at = frames.index(frame)
    via = f", by way of {printable(frames[at - 1].function)}" if at else ""
    return f"{printable(frame.function)}{via}"


def _is_said(report: LimitReport) -> bool:
    return report.limit.kind in (LimitKind.CGROUP, LimitKind.RLIMIT, LimitKind.MACHINE)


def _sum(start: Moment, end: Moment) -> str:
    """Changes of all lines, largest first; lines below 1 % of the largest are one."""
    changes = {line: end.lines[line] - start.lines[line] for line in ResidentLine}
    parts = sorted(changes, key=lambda line: -abs(changes[line]))
    least = max(abs(changes[parts[0]]) / 100, 1)
    shown = [line for line in parts if abs(changes[line]) >= least]
    rest = sum(change for line, change in changes.items() if line not in shown)
    texts = [f"{_label(line, end)} {_signed(changes[line])}{_untouched(line, end)}" for line in shown]
    return ", ".join([*texts, *([f"other {_signed(rest)}"] if rest else [])]) or "no change"


def _uses(moment: Moment) -> str:
    parts = sorted(ResidentLine, key=lambda line: -moment.lines[line])
    least = moment.rss_bytes / 100
    shown = [line for line in parts if moment.lines[line] >= least]
    rest = moment.rss_bytes - sum(moment.lines[line] for line in shown)
    texts = [f"{_label(line, moment)} {format_bytes(moment.lines[line])}" for line in shown]
    return ", ".join([*texts, *([f"other {format_bytes(rest)}"] if rest else [])])


def _label(line: ResidentLine, moment: Moment) -> str:
    return UNWATCHED if line is ResidentLine.RETAINED and not moment.is_watched else LABELS[line]


def _untouched(line: ResidentLine, end: Moment) -> str:
    if line is not ResidentLine.LIVE or end.untouched_bytes < 1 << 20:
        return ""
    return f" ({format_bytes(end.untouched_bytes)} more not touched yet)"


def _rough(seconds: float, to_whole: Callable[[float], int]) -> str:
    """Seconds in one unit, rounded in the direction that does not narrow an interval."""
    unit_s, unit = next((unit_s, unit) for least_s, unit_s, unit in _UNITS if seconds >= least_s)
    return f"{to_whole(seconds / unit_s):,} {unit}"


def _signed(n_bytes: float) -> str:
    return ("+" if n_bytes > 0 else "") + format_bytes(n_bytes)
