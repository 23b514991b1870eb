"""Resident memory of a process split by use: one reading of smaps, and the page map where one mapping has several uses.

Caveat: reading smaps is not free. The kernel walks all page tables (about 7 ms per resident GiB) and holds the lock
that mmap and munmap want; the caller decides how often.

Caveat: a stack of a thread is recognised by its stack pointer, or by a guard page before it. A block that malloc mapped
before the trace looks like other anonymous memory and counts as unexplained.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Final

from nativeleak.engines.pmap.reading import read_smaps, read_stack_pointers
from nativeleak.engines.pmap.regions import ANONYMOUS, GO_HEAP, HEAP, Region, Surroundings
from nativeleak.engines.pmap.smaps import Mapping as Smap
from nativeleak.engines.pmap.smaps import parse_smaps
from nativeleak.heaps.go import find_arenas
from nativeleak.model import MemoryLine, Owner, TargetInfo
from nativeleak.process.residency import ResidencyReader
from nativeleak.runtimes.base import Runtime
from nativeleak.runtimes.registry import spec_of

_LINE_OF_OWNER: Final = {
    Owner.ALLOCATOR: MemoryLine.ALLOCATOR,
    Owner.PROGRAM: MemoryLine.MAPPED,
    Owner.RUNTIME: MemoryLine.JVM,
}
_ARENA: Final = "glibc arena"
_JAVA_HEAP: Final = "Java heap"
_MIN_STACK: Final = 16 << 10
_MAX_STACK: Final = 1 << 30


def read_memory_lines(
    info: TargetInfo,
    owned_ranges: Callable[[], Iterable[tuple[int, int, Owner]]],
    runtime: Runtime | None,
    residency: ResidencyReader | None,
) -> dict[MemoryLine, int]:
    """Resident bytes of each use; they add up to the resident memory that smaps shows.

    Args:
        info: The process.
        owned_ranges: Ranges that were mapped during the trace; asked for after smaps was read, which may show mappings
            whose events wait.
        runtime: Its runtime, where it is open.
        residency: Where several uses share one mapping.

    Raises:
        NativeleakError: smaps cannot be read.
    """
    mappings = parse_smaps(read_smaps(info.pid))
    names = runtime.thread_names() if runtime is not None else {}
    owned = runtime.memory() if runtime is not None else ()
    arenas = find_arenas(info.pid, mappings)
    around = Surroundings(mappings, read_stack_pointers(info.pid, names), owned, spec_of(info.runtime), arenas)
    return split(around, list(owned_ranges()), residency)


def split(
    around: Surroundings, owners: Sequence[tuple[int, int, Owner]], residency: ResidencyReader | None
) -> dict[MemoryLine, int]:
    """The same from what was read.

    Args:
        around: All mappings with their resident bytes.
        owners: Ranges that were mapped during the trace, and by whom, in order of address.
        residency: Where several uses share one mapping; without it they share its resident bytes by length.
    """
    sums: Counter[MemoryLine] = Counter()
    before: Smap | None = None
    for mapping in around.mappings:
        if mapping.rss > 0:
            _add(sums, mapping, list(_parts(around, mapping, before, owners)), residency)
        before = mapping
    return {line: sums[line] for line in MemoryLine}


def _add(
    sums: Counter[MemoryLine],
    mapping: Smap,
    parts: list[tuple[int, int, MemoryLine]],
    residency: ResidencyReader | None,
) -> None:
    """Divide what is resident of a mapping among its parts; the last one takes the rest."""
    left = mapping.rss
    for start, end, line in parts[:-1]:
        if residency is not None:
            resident = residency.resident_bytes([(start, end)])[0]
        else:
            resident = mapping.rss * (end - start) // (mapping.end - mapping.start)
        resident = min(left, resident)
        sums[line] += resident
        left -= resident
    sums[parts[-1][2]] += left


def _parts(
    around: Surroundings, mapping: Smap, before: Smap | None, owners: Sequence[tuple[int, int, Owner]]
) -> Iterator[tuple[int, int, MemoryLine]]:
    """The parts of a mapping that differ in use."""
    edges = {mapping.start, mapping.end}
    edges |= {edge for start, end, _ in around.owned for edge in (start, end) if mapping.start < edge < mapping.end}
    for start, end, _ in _overlapping(owners, mapping.start, mapping.end):
        edges |= {edge for edge in (start, end) if mapping.start < edge < mapping.end}
    part: tuple[int, int, MemoryLine] | None = None
    for start, end in pairwise(sorted(edges)):
        line = _line(around, mapping, before, start, owners)
        if part is not None and part[2] is line:
            part = (part[0], end, line)
            continue
        if part is not None:
            yield part
        part = (start, end, line)
    if part is not None:
        yield part


def _line(
    around: Surroundings, mapping: Smap, before: Smap | None, address: int, owners: Sequence[tuple[int, int, Owner]]
) -> MemoryLine:
    region = around.region(address)
    known = _line_of_region(region, mapping)
    owner = next((owner for _, _, owner in _overlapping(owners, address, address + 1)), None)
    if known is MemoryLine.SHARED and owner is Owner.PROGRAM:
        return MemoryLine.MAPPED
    if known is not None:
        return known
    if owner is Owner.ALLOCATOR:
        return MemoryLine.ALLOCATOR
    if before is not None and _is_stack(mapping, before):
        return MemoryLine.STACKS
    if region.is_runtime:
        return MemoryLine.JVM
    return MemoryLine.UNEXPLAINED if owner is None else _LINE_OF_OWNER.get(owner, MemoryLine.UNEXPLAINED)


def _line_of_region(region: Region, mapping: Smap) -> MemoryLine | None:
    """The use that the mapping shows by itself; None where its mapper has to tell."""
    if region.is_runtime and region.is_certain:
        return MemoryLine.JAVA_HEAP if region.name.startswith(_JAVA_HEAP) else MemoryLine.JVM
    if region.tid or region.name.startswith("stack of"):
        return MemoryLine.STACKS
    if region.name == GO_HEAP:
        return MemoryLine.MAPPED
    if region.name in (HEAP, _ARENA):
        return MemoryLine.ALLOCATOR
    if region.is_runtime or region.name == ANONYMOUS:
        return None
    if mapping.path.startswith("/SYSV") or (mapping.perms[3:] == "s" and mapping.path.startswith(("/dev/", "/memfd:"))):
        return MemoryLine.SHARED
    return MemoryLine.FILES


def _is_stack(mapping: Smap, before: Smap) -> bool:
    """Whether a mapping lies behind a guard of the C library, which it maps without MAP_NORESERVE."""
    return (
        mapping.perms[:2] == "rw"
        and _MIN_STACK <= mapping.end - mapping.start <= _MAX_STACK
        and before.end == mapping.start
        and before.is_anonymous
        and not before.is_accessible
        and "nr" not in before.flags.split()
    )


def _overlapping(ranges: Sequence[tuple[int, int, Owner]], start: int, end: int) -> Iterator[tuple[int, int, Owner]]:
    """The ranges, in order of address and disjoint, that have bytes in common with [start, end)."""
    at = max(0, bisect_right(ranges, start, key=lambda each: each[0]) - 1)
    while at < len(ranges) and ranges[at][0] < end:
        if ranges[at][1] > start:
            yield ranges[at]
        at += 1
