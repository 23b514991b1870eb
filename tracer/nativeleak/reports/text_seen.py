"""What a trace watched and what it did not, in the first lines of the report for people.

Caveat: "nothing was lost" is true only where all was watched; ``saw_everything`` says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from nativeleak.analysis.resident import ResidentLine
from nativeleak.model import Child, Level, TargetInfo
from nativeleak.recording import Event
from nativeleak.reports.names import printable
from nativeleak.reports.report import Report
from nativeleak.reports.text_windows import share_text
from nativeleak.units import format_bytes

_MIN_GROWTH_BYTES: Final = 1 << 20
_SEEN_WITHOUT_CALLS: Final = (ResidentLine.MAPPED, ResidentLine.STACKS, ResidentLine.SHARED)
_MAX_NAMED: Final = 5
_COMM_BYTES: Final = 15
"""The kernel keeps so much of a process's name."""


class Labelled(NamedTuple):
    """A sentence behind a label, and a rich style for it."""

    label: str
    text: str
    style: str = ""


def watched_lines(report: Report) -> Iterator[Labelled]:
    """Lines for the first screen: allocators that are watched, in a way that may harm or not at all; large children."""
    if watched := _watched(report):
        yield Labelled("Watched", watched)
    for event in _returns(report):
        yield Labelled("MAY HARM", printable(event.text), "bold red")
    for each in report.unwatched:
        functions = f" ({printable(each.prefix)})" if each.prefix else ""
        name = printable(each.allocator) if each.allocator else "what looks like an allocator"
        yield Labelled(
            "NOT WATCHED", f"{name}{functions} in {printable(each.object)}: {printable(each.why)}", "bold red"
        )
    if saw_no_call(report) and not report.unwatched:
        yield Labelled("NOT WATCHED", _no_call(report), "bold red")
    if report.children:
        yield Labelled("CHILDREN", _children(report), "bold red")


def _returns(report: Report) -> list[Event]:
    """Notes of return probes where exits were wanted: calls of a handler inside of a call are not seen."""
    return [event for event in report.trace.events if event.what == "returns"]


def saw_everything(report: Report) -> bool:
    """Whether every allocation of the targets was watched during the whole trace, as far as that can be known."""
    trace = report.trace
    return (
        trace.info.coverage.has_blocks
        and not report.unwatched
        and not saw_no_call(report)
        and not _returns(report)
        and not trace.sample_bytes
        and not (trace.info.min_size or trace.info.max_size)
        and all(window.level is Level.EXACT for window in trace.windows)
    )


def saw_no_call(report: Report) -> bool:
    """Whether allocators were watched, none was called, and memory grew all the same that no other line explains."""
    return _watches_allocators(report) and not report.overhead.probe_hits and _grown(report) >= _MIN_GROWTH_BYTES


def process_name(target: TargetInfo) -> str:
    """A target's name with its PID, and its program's file where that has another name.

    redis-server, for one, may be a link to redis-check-rdb.
    """
    file = target.exe.rsplit("/", 1)[-1]
    is_same = not file or file.startswith(target.comm) or file[:_COMM_BYTES] == target.comm
    beside = "" if is_same else f", program file {printable(target.exe)}"
    return f"{printable(target.comm)} (PID {target.pid}{beside})"


def _watches_allocators(report: Report) -> bool:
    info = report.trace.info
    return info.coverage.has_blocks and "malloc" in info.probes


def _watched(report: Report) -> str:
    if not _watches_allocators(report):
        return ""
    objects = dict.fromkeys(name for target in report.trace.targets for name in target.allocators)
    if not objects:
        return ""
    level = "every allocation" if saw_everything(report) else share_text(report) if report.sums.in_windows else ""
    others = ", ".join(probe for probe in report.trace.info.probes if probe != "malloc")
    text = f"allocator functions of {', '.join(map(printable, objects))}; {others}"
    return f"{text}; {level}" if level else text


def _no_call(report: Report) -> str:
    names = ", ".join(printable(target.comm) for target in report.trace.targets)
    return (
        f"no allocator function was called, but the memory of {names} grew by {format_bytes(_grown(report))}: it may "
        "have an allocator under other names (--allocator PREFIX), or grow in mapped memory from before the trace"
    )


def _grown(report: Report) -> int:
    """Growth of resident memory without what the program mapped and the stacks of its threads, which are watched."""
    if report.resident is None:
        return 0
    lines = report.memory.resident
    if lines is None or lines.start is None or lines.end is None:
        return report.resident.last_bytes - report.resident.first_bytes
    seen = sum(lines.end.lines[line] - lines.start.lines[line] for line in _SEEN_WITHOUT_CALLS)
    return lines.end_bytes - lines.start_bytes - seen


def _children(report: Report) -> str:
    children = report.children
    named = ", ".join(map(_child, children[:_MAX_NAMED]))
    more = f" and {len(children) - _MAX_NAMED} more" if len(children) > _MAX_NAMED else ""
    count = "1 child that holds" if len(children) == 1 else f"{len(children)} children that hold"
    subject = "this process has" if len(report.trace.targets) == 1 else "these processes have"
    running = next((child for child in children if child.is_alive), None)
    advice = f": nativeleak trace -p {running.pid}" if running else ""
    return f"{subject} {count} or grew as much or more: {named}{more}{advice}"


def _child(child: Child) -> str:
    sign = "+" if child.growth_bytes > 0 else ""
    ended = "" if child.is_alive else ", ended"
    growth = f"{sign}{format_bytes(child.growth_bytes)}"
    return f"{child.pid} ({printable(child.comm)}, {format_bytes(child.rss_bytes)}, {growth}{ended})"
