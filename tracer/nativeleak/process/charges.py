"""Memory that the control groups of a process are charged for, by kind: with all ancestors, with a limit or without.

Scope: one reading. What a group is charged for is more than the resident memory of its processes: page cache, the
kernel's own memory, and memory of processes that have ended. Files that a kernel does not have give None.

Source: Documentation/admin-guide/cgroup-v2.rst (memory.current, memory.stat, memory.max, memory.high, memory.swap.*);
cgroup-v1/memory.rst (memory.usage_in_bytes, memory.kmem.*, memory.memsw.*, memory.stat); ``memcg_stat_format`` in
mm/memcontrol.c and ``memcg1_stat_format`` in mm/memcontrol-v1.c. ``file`` of version 2 and ``cache`` of version 1 hold
shared memory too; ``kernel`` of version 2 is there since Linux 5.18 and does not hold ``sock``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nativeleak.process.cgroups import NO_LIMIT, read_group_folders

KERNEL_PARTS: Final = ("slab", "pagetables", "sec_pagetables", "kernel_stack", "percpu", "vmalloc")
"""Parts of the kernel's memory, as memory.stat of version 2 names them."""
_LIMITS: Final = {
    1: ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.kmem.limit_in_bytes",
        "memory.kmem.tcp.limit_in_bytes"),
    2: ("memory.max", "memory.high", "memory.swap.max"),
}  # fmt: skip
_USAGE: Final = {1: "memory.usage_in_bytes", 2: "memory.current"}
_MAX_PROCESSES: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class GroupCharge:
    """What one group is charged for; sizes in bytes, with its descendants. None: the kernel does not say.

    Attributes:
        path: Its folder.
        version: 1 or 2.
        limits: Limits that are set, by the name of their file; empty where none is.
        usage: All that counts against the limit.
        anonymous: Anonymous memory.
        page_cache: Files, without shared memory.
        shared_memory: tmpfs, /dev/shm, System V.
        kernel: The kernel's own memory, without buffers of sockets.
        kernel_parts: Parts of it by name, those that are not 0, the largest first.
        sockets: Buffers of sockets; version 1 counts those of TCP, and not against the limit.
        swap: Swapped out.
        n_processes: Processes in it, without those of its descendants.
    """

    path: Path
    version: int
    limits: Mapping[str, int]
    usage: int
    anonymous: int | None = None
    page_cache: int | None = None
    shared_memory: int | None = None
    kernel: int | None = None
    kernel_parts: tuple[tuple[str, int], ...] = ()
    sockets: int | None = None
    swap: int | None = None
    n_processes: int | None = None

    @property
    def limit(self) -> int | None:
        """The limit at which the kernel kills; None without one."""
        return self.limits.get(_LIMITS[self.version][0])


def read_charges(pid: int) -> list[GroupCharge]:
    """The groups of a process, the innermost first; none where they cannot be read.

    The root of version 2 says no usage and is left out.
    """
    return charges_of(read_group_folders(pid))


def charges_of(folders: Iterable[tuple[int, Path]]) -> list[GroupCharge]:
    """The same from (version, folder) of each group."""
    found = (_read_group(version, folder) for version, folder in folders)
    return [each for each in found if each is not None]


def _read_group(version: int, folder: Path) -> GroupCharge | None:
    usage = _number(folder / _USAGE[version])
    if usage is None:
        return None
    limits = {
        name: limit
        for name in _LIMITS[version]
        if (limit := _number(folder / name)) is not None and 0 <= limit < NO_LIMIT
    }
    stat = parse_stat(_text(folder / "memory.stat"))
    n_processes = _count_lines(folder / "cgroup.procs")
    if version == 1:
        with_swap = _number(folder / "memory.memsw.usage_in_bytes")
        cache, shared = stat.get("cache"), stat.get("shmem")
        return GroupCharge(
            folder, 1, limits, usage,
            anonymous=stat.get("rss"),
            page_cache=_less(cache, shared),
            shared_memory=shared,
            kernel=_number(folder / "memory.kmem.usage_in_bytes"),
            sockets=_number(folder / "memory.kmem.tcp.usage_in_bytes"),
            swap=stat.get("swap", _less(with_swap, usage)),
            n_processes=n_processes,
        )  # fmt: skip
    parts = {name: stat[name] for name in KERNEL_PARTS if name in stat}
    shared = stat.get("shmem")
    return GroupCharge(
        folder, 2, limits, usage,
        anonymous=stat.get("anon"),
        page_cache=_less(stat.get("file"), shared),
        shared_memory=shared,
        kernel=stat.get("kernel", sum(parts.values()) if parts else None),
        kernel_parts=tuple(sorted(((k, n) for k, n in parts.items() if n), key=lambda item: -item[1])),
        sockets=stat.get("sock"),
        swap=_number(folder / "memory.swap.current"),
        n_processes=n_processes,
    )  # fmt: skip


def parse_stat(text: str) -> dict[str, int]:
    """Fields of a memory.stat; of version 1 the sums over the descendants, under their names without ``total_``."""
    fields = {}
    for line in text.splitlines():
        name, _, number = line.partition(" ")
        if number.isdigit():
            fields[name] = int(number)
    totals = {name.removeprefix("total_"): number for name, number in fields.items() if name.startswith("total_")}
    return totals or fields


def _less(whole: int | None, part: int | None) -> int | None:
    return None if whole is None else max(0, whole - (part or 0))


def _number(path: Path) -> int | None:
    """The number in a file; None where there is none, or where it is ``max``."""
    text = _text(path).strip()
    return int(text) if text.isdigit() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def _count_lines(path: Path) -> int | None:
    text = _text(path)
    return min(text.count("\n"), _MAX_PROCESSES) if text or path.exists() else None
