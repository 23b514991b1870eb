"""What mappings are that no owner claimed: by their names, their neighbours, their sizes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from nativeleak.process.procfs import MapEntry
from nativeleak.triage.regions import Region

_LIBRARY: Final = re.compile(r"\.so(\.|$)|\.node$|/bin/|/sbin/|/ld-")
_SHARED: Final = ("/dev/shm/", "/SYSV", "/memfd:", "/dev/zero", "/dev/mqueue/")  # noqa: S108
_MAX_BSS: Final = 64 << 20
_HEAP_PARTS: Final = (1, 32, 64, 128, 512)


def name_of(entry: MapEntry) -> tuple[str, str]:
    """(line, name) of a mapping by its path alone; line is empty for anonymous memory without a name."""
    path = entry.path
    if "java_heap" in path and path.startswith(("/memfd:", "/")):
        return "java-heap", "ZGC view"
    if path == "[stack]":
        return "thread-stacks", "main thread"
    if path == "[heap]":
        return "allocator", "[heap]"
    if path.startswith(("[anon:", "[anon_shmem:")):
        return ("anonymous", path) if path.startswith("[anon:") else ("shared", path)
    if path.startswith("["):
        return "kernel", path
    if not path:
        return "", ""
    if path.startswith(_SHARED):
        return "shared", path
    if path.endswith(".jsa"):
        return "cds", path
    return ("libraries" if entry.executable or _LIBRARY.search(path) else "files"), path


class Neighbours:
    """Names anonymous memory by what lies around it.

    Args:
        regions: All mappings.
        program_files: Paths of files that are mapped executable anywhere.
        heap_bytes: Largest size of a Java heap; 0 where the process runs no JVM.
        allocators: Names of allocators in the process that are not walked.
        rest: (line, name) of writable anonymous memory that nothing names; None: it is unexplained.
    """

    def __init__(
        self,
        regions: Sequence[Region],
        program_files: frozenset[str],
        heap_bytes: int,
        allocators: Sequence[str] = (),
        rest: tuple[str, str] | None = None,
    ) -> None:
        self._regions = regions
        self._allocator = allocators[0] if allocators else ""
        self._program_files = program_files
        self._rest = rest
        self._heap_bytes = heap_bytes

    def name_of(self, index: int, start: int, end: int) -> tuple[str, str]:
        """(line, name) of a part of a mapping.

        Args:
            index: Of the mapping.
            start: First address of the part.
            end: First address behind it.
        """
        region = self._regions[index]
        line, name = name_of(region.entry)
        if line == "files" and name in self._program_files:
            return "libraries", name
        if line:
            return line, name
        before = self._regions[index - 1] if index else None
        if before is not None and before.end == region.start and start == region.start:
            path = before.entry.path
            if path in self._program_files and end - start <= _MAX_BSS and "w" in region.entry.perms:
                return "libraries", path
        if region.entry.executable:
            return "unexplained", "generated code without a name"
        if self._heap_bytes and self._is_collectors(index):
            return "collector", "by size"
        if self._allocator and region.entry.perms.startswith("rw"):
            return "allocator", f"{self._allocator}: anonymous memory that nothing else claims"
        if self._rest is not None and region.entry.perms.startswith("rw"):
            return self._rest
        return "unexplained", f"{start:x}-{end:x}"

    def _is_collectors(self, index: int) -> bool:
        """Whether a mapping of a JVM is likely a table of its collector: reserved beside, or a fraction of the heap."""
        region = self._regions[index]
        if " nr" in f" {region.flags}":
            return False
        start, end = region.start, region.end
        low = index
        while low and self._is_reserved(low - 1) and self._regions[low - 1].end == start:
            low -= 1
            start = self._regions[low].start
        high = index
        while high + 1 < len(self._regions) and self._is_reserved(high + 1) and self._regions[high + 1].start == end:
            high += 1
            end = self._regions[high].end
        sizes = (region.end - region.start, end - start)
        if sizes[1] > sizes[0] >= 64 << 10:
            return True
        wanted = [self._heap_bytes // part for part in _HEAP_PARTS[1:]]
        return any(abs(size - part) <= max(8192, part >> 6) for size in sizes for part in wanted)

    def _is_reserved(self, index: int) -> bool:
        region = self._regions[index]
        return region.entry.perms.startswith("---") and not region.entry.path and " nr" in f" {region.flags}"
