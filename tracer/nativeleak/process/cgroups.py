"""Memory limits of the control groups that a process is in: version 1 and 2, with all ancestors.

Scope: reading. A process in a container sees the files of its own group at the mount's root; groups that lie outside of
the mount are not visible there, and not listed.

Source: Documentation/admin-guide/cgroup-v1/memory.rst, cgroup-v2.rst (memory.max, memory.current, memory.stat);
cgroups(7) for /proc/PID/cgroup; proc(5) for mountinfo.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

NO_LIMIT: Final = 1 << 62
"""Version 1 says 2^63 less a page where there is no limit."""


@dataclass(frozen=True, slots=True)
class MemoryGroup:
    """A control group with a limit.

    Attributes:
        path: Its folder.
        limit_bytes: Its limit.
        usage_bytes: What is charged to it, page cache and kernel memory too.
        cache_bytes: Of this, page cache that the kernel can give back.
    """

    path: Path
    limit_bytes: int
    usage_bytes: int
    cache_bytes: int

    @property
    def room_bytes(self) -> int:
        """What can still be charged before the kernel has to kill."""
        return max(0, self.limit_bytes - self.usage_bytes + self.cache_bytes)


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """A mount of control groups.

    Attributes:
        version: 1 or 2.
        root: The group that is mounted.
        mount_point: Where.
    """

    version: int
    root: str
    mount_point: str


def parse_hierarchies(mountinfo: str) -> list[Hierarchy]:
    """Mounts in which memory is accounted: version 2, and version 1 with the memory controller."""
    found = []
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")
        if len(fields) < 5 or len(kind) < 3:
            continue
        if kind[0] == "cgroup2":
            found.append(Hierarchy(2, _unescape(fields[3]), _unescape(fields[4])))
        elif kind[0] == "cgroup" and "memory" in kind[2].split(","):
            found.append(Hierarchy(1, _unescape(fields[3]), _unescape(fields[4])))
    return found


def parse_paths(text: str) -> dict[int, str]:
    """The group of a process by version, from its /proc/PID/cgroup."""
    paths = {}
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if "memory" in controllers.split(","):
            paths[1] = path
        elif number == "0" and not controllers:
            paths[2] = path
    return paths


def read_group_folders(pid: int | str) -> list[tuple[int, Path]]:
    """Version and folder of each memory group that a process is in, the innermost first; none where unreadable."""
    try:
        paths = Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8", errors="surrogateescape")
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return []
    return list(group_folders(paths, mounts))


def group_folders(cgroup: str, mountinfo: str) -> Iterator[tuple[int, Path]]:
    """The same from the text of a process's /proc/PID/cgroup and of a mountinfo."""
    paths = parse_paths(cgroup)
    for mount in parse_hierarchies(mountinfo):
        if mount.version in paths:
            yield from ((mount.version, folder) for folder in _folders(mount, paths[mount.version]))


def read_memory_groups(pid: int | str) -> list[MemoryGroup]:
    """The groups with a limit that a process is in, the innermost first; none where they cannot be read."""
    groups = (_read_group(version, folder) for version, folder in read_group_folders(pid))
    return [group for group in groups if group is not None]


def shared_groups(pid: int, others: Sequence[int]) -> list[MemoryGroup]:
    """The groups with a limit that a process is in together with any of the others."""
    theirs = {group.path for other in others for group in read_memory_groups(other)}
    return [group for group in read_memory_groups(pid) if group.path in theirs]


def tightest_shared_group(pids: Sequence[int]) -> MemoryGroup | None:
    """The group with the least room among those with a limit that we are in together with any of some processes."""
    return min(shared_groups(os.getpid(), pids), key=lambda group: group.room_bytes, default=None)


def _folders(mount: Hierarchy, path: str) -> Iterator[Path]:
    """The group's folder and those of its ancestors, as far as they are in the mount."""
    inside = PurePosixPath(path)
    with contextlib.suppress(ValueError):  # it lies outside of the mount
        inside = inside.relative_to(mount.root)
        if ".." not in inside.parts:
            yield from (Path(mount.mount_point, part) for part in (inside, *inside.parents))


def _read_group(version: int, folder: Path) -> MemoryGroup | None:
    """What a group's files say; None where it has no limit."""
    limit, usage = (
        ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    )
    try:
        limit_text = (folder / limit).read_text(encoding="ascii").strip()
        if limit_text == "max" or int(limit_text) >= NO_LIMIT:
            return None
        usage_bytes = int((folder / usage).read_text(encoding="ascii"))
        return MemoryGroup(
            folder, int(limit_text), usage_bytes, cache_bytes((folder / "memory.stat").read_text("ascii"))
        )
    except (OSError, ValueError):
        return None


def cache_bytes(stat: str) -> int:
    """Page cache of a group and its descendants; version 1 calls the sum over them ``total_``."""
    values = dict(line.split(" ", 1) for line in stat.splitlines() if " " in line)
    prefix = "total_" if "total_inactive_file" in values else ""
    return sum(int(values.get(f"{prefix}{name}", 0)) for name in ("inactive_file", "active_file"))


def _unescape(path: str) -> str:
    """Paths of mountinfo have blanks and the like as three octal digits."""
    raw = path.encode("utf-8", "surrogateescape")
    parts = raw.split(b"\\")
    plain = [parts[0]]
    plain += [bytes([int(part[:3], 8)]) + part[3:] if part[:3].isdigit() else b"\\" + part for part in parts[1:]]
    return b"".join(plain).decode("utf-8", "surrogateescape")
