"""The kernel's OOM killer, Linux 2.6.9 to 6.18, and OpenVZ's.

Scope: one ``Killed process`` line is one event, whatever else is missing; what stands before it adds to it. ``Kill
process``, the reaper's line, and the process of ``CPU:`` are no victims. A number that touches the cut of a line is
unknown.

Source: mm/oom_kill.c and ``mem_cgroup_print_oom_context`` in mm/memcontrol.c of each age.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from nativeleak.inputs.oom.event import Event
from nativeleak.inputs.oom.stamps import LogLine
from nativeleak.inputs.oom.table import Task, TaskTable

_INVOKED: Final = re.compile(r"(?:(.{1,64}) invoked )?oom-killer: gfp_mask=(\S+?),.*?order=(-?\d{1,3})")
_CAUSE: Final = r"(Memory cgroup out of memory|Memory group out of memory|Out of [mM]emory|No available memory)"
_KILL: Final = re.compile(rf"{_CAUSE}[^:]{{0,60}}: Kill process (\d{{1,10}}) \(")
_KILLED: Final = re.compile(rf"(?:{_CAUSE}[^:]{{0,60}}: )?Killed process (\d{{1,10}})(?=[ ,])(.*)")
_SIZES: Final = re.compile(r"(?:, UID (\d{1,10}),)? \((.*)\),?(?: UID (\d{1,10}),)? (total-vm:.*)")
_NAME: Final = re.compile(r" \((.*)\)\.?,?\s*")
_KB: Final = re.compile(r"(?:^|[ ,])(total-vm|anon-rss|file-rss|shmem-rss|pgtables):(\d{1,18})kB")
_UID: Final = re.compile(r"[ ,]UID:(\d{1,10})(?=[ ,])")
_ADJ: Final = re.compile(r" oom_score_adj:(-?\d{1,4})\s*$")
_OPENVZ: Final = re.compile(
    r"(?:Out of memory in UB (\S{1,64}): )?OOM killed process (\d{1,10}) \((.*)\)(?: score \d+)? "
    r"vm:(\d{1,18})kB, rss:(\d{1,18})kB(?:, swap:(\d{1,18})kB)?"
)
_CONSTRAINT: Final = re.compile(r"oom-kill:constraint=CONSTRAINT_(\w{1,32}),(.*),pid=(\d{1,10}),uid=(\d{1,10})\s*")
_TASK_IN: Final = re.compile(r"Task in (.*) killed as a result of limit of (.*)")
_GROUP: Final = re.compile(r"Tasks in (.*) are going to be killed due to memory\.oom\.group set")
_USAGE: Final = re.compile(r"memory: usage (\d{1,20})kB, limit (\d{1,20})kB, failcnt \d+")
_SWAP_USAGE: Final = re.compile(r"(?:memory\+)?swap: usage (\d{1,20})kB, limit (\d{1,20})kB")
_STATS_FOR: Final = re.compile(r"Memory cgroup stats for (/.*?):(?: |$)")
_RAM: Final = re.compile(r"(\d{1,15}) pages (?:of )?RAM")
_NO_VICTIM: Final = ("Out of memory and no killable processes", "Memory cgroup out of memory and no killable")
_PANIC: Final = re.compile(r"Kernel panic - not syncing: .*(?:memory|Memory)")
_SCOPES: Final = {"NONE": "global", "MEMCG": "memcg", "CPUSET": "cpuset", "MEMORY_POLICY": "mempolicy"}
_NO_LIMIT_KB: Final = 1 << 52
"""Limits of cgroups near 2^63 bytes, in KiB 9007199254740988 and the like, are none."""
_PAGE_SIZES_KB: Final = (4, 16, 64)
_MAX_PGTABLES: Final = 8
"""Page tables beyond this part of the address space are not possible: 5.4.0 to 5.4.8 print bytes under kB."""
_STALE_S: Final = 120.0
_N_OTHERS: Final = 5


@dataclass(slots=True)
class _Context:
    """What has been said since the killer was invoked."""

    uptime_s: float | None = None
    invoked_by: str | None = None
    order: int | None = None
    scope: str | None = None
    limit_cgroup: str | None = None
    victim_cgroup: str | None = None
    stats_cgroup: str | None = None
    usage_kb: int | None = None
    limit_kb: int | None = None
    machine_pages: int | None = None
    victim: tuple[int, int] | None = None
    is_group: bool = False
    is_used: bool = False
    tasks: dict[int, Task] = field(default_factory=dict)


class KernelReader:
    """Reads the kernel's lines."""

    def __init__(self) -> None:
        self._context = _Context(is_used=True)
        self._table = TaskTable()
        self._last: Event | None = None
        self.n_announced = 0
        """``Kill process`` lines without the ``Killed process`` line that belongs to them."""

    def feed(self, line: LogLine) -> Event | None:
        """Take a line; an event where it is one."""
        text = line.text.rstrip()
        if found := _KILLED.match(text):
            return self._on_killed(line, found)
        if found := _OPENVZ.match(text):
            return self._on_openvz(line, found)
        if text.startswith(_NO_VICTIM):
            return self._on_no_victim(line)
        if _PANIC.match(text):
            return self._on_panic(line)
        self._on_context(line, text)
        return None

    def _on_context(self, line: LogLine, text: str) -> None:
        now = self._context
        if found := _INVOKED.match(text):
            self._context = _Context(line.uptime_s, found[1], int(found[3]))
            self._table = TaskTable()
            return
        task = self._table.feed(text)
        if task is not None:
            now.tasks[task.pid] = task
        elif self._table.is_head(text):
            now.tasks.clear()
        elif found := _CONSTRAINT.fullmatch(text):
            self._fresh(line)
            _take_constraint(self._context, found)
        elif found := _TASK_IN.match(text):
            self._fresh(line)
            self._context.victim_cgroup, self._context.limit_cgroup = found[1].strip(), found[2].strip()
        elif found := _GROUP.match(text):
            self._fresh(line)
            self._context.is_group = True
            self._context.victim_cgroup = self._context.victim_cgroup or found[1]
        elif found := _USAGE.match(text):
            self._fresh(line)
            self._context.usage_kb, self._context.limit_kb = int(found[1]), _limit(int(found[2]))
        elif found := _STATS_FOR.match(text):
            now.stats_cgroup = found[1]
        elif found := _RAM.match(text):
            now.machine_pages = int(found[1])
        elif found := _KILL.match(text):
            self._fresh(line)
            self._context.scope = self._context.scope or _scope_of(found[1])
            self.n_announced += 1

    def _fresh(self, line: LogLine) -> None:
        """Begin a context where the last one has had its victim: its head was cut off, or dropped by the rate limit."""
        if self._context.is_used:
            self._context = _Context(line.uptime_s)

    # Events

    def _on_killed(self, line: LogLine, found: re.Match[str]) -> Event:
        cause, pid, rest = found.groups()
        event = self._event(line, killed=True)
        event.pid = int(pid)
        if sizes := _SIZES.match(rest):
            event.comm = sizes[2]
            uid = sizes[1] or sizes[3]
            event.uid = int(uid) if uid else event.uid
            _take_sizes(event, sizes[4])
        elif name := _NAME.fullmatch(rest):
            event.comm = name[1]
        self.n_announced = max(0, self.n_announced - 1)
        now = self._take_context(line, is_part_of_group=True)
        if cause:
            event.scope = _scope_of(cause)
        if now is not None:
            _add_context(event, now)
        self._last = event
        return event

    def _on_openvz(self, line: LogLine, found: re.Match[str]) -> Event:
        event = self._event(line, killed=True)
        event.pid, event.comm, event.total_vm_kb = int(found[2]), found[3], int(found[4])
        event.extra["rss_kb"] = int(found[5])
        event.swap_kb = int(found[6]) if found[6] else None
        event.scope = "container" if found[1] else None
        if found[1]:
            event.extra["container"] = found[1]
        self._last = event
        return event

    def _on_no_victim(self, line: LogLine) -> Event | None:
        now = self._take_context(line)
        if now is None and self._last is not None and not self._last.killed and self._last.invoked_by is None:
            self._last.extra["repeats"] = self._last.extra.get("repeats", 1) + 1
            return None
        event = self._event(line, killed=False)
        event.scope = "global"
        if now is not None:
            _add_context(event, now)
            event.scope = now.scope or ("memcg" if now.usage_kb is not None else "global")
        self._last = event
        return event

    def _on_panic(self, line: LogLine) -> Event | None:
        if self._last is not None and not self._last.killed:
            self._last.extra["panic"] = True
            return None
        event = self._event(line, killed=False)
        event.scope = "global"
        event.extra["panic"] = True
        now = self._take_context(line)
        if now is not None:
            _add_context(event, now)
        self._last = event
        return event

    def _event(self, line: LogLine, *, killed: bool) -> Event:
        uptime_s = round(line.uptime_s, 3) if line.uptime_s is not None else None
        return Event("kernel", killed, time=line.time, uptime_s=uptime_s)

    def _take_context(self, line: LogLine, *, is_part_of_group: bool = False) -> _Context | None:
        """What was said for this event; None where that was said for another."""
        now = self._context
        is_stale = (
            now.uptime_s is not None and line.uptime_s is not None and abs(line.uptime_s - now.uptime_s) > _STALE_S
        )
        if is_stale or (now.is_used and not (is_part_of_group and now.is_group)):
            return None
        now.is_used = True
        return now


def _take_constraint(now: _Context, found: re.Match[str]) -> None:
    """A name of a task may hold commas, ``task=`` too: the groups come before it."""
    now.scope = _SCOPES.get(found[1])
    limit, _, rest = found[2].partition(",task_memcg=")
    now.limit_cgroup = limit.partition(",oom_memcg=")[2] or None
    now.victim_cgroup = rest.partition(",task=")[0] or None
    now.victim = int(found[3]), int(found[4])


def _scope_of(cause: str) -> str:
    return "memcg" if cause.startswith("Memory") else "global"


def _limit(kb: int) -> int | None:
    return kb if kb < _NO_LIMIT_KB else None


def _take_sizes(event: Event, text: str) -> None:
    sizes = {name: int(number) for name, number in _KB.findall(text)}
    event.total_vm_kb, event.anon_rss_kb = sizes.get("total-vm"), sizes.get("anon-rss")
    event.file_rss_kb, event.shmem_rss_kb = sizes.get("file-rss"), sizes.get("shmem-rss")
    event.pgtables_kb = sizes.get("pgtables")
    if uid := _UID.search(text):
        event.uid = int(uid[1])
    if adj := _ADJ.search(text):
        event.oom_score_adj = int(adj[1])
    if event.pgtables_kb and event.total_vm_kb and event.pgtables_kb > event.total_vm_kb // _MAX_PGTABLES:
        event.pgtables_kb >>= 10


def _add_context(event: Event, now: _Context) -> None:
    task = now.tasks.get(event.pid or -1)
    page_kb = _page_kb(event, task)
    event.invoked_by = now.invoked_by
    event.scope = now.scope if now.scope in ("cpuset", "mempolicy") else event.scope or now.scope
    if event.scope == "memcg" or event.scope is None:
        event.limit_cgroup = now.limit_cgroup or now.stats_cgroup
        event.usage_kb, event.limit_kb = now.usage_kb, now.limit_kb
        event.scope = event.scope or ("memcg" if event.usage_kb is not None else None)
    elif now.usage_kb is not None:
        event.usage_kb, event.limit_kb = now.usage_kb, now.limit_kb
        event.limit_cgroup = now.limit_cgroup or now.stats_cgroup
    event.victim_cgroup = now.victim_cgroup
    if now.victim is not None and now.victim[0] == event.pid and event.uid is None:
        event.uid = now.victim[1]
    if task is not None:
        _add_task(event, task, page_kb)
    event.others = [
        {"pid": each.pid, "comm": each.comm, "rss_kb": each.rss * page_kb, "swap_kb": (each.swap or 0) * page_kb}
        for each in sorted(now.tasks.values(), key=lambda each: -each.rss - (each.swap or 0))
        if each.pid != event.pid
    ][:_N_OTHERS]
    if now.order is not None and now.order > 1:
        event.extra["order"] = now.order
    if now.machine_pages is not None:
        event.extra["machine_kb"] = now.machine_pages * page_kb


def _add_task(event: Event, task: Task, page_kb: int) -> None:
    event.uid = task.uid if event.uid is None else event.uid
    event.oom_score_adj = task.oom_score_adj if event.oom_score_adj is None else event.oom_score_adj
    event.swap_kb = task.swap * page_kb if task.swap else None
    if event.pgtables_kb is not None and task.pgtables_bytes:
        event.pgtables_kb = task.pgtables_bytes >> 10


def _page_kb(event: Event, task: Task | None) -> int:
    """Page size of that machine: what the line says in kB over what the table says in pages."""
    rss_kb = event.rss_kb
    if task is None or not rss_kb or task.rss <= 0:
        return _PAGE_SIZES_KB[0]
    ratio = rss_kb / task.rss
    return min(_PAGE_SIZES_KB, key=lambda size: abs(size - ratio))
