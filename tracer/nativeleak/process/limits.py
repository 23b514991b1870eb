"""Limits of a process's memory outside of it, and how much of each is used.

Scope: memory groups of version 1 and 2 with all ancestors, RLIMIT_AS and RLIMIT_DATA, the machine's memory. The files
of the groups are kept open: a look at the usage opens nothing.

Source: Documentation/admin-guide/cgroup-v1/memory.rst; cgroup-v2.rst; getrlimit(2), proc(5) for limits, status and
meminfo; ``may_expand_vm`` in mm/mmap.c for what RLIMIT_DATA counts.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from nativeleak.closing import Closing
from nativeleak.model import Limit, LimitKind, LimitUse
from nativeleak.process.cgroups import NO_LIMIT, cache_bytes, read_group_folders

_CACHE: Final = "memory.stat"
_RLIMITS: Final = {
    "Max address space": ("RLIMIT_AS (ulimit -v)", "VmSize"),
    "Max data size": ("RLIMIT_DATA (ulimit -d)", "VmData"),
}
"""Row of /proc/PID/limits -> name, and the field of /proc/PID/status that counts against it."""
_MAX_BYTES: Final = 1 << 16


class _GroupFiles(NamedTuple):
    limit: str
    usage: str
    counts_cache: bool


# Page cache is given back before the group is over its limit, so that usage is counted without it.
_GROUP_FILES: Final[Mapping[int, tuple[_GroupFiles, ...]]] = {
    1: (
        _GroupFiles("memory.limit_in_bytes", "memory.usage_in_bytes", True),
        _GroupFiles("memory.memsw.limit_in_bytes", "memory.memsw.usage_in_bytes", True),
        _GroupFiles("memory.kmem.limit_in_bytes", "memory.kmem.usage_in_bytes", False),
    ),
    2: (_GroupFiles("memory.max", "memory.current", True), _GroupFiles("memory.high", "memory.current", True)),
}


class _Group(NamedTuple):
    """A limit of a group with its open files; ``stat`` is -1 where page cache does not count."""

    limit: Limit
    usage: int
    stat: int


class ProcessLimits(Closing):
    """The limits of one process; a context manager, since it keeps the files of its groups open.

    Args:
        pid: The process.
        slot: Its number among the targets.
        folders: Version and folder of its memory groups; None: those that /proc names.
    """

    def __init__(self, pid: int, slot: int = 0, folders: Iterable[tuple[int, Path]] | None = None) -> None:
        self._slot = slot
        self._groups: list[_Group] = []
        self._rlimits: list[tuple[Limit, str]] = []
        self._meminfo = -1
        try:
            for version, folder in read_group_folders(pid) if folders is None else folders:
                self._take_group(version, folder)
            with contextlib.suppress(OSError):
                self._take_rlimits(Path(f"/proc/{pid}/limits").read_text(encoding="ascii", errors="replace"))
            with contextlib.suppress(OSError):
                # One target stands for all: they share the machine.
                self._meminfo = -1 if slot else os.open("/proc/meminfo", os.O_RDONLY | os.O_CLOEXEC)
        except BaseException:
            self.close()
            raise

    def read(self, status: Mapping[str, str]) -> list[LimitUse]:
        """Every limit with what is used of it now.

        Args:
            status: The fields of the process's /proc/PID/status; empty once it is gone.
        """
        found = [LimitUse(group.limit, _group_usage(group)) for group in self._groups]
        found += [LimitUse(limit, kib_field(status, field)) for limit, field in self._rlimits]
        return [*found, *self._read_machine()]

    def close(self) -> None:
        """Close the files."""
        for group in self._groups:
            os.close(group.usage)
            if group.stat >= 0:
                os.close(group.stat)
        self._groups.clear()
        if self._meminfo >= 0:
            os.close(self._meminfo)
            self._meminfo = -1

    def _take_group(self, version: int, folder: Path) -> None:
        for files in _GROUP_FILES[version]:
            limit_bytes = _read_limit(folder / files.limit)
            if limit_bytes is None:
                continue
            limit = Limit(self._slot, LimitKind.CGROUP, f"{folder}/{files.limit}", limit_bytes)
            with contextlib.suppress(OSError):
                usage = _open(folder / files.usage)
                try:
                    stat = _open(folder / _CACHE) if files.counts_cache else -1
                except OSError:
                    stat = -1
                self._groups.append(_Group(limit, usage, stat))

    def _take_rlimits(self, text: str) -> None:
        for row, (name, field) in _RLIMITS.items():
            line = next((line for line in text.splitlines() if line.startswith(row)), "")
            soft = line.removeprefix(row).split()[:1]
            if soft and soft[0].isdigit() and int(soft[0]) < NO_LIMIT:
                self._rlimits.append((Limit(self._slot, LimitKind.RLIMIT, name, int(soft[0])), field))

    def _read_machine(self) -> list[LimitUse]:
        if self._meminfo < 0:
            return []
        fields = dict(line.split(":", 1) for line in _pread(self._meminfo).splitlines() if ":" in line)
        total, available = kib_field(fields, "MemTotal"), kib_field(fields, "MemAvailable")
        if total is None:
            return []
        limit = Limit(self._slot, LimitKind.MACHINE, "MemTotal", total)
        return [LimitUse(limit, None if available is None else max(0, total - available))]


def kib_field(fields: Mapping[str, str], name: str) -> int | None:
    """Bytes of a field such as ``1234 kB``; None where there is none."""
    words = fields.get(name, "").split()
    return int(words[0]) << 10 if words and words[0].isdigit() else None


def _group_usage(group: _Group) -> int | None:
    try:
        usage = int(_pread(group.usage))
        return max(0, usage - cache_bytes(_pread(group.stat))) if group.stat >= 0 else usage
    except (OSError, ValueError):
        return None  # the group was removed


def _read_limit(path: Path) -> int | None:
    """The limit in a file; None where there is no file or no limit."""
    try:
        text = path.read_text(encoding="ascii").strip()
        return None if text == "max" or int(text) >= NO_LIMIT else int(text)
    except (OSError, ValueError):
        return None


def _open(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def _pread(fd: int) -> str:
    return os.pread(fd, _MAX_BYTES, 0).decode("ascii", "replace")
