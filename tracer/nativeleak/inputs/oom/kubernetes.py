"""What Kubernetes says: ``kubectl describe pod``, its YAML and JSON, events of kubelet and node-problem-detector."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Final

from nativeleak.inputs.oom.event import Event

_CONTAINER: Final = re.compile(r"  ([a-z0-9][a-z0-9.-]{0,252}):\s*")
_NAME: Final = re.compile(r'\s*(?:- )?"?name"?: "?([a-z0-9][a-z0-9.-]{0,252})"?,?\s*')
_KILLED: Final = re.compile(r'\s*"?[Rr]eason"?:\s+"?OOMKilled"?,?\s*')
_EXIT: Final = re.compile(r'\s*"?(?:Exit Code|exitCode)"?:\s+(\d{1,3}),?\s*')
_FINISHED: Final = re.compile(r'\s*"?(?:Finished|finishedAt)"?:\s+"?(.{8,40}?)"?,?\s*')
_LIMITS: Final = re.compile(r'\s*"?(?:Limits|limits)"?:\s*\{?\s*')
_MEMORY: Final = re.compile(r'\s*"?memory"?:\s+"?(\d{1,15}(?:\.\d+)?)([KMGTPE]?i?|m)"?,?\s*')
_SECTION: Final = re.compile(r"[A-Z][\w ]*:(?:\s.*)?")
_SYSTEM_OOM: Final = re.compile(r"System OOM encountered, victim process: (.{0,64}?), pid: (\d{1,10})")
_COPY: Final = re.compile(r"\bOOMKilling\b.*?((?:Memory cgroup out|Out) of memory: Killed process .*)")
_EVICTED: Final = re.compile(r"\bEvicted\b.*low on resource: memory|The node was low on resource: memory")
_FACTORS: Final = {"": 1, "K": 1000, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30,
                   "Ti": 1 << 40}  # fmt: skip


class KubernetesReader:
    """Reads the description of a pod; its events go by ``parse_event``."""

    def __init__(self) -> None:
        self._container: str | None = None
        self._now: Event | None = None
        self._in_limits = False
        self._limit_kb: int | None = None
        self._exit: int | None = None
        self._finished: str | None = None

    def feed(self, line: str) -> Event | None:
        """Take a line as it stands; an event where a container was killed, which later lines add to."""
        found = _CONTAINER.fullmatch(line)
        if found or _SECTION.fullmatch(line):
            self._begin(found[1] if found else None)
            return None
        name = _NAME.fullmatch(line)
        if name:
            if self._now is not None and "container" not in self._now.extra:
                self._now.extra["container"] = name[1]
            self._container = name[1]
        elif _LIMITS.fullmatch(line):
            self._in_limits = True
        elif (memory := _MEMORY.fullmatch(line)) and self._in_limits:
            self._in_limits = False
            self._limit_kb = _kib(memory[1], memory[2])
            if self._now is not None:
                self._now.limit_kb = self._limit_kb
        elif exit_code := _EXIT.fullmatch(line):
            self._exit = int(exit_code[1])
            if self._now is not None:
                self._now.extra["exit_code"] = self._exit
        elif finished := _FINISHED.fullmatch(line):
            self._finished = _time(finished[1])
            if self._now is not None:
                self._now.time = self._finished
        elif _KILLED.fullmatch(line):
            return self._on_killed()
        return None

    def _begin(self, container: str | None) -> None:
        self._container, self._now, self._in_limits = container, None, False
        self._limit_kb = self._exit = self._finished = None

    def _on_killed(self) -> Event:
        event = self._now = Event("kubernetes", limit_kb=self._limit_kb)
        if self._container is not None:
            event.extra["container"] = self._container
        if self._exit is not None and self._finished is not None:  # YAML: these come before the reason
            event.extra["exit_code"], event.time = self._exit, self._finished
        return event


def parse_event(text: str) -> Event | str | None:
    """An event of kubelet; the kernel's line in a copy of it; None for neither."""
    if found := _SYSTEM_OOM.search(text):
        return Event("kernel", pid=int(found[2]), comm=found[1], scope="global")
    if copy := _COPY.search(text):
        return copy[1]
    if _EVICTED.search(text):
        return Event("kubelet-eviction", killed=False)
    return None


def _kib(number: str, unit: str) -> int | None:
    factor = _FACTORS.get(unit)
    return int(float(number) * factor) >> 10 if factor else None


def _time(text: str) -> str | None:
    for form in ("%a, %d %b %Y %H:%M:%S %z", "%Y-%m-%dT%H:%M:%SZ"):
        try:
            moment = datetime.strptime(text.strip(), form)
        except ValueError:
            continue
        zone = moment.strftime("%z")
        shown = f"{zone[:3]}:{zone[3:]}" if zone and zone[1:] != "0000" else "Z"
        return moment.strftime("%Y-%m-%dT%H:%M:%S") + shown
    return None
