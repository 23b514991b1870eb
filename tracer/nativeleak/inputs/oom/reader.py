"""A log into its kills, in order; copies of one kill by other programs count once."""

from __future__ import annotations

import re
from typing import Final

from nativeleak.inputs.oom.daemons import DaemonReader, unit_of
from nativeleak.inputs.oom.event import Event
from nativeleak.inputs.oom.kernel import KernelReader
from nativeleak.inputs.oom.kubernetes import KubernetesReader, parse_event
from nativeleak.inputs.oom.stamps import LogLine, parse_log_line
from nativeleak.inputs.reading import Reading
from nativeleak.units import format_bytes

_WORDS: Final = re.compile(
    r"oom|OOM|Killed process \d|Killing process|[Oo]ut of [Mm]emory|lowmemorykiller|Kill '|sigkill to|low on resource"
    r"|SIG(?:TERM|KILL) to (?:process|the victim|cgroup)"
)
_KERNEL_PROGRAMS: Final = frozenset({"", "kernel", "kern", "lowmemorykiller"})
_MAX_TEXT: Final = 8192
_NEAR: Final = 64
"""Events back to which a copy is looked for."""


class OomReader:
    """Reads lines of logs.

    Attributes:
        events: In the order of the log.
        n_lines: Lines read.
    """

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.n_lines = 0
        self.notes: list[str] = []
        self._kernel = KernelReader()
        self._daemons = DaemonReader()
        self._kubernetes = KubernetesReader()

    def feed(self, line: str) -> None:
        """Take a line without its newline."""
        self.n_lines += 1
        if event := self._kubernetes.feed(line):
            self.events.append(event)
            return
        parsed = parse_log_line(line)
        parsed = parsed._replace(text=parsed.text[:_MAX_TEXT])
        found = parse_event(parsed.text)
        if isinstance(found, str):
            parsed = LogLine(parsed.time, parsed.uptime_s, "kernel", found)
        elif found is not None:
            found.time = parsed.time
            self._add(found)
            return
        unit = unit_of(parsed)
        if unit is not None:
            self._on_unit(parsed, unit)
            return
        event = self._kernel.feed(parsed) if parsed.program in _KERNEL_PROGRAMS else None
        event = event or self._daemons.feed(parsed)
        if event is not None:
            self._add(event)

    def finish(self) -> None:
        """No more lines come."""
        if self._kernel.n_announced:
            n = self._kernel.n_announced
            self.notes.append(f"{n} kills were announced (Kill process), but the line that says who died is missing")

    def _add(self, event: Event) -> None:
        if event.pid is not None and event.killer == "kernel":
            for known in self.events[-_NEAR:]:
                if known.killer == "kernel" and known.pid == event.pid and _same(known, event):
                    return
        self.events.append(event)

    def _on_unit(self, line: LogLine, unit: str) -> None:
        """Systemd says that a unit lost a process: the kernel's line before it is the same kill."""
        for known in reversed(self.events[-_NEAR:]):
            if known.extra.get("unit") == unit:
                return
            if known.killer == "kernel" and known.killed and "unit" not in known.extra:
                cgroup = known.victim_cgroup
                if (cgroup is None and known.time == line.time) or (cgroup is not None and unit in cgroup.split("/")):
                    known.extra["unit"] = unit
                    return
        self.events.append(Event("kernel", time=line.time, extra={"unit": unit}))


def _same(known: Event, event: Event) -> bool:
    if event.total_vm_kb is None or known.total_vm_kb is None:
        return event.total_vm_kb is None and known.comm == event.comm and event.killed == known.killed
    return (known.total_vm_kb, known.anon_rss_kb, known.comm) == (event.total_vm_kb, event.anon_rss_kb, event.comm)


def is_oom_log(text: str) -> bool:
    """Whether a text tells of a kill, or of a moment when nobody could be killed."""
    return _WORDS.search(text) is not None and bool(_read(text).events)


def parse_oom(text: str) -> Reading:
    """The kills in a log."""
    reader = _read(text)
    reading = Reading("oom", "log with OOM kills", {"events": [e.as_json() for e in reader.events]})
    reading.lines = [in_words(event) for event in reader.events]
    reading.notes = reader.notes
    return reading


def _read(text: str) -> OomReader:
    reader = OomReader()
    for line in text.split("\n"):
        reader.feed(line)
    reader.finish()
    return reader


def in_words(event: Event) -> str:
    """One line for people."""
    when = event.time or (f"{event.uptime_s:.1f} s after the start" if event.uptime_s is not None else "(no time)")
    if not event.killed:
        what = "evicted a pod" if event.killer == "kubelet-eviction" else "found nobody to kill"
        ending = "; the kernel panicked" if event.extra.get("panic") else ""
        return f"{when}  {event.killer} {what}{ending}"
    name = event.comm or event.extra.get("container") or event.extra.get("unit") or event.victim_cgroup or "somebody"
    parts = [f"{when}  {event.killer} killed {name}" + (f" (PID {event.pid})" if event.pid is not None else "")]
    if event.rss_kb is not None:
        parts.append(f"{format_bytes(event.rss_kb << 10)} resident")
    if event.swap_kb:
        parts.append(f"{format_bytes(event.swap_kb << 10)} in swap")
    if event.limit_kb is not None:
        where = f" of {event.limit_cgroup}" if event.limit_cgroup else ""
        parts.append(f"limit {format_bytes(event.limit_kb << 10)}{where}")
    elif event.scope == "global":
        parts.append("the whole machine was out of memory")
    elif event.scope is not None:
        parts.append(f"scope {event.scope}")
    if event.extra.get("reason"):
        parts.append(str(event.extra["reason"]))
    return ", ".join(parts)
