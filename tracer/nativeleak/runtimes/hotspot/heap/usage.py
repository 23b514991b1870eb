"""How much of the Java heap is in use, by generation, under each collector.

Source: VMStructs. Types and fields were renamed between releases; each is asked for under every name it has had.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from nativeleak.runtimes.hotspot.flags import read_flags
from nativeleak.runtimes.hotspot.heap.parts import Part, at, field, read_parts
from nativeleak.runtimes.hotspot.jvm import HotSpot
from nativeleak.runtimes.hotspot.memory import UnreadableError


@dataclass(frozen=True, slots=True)
class JavaHeap:
    """The heap.

    Attributes:
        start: First address of what is reserved; 0 for ZGC, whose mappings have a name instead.
        end: End of it.
        used: Bytes in use, dead objects that were not collected yet among them; None if unknown.
        parts: Bytes in use by generation or kind of region.
        regions: (start, size, kind) of the regions of G1.
    """

    start: int
    end: int
    used: int | None
    parts: dict[str, int]
    regions: tuple[tuple[int, int, str], ...] = ()


def read_heap(vm: HotSpot, collector: str) -> JavaHeap:
    """The heap as it is now.

    Args:
        vm: The JVM.
        collector: Its collector, as in the flag ``Use...GC``.

    Raises:
        UnreadableError: The JVM does not describe its heap.
    """
    heap = vm.pointer("Universe::_collectedHeap")
    if heap is None:
        raise UnreadableError("the JVM has no heap yet")
    if collector == "Z":
        return JavaHeap(0, 0, _zgc_used(vm, heap), {})
    reserved = heap + field(vm, "CollectedHeap::_reserved")
    start = vm.memory.u64(reserved + field(vm, "MemRegion::_start"))
    end = start + 8 * vm.memory.u64(reserved + field(vm, "MemRegion::_word_size"))
    parts: dict[str, int] = {}
    regions: tuple[tuple[int, int, str], ...] = ()
    try:
        if collector in ("G1", "Serial", "Parallel"):
            found = read_parts(vm, collector)
            parts = _used(found)
            if collector == "G1":
                regions = tuple((part.start, part.end - part.start, part.kind) for part in found)
        elif collector == "Shenandoah":
            parts = {"heap": _shenandoah_used(vm, heap)}
    except UnreadableError:
        return JavaHeap(start, end, None, {})
    used = sum(parts.values()) if parts else None
    return JavaHeap(start, end, used if used is None or used <= end - start else None, parts, regions)


def _used(found: list[Part]) -> dict[str, int]:
    """Bytes in use by kind."""
    parts: Counter[str] = Counter()
    for part in found:
        parts[part.kind] += part.top - part.start
    return {name: n_bytes for name, n_bytes in parts.items() if n_bytes}


def _shenandoah_used(vm: HotSpot, heap: int) -> int:
    if vm.structs.field("ShenandoahHeap::_used") is not None:
        return at(vm, heap, "ShenandoahHeap::_used")
    return at(vm, at(vm, heap, "ShenandoahHeap::_global_generation"), "ShenandoahGeneration::_used")


def _zgc_used(vm: HotSpot, heap: int) -> int | None:
    """Bytes in use; JDK 21 to 23 have two of this collector, the other one's names with an X."""
    fields = vm.structs.field
    has_both = fields("XCollectedHeap::_heap") is not None
    for prefix in ("Z", "X") if has_both else ("Z",):
        try:
            allocator = heap + field(vm, f"{prefix}CollectedHeap::_heap") + field(vm, f"{prefix}Heap::_page_allocator")
            if fields(f"{prefix}PageAllocator::_used") is None:
                return _zgc_partitions_used(vm, allocator)
            if has_both and _is_generational(vm) != (prefix == "Z"):
                continue
            return at(vm, allocator, f"{prefix}PageAllocator::_used")
        except UnreadableError:
            continue
    return None


def _is_generational(vm: HotSpot) -> bool:
    return bool(read_flags(vm, ["ZGenerational"]).get("ZGenerational", 0) & 1)


def _zgc_partitions_used(vm: HotSpot, allocator: int) -> int:
    count, size = vm.structs.static("ZNUMA::_count"), vm.structs.size("ZPartition")
    if count is None or size is None:
        raise UnreadableError("the JVM does not describe its partitions")
    first = at(vm, allocator + field(vm, "ZPageAllocator::_partitions"), "ZPerNUMAZPartition::_addr")
    used = field(vm, "ZPartition::_used")
    return sum(vm.memory.u64(first + index * size + used) for index in range(min(vm.memory.u32(count), 64)))
