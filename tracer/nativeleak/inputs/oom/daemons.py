"""Killers in user space: systemd-oomd, earlyoom, nohang, Android's lmkd and its driver, Talos, docker's word.

Source: src/oom/oomd-manager.c of systemd; kill.c of earlyoom, and its older main.c; the log of nohang;
lmkd.cpp; drivers/staging/android/lowmemorykiller.c; reports linked in the project's issues.
"""

from __future__ import annotations

import json
import re
from typing import Final

from nativeleak.inputs.oom.event import Event
from nativeleak.inputs.oom.stamps import LogLine

_OOMD: Final = re.compile(r"(?:Killed|Marked) (/\S+|\S+\.\w+)(?: for killing)? due to (.*)")
_OOMD_PRESSURE: Final = re.compile(r"memory pressure for \S+ being ([\d.]+)% > ([\d.]+)% for > (\d+)(\w+)")
_OOMD_USED: Final = re.compile(r"(memory|swap) used \(.*being more than ([\d.]+)%")
_OOMD_ATTEMPT: Final = re.compile(r"oomd attempting to kill (\d{1,10}) with (?:SIG)?KILL")
_OOMD_UNIT: Final = re.compile(r"(\S+): systemd-oomd killed (\d{1,9}) process\(es\) in this unit")
_UNIT_KILLED: Final = re.compile(
    r"(\S+): (?:A process of this unit has been killed by the OOM killer|Failed with result 'oom-kill')"
)
_EARLYOOM: Final = (
    re.compile(r"Killing process '(?P<comm>.*)' with signal \d+, pid: (?P<pid>\d+).*?VmRSS: (?P<rss>\d+) MiB"),
    re.compile(r"[Kk]illing process (?P<pid>\d+) \"?(?P<comm>.*?)\"? with signal \w+: .*?VmRSS (?P<rss>\d+) MiB"),
    re.compile(
        r"sending SIG(?:TERM|KILL) to process (?P<pid>\d+)(?: uid (?P<uid>\d+))? \"(?P<comm>.*?)\": "
        r"(?:badness|oom_score) -?\d+.*?VmRSS (?P<rss>\d+) MiB"
    ),
)
_NOHANG_PID: Final = re.compile(r"\s*PID: (\d{1,10}), [nN]ame: (.*), badness: -?\d+")
_NOHANG_RSS: Final = re.compile(
    r"\s*VmRSS: +(\d{1,12}) MiB(?: +\(Anon: (\d{1,12}) MiB, File: (\d{1,12}) MiB, Shmem: (\d{1,12}) MiB\))?"
)
_NOHANG_SWAP: Final = re.compile(r"\s*VmSwap: +(\d{1,12}) MiB")
_NOHANG_SEND: Final = re.compile(r"\s*Send(?:ing)? SIG(?:TERM|KILL) to the victim")
_LMKD: Final = re.compile(
    r"Kill(?:ing)? '(.*)' \((\d{1,10})\), uid (\d{1,10}), oom_(?:score_)?adj (-?\d{1,4}) to free (\d{1,15})kB"
    r"(?: rss, (\d{1,15})kB swap)?"
)
_DRIVER: Final = re.compile(r"(?:lowmemorykiller: )?Killing '(.*)' \((\d{1,10})\), adj (-?\d{1,4}),\s*$")
_DRIVER_SIZE: Final = re.compile(r"(?:lowmemorykiller: )?\s*to free (\d{1,15})kB on behalf of ")
_SELECT: Final = re.compile(
    r"(?:lowmemorykiller: |lowmem_shrink )?(select|send sigkill to) (\d{1,10}) \((.*)\), adj (-?\d{1,4}), "
    r"size (\d{1,12})"
)
_TALOS: Final = re.compile(r"\[talos\] Sending SIGKILL to cgroup (\{.*\})")
_DOCKER: Final = re.compile(r"container oom ([0-9a-f]{12,64}) \((.*)\)")
_CGROUP_MOUNT: Final = "/sys/fs/cgroup"
_PAGE_KB: Final = 4


class DaemonReader:
    """Reads lines of killers in user space."""

    def __init__(self) -> None:
        self._attempts: list[int] = []
        self._oomd: Event | None = None
        self._driver: Event | None = None
        self._nohang: Event | None = None
        self._told: set[tuple[str, object]] = set()

    def feed(self, line: LogLine) -> Event | None:
        """Take a line; an event where it is one."""
        text = line.text.rstrip()
        for read in (self._on_oomd, self._on_earlyoom, self._on_nohang, self._on_android, self._on_others):
            event = read(line, text)
            if event is not None:
                event.time = event.time or line.time
                if line.uptime_s is not None and event.uptime_s is None:
                    event.uptime_s = round(line.uptime_s, 3)
                return event
        return None

    def _on_oomd(self, line: LogLine, text: str) -> Event | None:
        if line.program not in ("", "systemd-oomd", "systemd"):
            return None
        if found := _OOMD_ATTEMPT.match(text):
            self._attempts.append(int(found[1]))
        elif found := _OOMD_UNIT.match(text):
            last = self._oomd
            if last is not None and (last.victim_cgroup or "").endswith(found[1]):
                last.extra["n_killed"] = int(found[2])
                return None
            self._oomd = Event("systemd-oomd", extra={"unit": found[1], "n_killed": int(found[2])})
            return self._oomd
        elif found := _OOMD.match(text):
            pids, self._attempts = self._attempts, []
            last = self._oomd
            if last is not None and last.victim_cgroup == found[1] and last.time == line.time:
                return None
            pid = pids[0] if len(pids) == 1 else None
            self._oomd = Event("systemd-oomd", pid=pid, victim_cgroup=found[1], time=line.time)
            self._oomd.extra["reason"] = _reason(found[2])
            return self._oomd
        return None

    def _on_earlyoom(self, line: LogLine, text: str) -> Event | None:
        if line.program not in ("", "earlyoom"):
            return None
        for pattern in _EARLYOOM:
            if found := pattern.match(text):
                facts = found.groupdict()
                pid, uid = int(facts["pid"]), facts.get("uid")
                if not self._is_new("earlyoom", pid):  # SIGTERM, then SIGKILL
                    return None
                return Event(
                    "earlyoom", pid=pid, comm=facts["comm"], uid=int(uid) if uid else None,
                    extra={"rss_kb": int(facts["rss"]) << 10},
                )  # fmt: skip
        return None

    def _on_nohang(self, line: LogLine, text: str) -> Event | None:
        if found := _NOHANG_PID.match(text):
            self._nohang = Event("nohang", pid=int(found[1]), comm=found[2])
        now = self._nohang
        if now is None:
            return None
        now.time = line.time or now.time
        if found := _NOHANG_RSS.match(text):
            now.extra["rss_kb"] = int(found[1]) << 10
            sizes = [int(each) << 10 if each is not None else None for each in found.groups()[1:]]
            now.anon_rss_kb, now.file_rss_kb, now.shmem_rss_kb = sizes
        elif found := _NOHANG_SWAP.match(text):
            now.swap_kb = int(found[1]) << 10
        elif _NOHANG_SEND.match(text):
            self._nohang = None
            return now if self._is_new("nohang", now.pid) else None
        return None

    def _on_android(self, _line: LogLine, text: str) -> Event | None:
        if found := _LMKD.match(text):
            return Event(
                "lmkd", pid=int(found[2]), comm=found[1], uid=int(found[3]), oom_score_adj=int(found[4]),
                swap_kb=int(found[6]) if found[6] else None, extra={"rss_kb": int(found[5])},
            )  # fmt: skip
        if found := _DRIVER.match(text):
            self._driver = Event("lowmemorykiller", pid=int(found[2]), comm=found[1], oom_score_adj=int(found[3]))
            return self._driver
        if self._driver is not None and (found := _DRIVER_SIZE.match(text)):
            self._driver.extra.setdefault("rss_kb", int(found[1]))
        elif found := _SELECT.match(text):
            pid = int(found[2])
            if self._is_new("select", pid):
                # Its adj is oom_adj, another scale.
                return Event(
                    "lowmemorykiller", pid=pid, comm=found[3], extra={"rss_kb": int(found[5]) * _PAGE_KB},
                )  # fmt: skip
        return None

    def _on_others(self, line: LogLine, text: str) -> Event | None:
        if found := _TALOS.match(text):
            try:
                cgroup = json.loads(found[1]).get("cgroup")
            except (ValueError, RecursionError, AttributeError):
                cgroup = None
            path = cgroup.removeprefix(_CGROUP_MOUNT) if isinstance(cgroup, str) else None
            return Event("talos", victim_cgroup=path)
        if (found := _DOCKER.search(text)) and self._is_new("docker", (found[1], line.time)):
            name = re.search(r"\bname=([\w.-]{1,128})", found[2])
            return Event("docker", scope="container", extra={"container": name[1] if name else found[1][:12]})
        return None

    def _is_new(self, killer: str, key: object) -> bool:
        if (killer, key) in self._told:
            return False
        self._told.add((killer, key))
        return True


def unit_of(line: LogLine) -> str | None:
    """The unit of which systemd says that the OOM killer took a process; None for any other line."""
    if line.program not in ("", "systemd"):
        return None
    found = _UNIT_KILLED.match(line.text)
    return found[1] if found else None


def _reason(text: str) -> str:
    if found := _OOMD_PRESSURE.match(text):
        return f"pressure {found[1]} % > {_short(found[2])} % for {found[3]} {found[4]}"
    used = _OOMD_USED.search(text)
    if used:
        what = "memory and swap" if text.startswith("memory used") and "swap used" in text else used[1]
        return f"{what} above {_short(used[2])} %"
    return text[:200]


def _short(number: str) -> str:
    return number.rstrip("0").rstrip(".") if "." in number else number
