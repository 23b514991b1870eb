"""How much of the Java heap is in use, by generation, under each collector.

Source: VMStructs. Types and fields were renamed between releases; each is asked for under every name it has had.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

from nativeleak.runtimes.hotspot.flags import read_flags
from nativeleak.runtimes.hotspot.jvm import HotSpot
from nativeleak.runtimes.hotspot.memory import UnreadableError

_MAX_REGIONS: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class JavaHeap:
    """The heap.

    Attributes:
        start: First address of what is reserved; 0 for ZGC, whose heap is told by the name of its mappings.
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
    reserved = heap + _field(vm, "CollectedHeap::_reserved")
    start = vm.memory.u64(reserved + _field(vm, "MemRegion::_start"))
    end = start + 8 * vm.memory.u64(reserved + _field(vm, "MemRegion::_word_size"))
    parts: dict[str, int] = {}
    regions: tuple[tuple[int, int, str], ...] = ()
    try:
        if collector == "G1":
            regions, parts = _regions(vm, heap)
        elif collector == "Serial":
            parts = _serial(vm, heap)
        elif collector == "Parallel":
            parts = _parallel(vm)
        elif collector == "Shenandoah":
            parts = {"heap": _shenandoah_used(vm, heap)}
    except UnreadableError:
        return JavaHeap(start, end, None, {})
    used = sum(parts.values()) if parts else None
    return JavaHeap(start, end, used if used is None or used <= end - start else None, parts, regions)


def _field(vm: HotSpot, *names: str) -> int:
    offset = vm.structs.field(*names)
    if offset is None:
        raise UnreadableError(f"the JVM does not describe {names[0]}")
    return offset


def _at(vm: HotSpot, address: int, *names: str) -> int:
    """The pointer in a field."""
    return vm.memory.u64(address + _field(vm, *names))


def _regions(vm: HotSpot, heap: int) -> tuple[tuple[tuple[int, int, str], ...], dict[str, int]]:
    manager = _field(vm, "G1CollectedHeap::_hrm") + _field(
        vm, "HeapRegionManager::_regions", "G1HeapRegionManager::_regions"
    )
    table = heap + manager
    first, n_regions = _at(vm, table, "G1HeapRegionTable::_base"), _at(vm, table, "G1HeapRegionTable::_length")
    size_at = vm.structs.static("HeapRegion::GrainBytes", "G1HeapRegion::GrainBytes")
    if size_at is None or n_regions > _MAX_REGIONS:
        raise UnreadableError("the JVM does not describe its regions")
    size = vm.memory.u64(size_at)
    bottom = _field(vm, "G1HeapRegion::_bottom", "HeapRegion::_bottom", "Space::_bottom", "CompactibleSpace::_bottom")
    top = _field(vm, "G1HeapRegion::_top", "HeapRegion::_top", "G1ContiguousSpace::_top")
    kind = _field(vm, "G1HeapRegion::_type", "HeapRegion::_type")
    tags = _region_tags(vm)
    parts: Counter[str] = Counter()
    regions = []
    pointers = vm.memory.read(first, 8 * n_regions)
    for place in range(0, len(pointers), 8):
        region = int.from_bytes(pointers[place : place + 8], "little")
        if not region:
            continue
        start = vm.memory.u64(region + bottom)
        tag = vm.memory.u32(region + kind)
        name = next((name for name, value, mask in tags if tag & mask == value), "archive")
        regions.append((start, size, name))
        parts[name] += max(0, vm.memory.u64(region + top) - start)
    return tuple(regions), {name: n_bytes for name, n_bytes in parts.items() if n_bytes}


def _region_tags(vm: HotSpot) -> list[tuple[str, int, int]]:
    """(kind, value, mask) of a region's tag; source: heapRegionType.hpp."""
    found = []
    for name, constant, is_mask in (
        ("free", "FreeTag", False), ("eden", "EdenTag", False), ("survivor", "SurvTag", False),
        ("humongous", "HumongousMask", True), ("old", "OldMask", True),
    ):  # fmt: skip
        value = vm.structs.constant(f"HeapRegionType::{constant}")
        if value is None:
            value = vm.structs.constant(f"G1HeapRegionType::{constant}")
        if value is not None:
            found.append((name, value, value if is_mask else 0xFFFF_FFFF))
    return found


def _serial(vm: HotSpot, heap: int) -> dict[str, int]:
    young = _at(vm, heap, "SerialHeap::_young_gen", "GenCollectedHeap::_young_gen")
    old = _at(vm, heap, "SerialHeap::_old_gen", "GenCollectedHeap::_old_gen")
    spaces = {
        "eden": _at(vm, young, "DefNewGeneration::_eden_space"),
        "from": _at(vm, young, "DefNewGeneration::_from_space"),
        "old": _at(vm, old, "TenuredGeneration::_the_space"),
    }
    top = _field(vm, "ContiguousSpace::_top")
    bottom = _field(vm, "ContiguousSpace::_bottom", "Space::_bottom")
    return {name: vm.memory.u64(space + top) - vm.memory.u64(space + bottom) for name, space in spaces.items()}


def _parallel(vm: HotSpot) -> dict[str, int]:
    young, old = vm.pointer("ParallelScavengeHeap::_young_gen"), vm.pointer("ParallelScavengeHeap::_old_gen")
    if young is None or old is None:
        raise UnreadableError("the JVM does not describe its generations")
    spaces = {
        "eden": _at(vm, young, "PSYoungGen::_eden_space"),
        "from": _at(vm, young, "PSYoungGen::_from_space"),
        "old": _at(vm, old, "PSOldGen::_object_space"),
    }
    top = _field(vm, "MutableSpace::_top")
    bottom = _field(vm, "MutableSpace::_bottom", "ImmutableSpace::_bottom")
    return {name: vm.memory.u64(space + top) - vm.memory.u64(space + bottom) for name, space in spaces.items()}


def _shenandoah_used(vm: HotSpot, heap: int) -> int:
    if vm.structs.field("ShenandoahHeap::_used") is not None:
        return _at(vm, heap, "ShenandoahHeap::_used")
    return _at(vm, _at(vm, heap, "ShenandoahHeap::_global_generation"), "ShenandoahGeneration::_used")


def _zgc_used(vm: HotSpot, heap: int) -> int | None:
    """Bytes in use; JDK 21 to 23 have two of this collector, the other one's names with an X."""
    fields = vm.structs.field
    has_both = fields("XCollectedHeap::_heap") is not None
    for prefix in ("Z", "X") if has_both else ("Z",):
        try:
            allocator = (
                heap + _field(vm, f"{prefix}CollectedHeap::_heap") + _field(vm, f"{prefix}Heap::_page_allocator")
            )
            if fields(f"{prefix}PageAllocator::_used") is None:
                return _zgc_partitions_used(vm, allocator)
            if has_both and _is_generational(vm) != (prefix == "Z"):
                continue
            return _at(vm, allocator, f"{prefix}PageAllocator::_used")
        except UnreadableError:
            continue
    return None


def _is_generational(vm: HotSpot) -> bool:
    return bool(read_flags(vm, ["ZGenerational"]).get("ZGenerational", 0) & 1)


def _zgc_partitions_used(vm: HotSpot, allocator: int) -> int:
    count, size = vm.structs.static("ZNUMA::_count"), vm.structs.size("ZPartition")
    if count is None or size is None:
        raise UnreadableError("the JVM does not describe its partitions")
    first = _at(vm, allocator + _field(vm, "ZPageAllocator::_partitions"), "ZPerNUMAZPartition::_addr")
    used = _field(vm, "ZPartition::_used")
    return sum(vm.memory.u64(first + index * size + used) for index in range(min(vm.memory.u32(count), 64)))
