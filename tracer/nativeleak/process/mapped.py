"""The files that are mapped executable into the target: where probes can sit and where names come from.

Scope: which files, at which addresses, and how we can open them. The kernel's own link to a mapping
(/proc/PID/map_files) is tried first: it leads to the very file that is mapped, deleted, overlaid or replaced since.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from nativeleak.process.namespaces import open_in_root, open_regular
from nativeleak.process.procfs import MapEntry

VDSO: Final = "[vdso]"


@dataclass(frozen=True, slots=True)
class MappedObject:
    """One file mapped executable into the target, or the kernel's vdso.

    Attributes:
        dev: Device as /proc/PID/maps prints it.
        inode: Inode; 0 for the vdso.
        path: As the target sees it; ``[vdso]`` for the vdso.
        file_path: A path under which we can open it; empty for the vdso and where there is none.
        name: Last part of ``path``.
        ranges: (start, end, file offset of start) of each executable mapping, in address order.
        deleted: The file has no name any more.
    """

    dev: str
    inode: int
    path: str
    file_path: str
    name: str
    ranges: tuple[tuple[int, int, int], ...]
    deleted: bool = False

    @property
    def key(self) -> tuple[str, int]:
        """What tells the file from others."""
        return self.dev, self.inode

    @property
    def is_vdso(self) -> bool:
        """Whether it is the code that the kernel maps into every process."""
        return self.path == VDSO


def executable_objects(pid: int, maps: Iterable[MapEntry]) -> list[MappedObject]:
    """The files among ``maps`` that are mapped executable, and the vdso, in the order of their first addresses."""
    groups: dict[tuple[str, int], list[MapEntry]] = {}
    for entry in maps:
        if entry.executable and (entry.inode != 0 or entry.path == VDSO):
            groups.setdefault((entry.dev, entry.inode), []).append(entry)
    return [_object(pid, entries) for entries in groups.values()]


def open_object(pid: int, mapped: MappedObject) -> int:
    """Open the file behind a mapping for reading.

    Returns:
        A file descriptor for the caller to close.

    Raises:
        OSError: The target is gone, the file is no regular one, or there is no way to it with these rights.
    """
    if mapped.is_vdso:
        raise FileNotFoundError(mapped.path)
    last: OSError = FileNotFoundError(mapped.path)
    for start, end, _ in mapped.ranges:
        try:
            return open_regular(map_file(pid, start, end))
        except OSError as error:
            last = error
    if mapped.deleted:
        raise last  # the name may belong to another file by now
    return open_in_root(pid, mapped.path)


def map_file(pid: int, start: int, end: int) -> str:
    """The kernel's link to the file behind one mapping; following it takes CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE.

    Source: proc_pid_map_files(5).
    """
    return f"/proc/{pid}/map_files/{start:x}-{end:x}"


def _object(pid: int, entries: list[MapEntry]) -> MappedObject:
    first = entries[0]
    return MappedObject(
        dev=first.dev,
        inode=first.inode,
        path=first.path,
        file_path=_file_path(pid, first),
        name=first.path.rsplit("/", 1)[-1],
        ranges=tuple((entry.start, entry.end, entry.offset) for entry in entries),
        deleted=first.deleted,
    )


def _file_path(pid: int, entry: MapEntry) -> str:
    if entry.path == VDSO:
        return ""
    candidates = [map_file(pid, entry.start, entry.end)]
    if not entry.deleted:
        candidates.append(f"/proc/{pid}/root{entry.path}")
    return next((path for path in candidates if os.access(path, os.R_OK, effective_ids=True)), "")
