"""The parts of a Java heap that are in use: regions of G1, spaces of Serial and Parallel.

Source: VMStructs. Types and fields were renamed between releases; each is asked for under every name it has had.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from nativeleak.runtimes.hotspot.jvm import HotSpot
from nativeleak.runtimes.hotspot.memory import UnreadableError

MAX_REGIONS: Final = 1 << 20
YOUNG: Final = frozenset({"eden", "from", "survivor"})
"""Kinds of parts whose objects a young collection moves."""
HUMONGOUS: Final = "humongous"
FREE: Final = "free"


class Part(NamedTuple):
    """A region or a space.

    Attributes:
        start: Its first address.
        top: End of what is in use of it.
        end: Its end.
        kind: ``eden``, ``survivor``, ``from``, ``old``, ``humongous``, ``archive``, ``free``.
    """

    start: int
    top: int
    end: int
    kind: str


def read_parts(vm: HotSpot, collector: str) -> list[Part]:
    """The parts of the heap of G1, Serial or Parallel, in address order; those of no use are among them.

    Raises:
        UnreadableError: The JVM does not describe them, or has no heap yet.
    """
    heap = vm.pointer("Universe::_collectedHeap")
    if heap is None:
        raise UnreadableError("the JVM has no heap yet")
    if collector == "G1":
        parts = _regions(vm, heap)
    elif collector == "Serial":
        parts = _serial(vm, heap)
    elif collector == "Parallel":
        parts = _parallel(vm)
    else:
        raise UnreadableError(f"the parts of the heap of {collector} are not read")
    return sorted(part for part in parts if part.start <= part.top <= part.end)


def field(vm: HotSpot, *names: str) -> int:
    """Offset of a field.

    Raises:
        UnreadableError: There is none.
    """
    offset = vm.structs.field(*names)
    if offset is None:
        raise UnreadableError(f"the JVM does not describe {names[0]}")
    return offset


def at(vm: HotSpot, address: int, *names: str) -> int:
    """The pointer in a field; raises as ``field``."""
    return vm.memory.u64(address + field(vm, *names))


def _regions(vm: HotSpot, heap: int) -> list[Part]:
    manager = field(vm, "G1CollectedHeap::_hrm") + field(
        vm, "HeapRegionManager::_regions", "G1HeapRegionManager::_regions"
    )
    table = heap + manager
    first, n_regions = at(vm, table, "G1HeapRegionTable::_base"), at(vm, table, "G1HeapRegionTable::_length")
    size_at = vm.structs.static("HeapRegion::GrainBytes", "G1HeapRegion::GrainBytes")
    if size_at is None or n_regions > MAX_REGIONS:
        raise UnreadableError("the JVM does not describe its regions")
    size = vm.memory.u64(size_at)
    bottom = field(vm, "G1HeapRegion::_bottom", "HeapRegion::_bottom", "Space::_bottom", "CompactibleSpace::_bottom")
    top = field(vm, "G1HeapRegion::_top", "HeapRegion::_top", "G1ContiguousSpace::_top")
    kind = field(vm, "G1HeapRegion::_type", "HeapRegion::_type")
    tags = _region_tags(vm)
    parts = []
    pointers = vm.memory.read(first, 8 * n_regions)
    for place in range(0, len(pointers), 8):
        region = int.from_bytes(pointers[place : place + 8], "little")
        if not region:
            continue
        start = vm.memory.u64(region + bottom)
        tag = vm.memory.u32(region + kind)
        name = next((name for name, value, mask in tags if tag & mask == value), "archive")
        parts.append(Part(start, max(start, vm.memory.u64(region + top)), start + size, name))
    return parts


def _region_tags(vm: HotSpot) -> list[tuple[str, int, int]]:
    """(kind, value, mask) of a region's tag; source: heapRegionType.hpp."""
    found = []
    for name, constant, is_mask in (
        (FREE, "FreeTag", False), ("eden", "EdenTag", False), ("survivor", "SurvTag", False),
        (HUMONGOUS, "HumongousMask", True), ("old", "OldMask", True),
    ):  # fmt: skip
        value = vm.structs.constant(f"HeapRegionType::{constant}")
        if value is None:
            value = vm.structs.constant(f"G1HeapRegionType::{constant}")
        if value is not None:
            found.append((name, value, value if is_mask else 0xFFFF_FFFF))
    return found


def _serial(vm: HotSpot, heap: int) -> list[Part]:
    young = at(vm, heap, "SerialHeap::_young_gen", "GenCollectedHeap::_young_gen")
    old = at(vm, heap, "SerialHeap::_old_gen", "GenCollectedHeap::_old_gen")
    spaces = {
        "eden": at(vm, young, "DefNewGeneration::_eden_space"),
        "from": at(vm, young, "DefNewGeneration::_from_space"),
        "old": at(vm, old, "TenuredGeneration::_the_space"),
    }
    return _spaces(
        vm,
        spaces,
        field(vm, "ContiguousSpace::_bottom", "Space::_bottom"),
        field(vm, "ContiguousSpace::_top"),
        field(vm, "ContiguousSpace::_end", "Space::_end"),
    )


def _parallel(vm: HotSpot) -> list[Part]:
    young, old = vm.pointer("ParallelScavengeHeap::_young_gen"), vm.pointer("ParallelScavengeHeap::_old_gen")
    if young is None or old is None:
        raise UnreadableError("the JVM does not describe its generations")
    spaces = {
        "eden": at(vm, young, "PSYoungGen::_eden_space"),
        "from": at(vm, young, "PSYoungGen::_from_space"),
        "old": at(vm, old, "PSOldGen::_object_space"),
    }
    return _spaces(
        vm,
        spaces,
        field(vm, "MutableSpace::_bottom", "ImmutableSpace::_bottom"),
        field(vm, "MutableSpace::_top"),
        field(vm, "MutableSpace::_end", "ImmutableSpace::_end"),
    )


def _spaces(vm: HotSpot, spaces: dict[str, int], bottom: int, top: int, end: int) -> list[Part]:
    memory = vm.memory
    return [
        Part(memory.u64(space + bottom), memory.u64(space + top), memory.u64(space + end), name)
        for name, space in spaces.items()
    ]
