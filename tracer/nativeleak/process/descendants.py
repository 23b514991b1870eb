"""The processes that descend from one: a server's PID file names a master, and its workers hold the memory."""

from __future__ import annotations

import os
from collections.abc import Iterator

from nativeleak.process.procfs import read_comm

_MAX_DESCENDANTS = 512
_MAX_TITLE_BYTES = 256


def read_descendants(pid: int) -> list[int]:
    """PIDs of a process's children, of their children, and so on; empty where there is none, or no such process.

    Source: proc_pid_children(5); a kernel without it has the parents in /proc/PID/stat.
    """
    found: dict[int, None] = {}
    level = [pid]
    while level and len(found) < _MAX_DESCENDANTS:
        following = [child for parent in level for child in _children(parent) if child not in found and child != pid]
        found |= dict.fromkeys(following)
        level = following
    return list(found)


def read_title(pid: int) -> str:
    """A process's name for people: the title it gave itself (``postgres: checkpointer``), or the kernel's name.

    Raises:
        NativeleakError: It is gone.
    """
    comm = read_comm(pid)
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            command = file.read(_MAX_TITLE_BYTES)
    except OSError:
        return comm
    title = command.rstrip(b"\0 ").split(b"\0")[0].decode("utf-8", "surrogateescape").strip()
    return title if ": " in title and title.partition(":")[0].rsplit("/", 1)[-1].startswith(comm[:4]) else comm


def _children(pid: int) -> Iterator[int]:
    folder = f"/proc/{pid}/task"
    try:
        tids = [each.name for each in os.scandir(folder)]
    except OSError:
        return
    for tid in tids:
        try:
            with open(f"{folder}/{tid}/children", encoding="ascii") as file:
                yield from map(int, file.read().split())
        except FileNotFoundError:
            if not os.access("/proc/thread-self/children", os.R_OK):
                yield from _by_parent(pid)
                return
        except (OSError, ValueError):
            continue


def _by_parent(pid: int) -> Iterator[int]:
    """Children by looking at every process."""
    for name in (each.name for each in os.scandir("/proc") if each.name.isdigit()):
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
            if int(fields[1]) == pid:
                yield int(name)
        except (OSError, ValueError, IndexError):
            continue
