"""What lies inside of lines: parts of the Java heap, zeros in huge pages, threads by arena.

Scope: further reads of one process, after its mappings were measured. Each may fail alone, and is then unknown.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from nativeleak.errors import NativeleakError
from nativeleak.heaps.census import HeapWalk
from nativeleak.heaps.glibc.attached import find_attached
from nativeleak.heaps.memory import HeapMemory
from nativeleak.model import LimitUse
from nativeleak.process.limits import ProcessLimits
from nativeleak.runtimes.hotspot.spaces import JavaSpaces
from nativeleak.triage.huge import zero_bytes
from nativeleak.triage.regions import Region

_MAIN = "main"


@dataclass(slots=True)
class Inside:
    """What was found; see the attributes of ``Ledger`` of the same names."""

    heap_free: int | None = None
    heap_resident: list[tuple[str, int]] = field(default_factory=list)
    huge_zero: int | None = None
    arena_threads: dict[str, list[str]] = field(default_factory=dict)


def look_inside(
    memory: HeapMemory,
    regions: Sequence[Region],
    walks: Sequence[HeapWalk],
    java: JavaSpaces | None,
    stacks: Sequence[tuple[int, int, int]],
    names: Mapping[int, str],
    heap_line: int,
) -> Inside:
    """Read further.

    Args:
        memory: Of the process.
        regions: Its mappings.
        walks: Its allocators.
        java: Its JVM.
        stacks: (start, end, tid) of threads' stacks.
        names: Names of threads by tid.
        heap_line: Bytes of the Java heap in memory.
    """
    inside = Inside(huge_zero=zero_bytes(memory, regions))
    if java is not None and java.heap is not None:
        if java.heap.regions:
            inside.heap_resident = _by_kind(memory, java.heap.regions)
            inside.heap_free = dict(inside.heap_resident).get("free", 0)
        elif java.heap.used is not None and heap_line:
            inside.heap_free = max(0, heap_line - java.heap.used)
    for walk in walks:
        arenas = {int(arena.name, 16): arena.name for arena in walk.arenas if arena.name.startswith("0x")}
        if walk.kind == "glibc" and arenas:
            attached = find_attached(memory, stacks, arenas)
            inside.arena_threads = {
                arenas[address]: sorted(names.get(tid, f"thread {tid}") for tid in tids)
                for address, tids in attached.items()
            }
    return inside


def read_rlimits(pid: int, status: Mapping[str, str]) -> list[LimitUse]:
    """Limits of the process itself (ulimit) on address space and data, with what is used of each."""
    with contextlib.suppress(NativeleakError, OSError), ProcessLimits(pid, folders=()) as limits:
        return [use for use in limits.read(status) if use.limit.kind == "rlimit"]
    return []


def _by_kind(memory: HeapMemory, regions: Sequence[tuple[int, int, str]]) -> list[tuple[str, int]]:
    """Bytes in memory of the regions of each kind; neighbours of one kind are asked about at once."""
    resident: Counter[str] = Counter()
    joined: list[tuple[int, int, str]] = []
    for start, size, kind in sorted(regions):
        if joined and joined[-1][1] == start and joined[-1][2] == kind:
            joined[-1] = joined[-1][0], start + size, kind
        else:
            joined.append((start, start + size, kind))
    for start, end, kind in joined:
        resident[kind] += memory.resident_bytes(start, end)
    return [(kind, n_bytes) for kind, n_bytes in resident.most_common() if n_bytes]
