"""The code cache: its heaps, the blob that holds an address, and all blobs.

Scope: where the pieces of generated code lie; ``nmethods`` reads their contents.

Source: codeCache.hpp, heap.hpp (CodeHeap, HeapBlock), virtualspace.hpp. A heap is cut into segments; the segment map
has one byte for each: 0xff for a free one, else how many segments to go back, until 0 marks the first of a block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from nativeleak.runtimes.hotspot.jvm import HotSpot
from nativeleak.runtimes.hotspot.memory import Memory, UnreadableError

MAX_HEAPS: Final = 4
"""Non-nmethod, profiled and non-profiled code; one more is left for what a later JVM adds."""

_FREE_SEGMENT: Final = 0xFF
_MAX_STEPS_BACK: Final = 1 << 16
_MAX_BLOCKS: Final = 1 << 20
_MAX_HEAP_BYTES: Final = 1 << 32


class CodeHeap(NamedTuple):
    """One heap.

    Attributes:
        low: First address.
        high: End of what is reserved for it; it may not be in use up to there.
        segmap: Address of its segment map.
    """

    low: int
    high: int
    segmap: int


@dataclass(frozen=True, slots=True)
class CodeCache:
    """The heaps and what they have in common.

    Attributes:
        heaps: In the order of the JVM's own list.
        segment_shift: Logarithm of a segment's size.
        header_bytes: From the start of a block to its blob.
        used_offset: In a block: whether it is in use.
        length_offset: In a block: its length in segments.
        length_bytes: Width of that number.
    """

    heaps: tuple[CodeHeap, ...]
    segment_shift: int
    header_bytes: int
    used_offset: int | None
    length_offset: int | None
    length_bytes: int

    def find_blob(self, memory: Memory, pc: int) -> int | None:
        """The blob that holds an address, None where there is none.

        Raises:
            UnreadableError: The segment map cannot be read.
        """
        heap = next((each for each in self.heaps if each.low <= pc < each.high), None)
        if heap is None:
            return None
        segment = (pc - heap.low) >> self.segment_shift
        for _ in range(_MAX_STEPS_BACK):
            tag = memory.u8(heap.segmap + segment)
            if tag == 0:
                return heap.low + (segment << self.segment_shift) + self.header_bytes
            segment -= tag
            if tag == _FREE_SEGMENT or segment < 0:
                return None
        return None

    def is_used(self, memory: Memory, blob: int) -> bool:
        """Whether the block of a blob is in use.

        Raises:
            UnreadableError: It cannot be read.
        """
        return self.used_offset is None or memory.u8(blob - self.header_bytes + self.used_offset) == 1

    def blobs(self, memory: Memory) -> Iterator[int]:
        """All blobs in use, heap by heap in address order; ends early in a heap that changes meanwhile."""
        if self.length_offset is None:
            return
        for heap in self.heaps:
            block = heap.low
            for _ in range(_MAX_BLOCKS):
                try:
                    raw = memory.read(block + self.length_offset, self.length_bytes)
                    if block + self.header_bytes < heap.high and self.is_used(memory, block + self.header_bytes):
                        yield block + self.header_bytes
                except UnreadableError:
                    break
                n_segments = int.from_bytes(raw, "little")
                block += n_segments << self.segment_shift
                if not n_segments or not heap.low < block < heap.high:
                    break


def read_code_cache(vm: HotSpot) -> CodeCache:
    """The code cache as it is now; its heaps are reserved when the JVM starts and do not move.

    Raises:
        UnreadableError: The JVM does not describe it, or has none yet.
    """
    structs, memory = vm.structs, vm.memory
    heaps_list = vm.pointer("CodeCache::_heaps")
    length = structs.field("GrowableArrayBase::_len", "GenericGrowableArray::_len")
    data = structs.field("GrowableArray<int>::_data")
    shift = structs.field("CodeHeap::_log2_segment_size")
    header_bytes = structs.size("HeapBlock")
    if heaps_list is None or length is None or data is None or shift is None or header_bytes is None:
        raise UnreadableError("reading the code cache failed: the JVM does not describe its heaps")
    n_heaps = memory.i32(heaps_list + length)
    if not 1 <= n_heaps <= MAX_HEAPS:
        raise UnreadableError(f"reading the code cache failed: {n_heaps} heaps")
    array = memory.u64(heaps_list + data)
    addresses = [memory.u64(array + 8 * index) for index in range(n_heaps)]
    segment_shift = memory.i32(addresses[0] + shift)
    if not 4 <= segment_shift <= 16:
        raise UnreadableError(f"reading the code cache failed: segments of 1 << {segment_shift} bytes")
    length_type = structs.type_of("HeapBlock::Header::_length")
    return CodeCache(
        tuple(_heap(vm, address) for address in addresses),
        segment_shift,
        header_bytes,
        structs.field("HeapBlock::Header::_used"),
        structs.field("HeapBlock::Header::_length"),
        4 if length_type == "uint32_t" else 8,
    )


def _heap(vm: HotSpot, address: int) -> CodeHeap:
    structs, memory = vm.structs, vm.memory
    space = structs.field("CodeHeap::_memory")
    map_space = structs.field("CodeHeap::_segmap")
    low_offset, high_offset = structs.field("VirtualSpace::_low"), structs.field("VirtualSpace::_high_boundary")
    if space is None or map_space is None or low_offset is None or high_offset is None:
        raise UnreadableError("reading the code cache failed: the JVM does not describe a heap")
    low, high = memory.u64(address + space + low_offset), memory.u64(address + space + high_offset)
    if not low < high <= low + _MAX_HEAP_BYTES:
        raise UnreadableError(f"reading the code cache failed: a heap from {low:#x} to {high:#x}")
    return CodeHeap(low, high, memory.u64(address + map_space + low_offset))
