"""Which addresses of a JVM are its heap, metaspace, code cache and stacks, and how much of each it uses.

Scope: reading. Each part may fail alone: a note says which, and its memory stays without this name.

Source: VMStructs; for metaspace the symbol table of libjvm.so: virtualSpaceList.hpp and metaspaceContext.hpp (17 on),
metaspace.hpp (11). A node of metaspace begins with the address of the next one; the first pair behind it of an address
and a size, both multiples of 64 KiB, is what the node has reserved.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from nativeleak.runtimes.hotspot.codecache import read_code_cache
from nativeleak.runtimes.hotspot.flags import read_flags
from nativeleak.runtimes.hotspot.heap.usage import JavaHeap, read_heap
from nativeleak.runtimes.hotspot.jvm import HotSpot
from nativeleak.runtimes.hotspot.memory import UnreadableError
from nativeleak.runtimes.hotspot.threadlist import read_thread_list

HEAP, METASPACE, CLASS_SPACE, CODE, COLLECTOR, ARCHIVE = (
    "java-heap", "metaspace", "class-space", "code-cache", "collector", "cds",
)  # fmt: skip

SPACE_VARIABLES: Final = (
    "_ZN9metaspace16MetaspaceContext20_class_space_contextE",
    "_ZN9metaspace16MetaspaceContext23_nonclass_space_contextE",
    "_ZN9Metaspace17_class_space_listE",
    "_ZN9Metaspace11_space_listE",
    "_ZN9metaspace15RunningCounters19_used_class_counterE",
    "_ZN9metaspace15RunningCounters22_used_nonclass_counterE",
    "_ZN14MetaspaceUtils11_used_wordsE",
)
"""Variables of libjvm.so beside those of ``HotSpot``; only in its full symbol table."""

FLAGS: Final = (
    "UseSerialGC", "UseParallelGC", "UseG1GC", "UseZGC", "UseShenandoahGC", "UseConcMarkSweepGC", "UseEpsilonGC",
    "MaxHeapSize", "MaxMetaspaceSize", "MaxDirectMemorySize", "ReservedCodeCacheSize", "CompressedClassSpaceSize",
    "UseCompressedClassPointers",
)  # fmt: skip

_CODE_FIELDS: Final = (
    "GrowableArray<int>::_data", "CodeHeap::_memory", "CodeHeap::_segmap", "VirtualSpace::_high",
    "VirtualSpace::_high_boundary",
)  # fmt: skip
_ALIGNED: Final = 64 << 10
_MAX_NODE_BYTES: Final = 1 << 40
_MAX_NODES: Final = 4096
_MAX_BLOCKS: Final = 1 << 20
_PAGE: Final = 4096


@dataclass(slots=True)
class JavaSpaces:
    """The memory of one JVM as it describes it.

    Attributes:
        collector: ``G1``, ``Serial``, ``Parallel``, ``Z``, ``Shenandoah``, ...; empty if unknown.
        flags: Values of ``FLAGS``.
        heap: None where it could not be read.
        ranges: (start, end, line, detail) of each range of addresses whose purpose is known.
        stacks: (start, end, tid as the target counts) of Java threads' stacks.
        metaspace_committed: Bytes; None where unknown. Class space is not in it.
        metaspace_used: Bytes of metaspace and class space; None where unknown.
        class_space_committed: Bytes; None where unknown.
        code_used: Bytes of blocks in use in the code cache; None where unknown.
        notes: What could not be read, for people.
    """

    collector: str = ""
    flags: dict[str, int] = field(default_factory=dict)
    heap: JavaHeap | None = None
    ranges: list[tuple[int, int, str, str]] = field(default_factory=list)
    stacks: list[tuple[int, int, int]] = field(default_factory=list)
    metaspace_committed: int | None = None
    metaspace_used: int | None = None
    class_space_committed: int | None = None
    code_used: int | None = None
    notes: list[str] = field(default_factory=list)


def read_spaces(vm: HotSpot) -> JavaSpaces:
    """The memory of a JVM; never fails, see ``notes`` for what is missing."""
    spaces = JavaSpaces()
    parts: tuple[tuple[str, Callable[[HotSpot, JavaSpaces], None]], ...] = (
        ("flags", _take_flags), ("Java heap", _take_heap), ("code cache", _take_code), ("metaspace", _take_metaspace),
        ("class archive", _take_archive), ("card table", _take_card_table), ("thread stacks", _take_stacks),
    )  # fmt: skip
    for what, take in parts:
        try:
            take(vm, spaces)
        except UnreadableError as error:
            spaces.notes.append(f"{what}: {error}")
    return spaces


def _take_flags(vm: HotSpot, spaces: JavaSpaces) -> None:
    spaces.flags = read_flags(vm, FLAGS)
    switches = (name for name in FLAGS if name.startswith("Use") and name.endswith("GC") and spaces.flags.get(name))
    spaces.collector = next(switches, "").removeprefix("Use").removesuffix("GC")


def _take_heap(vm: HotSpot, spaces: JavaSpaces) -> None:
    spaces.heap = read_heap(vm, spaces.collector)
    if spaces.heap.end:
        spaces.ranges.append((spaces.heap.start, spaces.heap.end, HEAP, ""))


def _take_code(vm: HotSpot, spaces: JavaSpaces) -> None:
    structs, memory = vm.structs, vm.memory
    cache = read_code_cache(vm)
    heaps_list = vm.pointer("CodeCache::_heaps")
    data, space, segmap, top, high = (structs.field(name) for name in _CODE_FIELDS)
    if heaps_list is None or data is None or space is None or segmap is None or top is None or high is None:
        raise UnreadableError("the JVM does not describe a code heap")
    spaces.code_used = 0
    array = memory.u64(heaps_list + data)
    for index, heap in enumerate(cache.heaps):
        address = memory.u64(array + 8 * index)
        spaces.ranges.append((heap.low, heap.high, CODE, ""))
        map_high = memory.u64(address + segmap + high)
        if heap.segmap < map_high:
            spaces.ranges.append((heap.segmap, map_high, CODE, "segment map"))
        if cache.length_offset is None or cache.used_offset is None:
            spaces.code_used = None
            continue
        block, end = heap.low, memory.u64(address + space + top)
        for _ in range(_MAX_BLOCKS):
            if block >= end:
                break
            length = memory.read(block + cache.length_offset, cache.length_bytes)
            n_bytes = int.from_bytes(length, "little") << cache.segment_shift
            if not n_bytes or n_bytes > end - block:
                break
            if spaces.code_used is not None and memory.u8(block + cache.used_offset) == 1:
                spaces.code_used += n_bytes
            block += n_bytes


def _take_metaspace(vm: HotSpot, spaces: JavaSpaces) -> None:
    n_nodes = 0
    for line, variable, old_variable in (
        (CLASS_SPACE, SPACE_VARIABLES[0], SPACE_VARIABLES[2]), (METASPACE, SPACE_VARIABLES[1], SPACE_VARIABLES[3]),
    ):  # fmt: skip
        context, old_list = vm.variable(variable), vm.variable(old_variable)
        if context is not None:
            nodes_list = vm.memory.u64(context + 8)  # MetaspaceContext: _name, _vslist, _cm
            first = _first_node(vm, nodes_list)
        elif old_list is not None:
            nodes_list, first = old_list, vm.memory.u64(old_list)
        else:
            continue
        reserved, n_more = _take_nodes(vm, spaces, first, line)
        n_nodes += n_more
        committed = _committed(vm, nodes_list, reserved)
        if line == METASPACE:
            spaces.metaspace_committed = committed
        else:
            spaces.class_space_committed = committed
    if not n_nodes:
        raise UnreadableError("libjvm.so has no symbols for it")
    used = [vm.variable(name) for name in SPACE_VARIABLES[4:6]]
    if used[1] is not None:
        spaces.metaspace_used = 8 * sum(each or 0 for each in used)
    elif (old := vm.libjvm.address(SPACE_VARIABLES[6])) is not None:
        spaces.metaspace_used = 8 * (vm.memory.u64(old) + vm.memory.u64(old + 8))


def _first_node(vm: HotSpot, nodes_list: int) -> int:
    """The first node of a VirtualSpaceList: the first word of it that points at one."""
    for word in struct.unpack("<5Q", vm.memory.read(nodes_list, 40)):
        try:
            _node(vm, word)
        except UnreadableError:
            continue
        return int(word)
    raise UnreadableError("the list of its nodes was not found")


def _node(vm: HotSpot, address: int) -> tuple[int, int, int]:
    """(next node, start, size) of a node."""
    if address < _ALIGNED:
        raise UnreadableError("no node of metaspace there")
    words = struct.unpack("<10Q", vm.memory.read(address, 80))
    for start, size in pairwise(words[1:]):
        is_place = _ALIGNED <= start < 1 << 47 and start % _ALIGNED == 0
        if is_place and _ALIGNED <= size <= _MAX_NODE_BYTES and size % _ALIGNED == 0:
            return words[0], start, size
    raise UnreadableError("no node of metaspace there")


def _take_nodes(vm: HotSpot, spaces: JavaSpaces, first: int, line: str) -> tuple[int, int]:
    """(bytes reserved, number of nodes)."""
    node, reserved = first, 0
    for n_nodes in range(_MAX_NODES):
        if not node:
            return reserved, n_nodes
        node, start, size = _node(vm, node)
        spaces.ranges.append((start, start + size, line, ""))
        reserved += size
    return reserved, _MAX_NODES


def _committed(vm: HotSpot, nodes_list: int, reserved: int) -> int | None:
    """The word of the list behind the one that says how much is reserved, both counted in words of 8 bytes."""
    words = struct.unpack("<10Q", vm.memory.read(nodes_list, 80))
    for word, following in pairwise(words):
        if reserved and word * 8 == reserved and 0 < following <= word:
            return int(following) * 8
    return None


def _take_archive(vm: HotSpot, spaces: JavaSpaces) -> None:
    start = vm.pointer("MetaspaceObj::_shared_metaspace_base")
    end = vm.pointer("MetaspaceObj::_shared_metaspace_top")
    if start is not None and end is not None and start < end:
        spaces.ranges.append((start, end, ARCHIVE, ""))


def _take_card_table(vm: HotSpot, spaces: JavaSpaces) -> None:
    structs, memory = vm.structs, vm.memory
    if spaces.collector not in ("Serial", "Parallel", "G1", "ConcMarkSweep"):
        return
    barrier_set = vm.pointer("BarrierSet::_barrier_set")
    table = structs.field("CardTableBarrierSet::_card_table")
    bytes_at, size_at = structs.field("CardTable::_byte_map"), structs.field("CardTable::_byte_map_size")
    if barrier_set is None or table is None or bytes_at is None or size_at is None:
        raise UnreadableError("the JVM does not describe it")
    address = memory.u64(barrier_set + table)
    start, size = memory.u64(address + bytes_at), memory.u64(address + size_at)
    spaces.ranges.append((start // _PAGE * _PAGE, -(-(start + size) // _PAGE) * _PAGE, COLLECTOR, "card table"))


def _take_stacks(vm: HotSpot, spaces: JavaSpaces) -> None:
    base = vm.structs.field("JavaThread::_stack_base", "Thread::_stack_base")
    size = vm.structs.field("JavaThread::_stack_size", "Thread::_stack_size")
    if base is None or size is None:
        raise UnreadableError("the JVM does not say where they are")
    for thread in read_thread_list(vm):
        try:
            end, n_bytes = vm.memory.u64(thread.address + base), vm.memory.u64(thread.address + size)
        except UnreadableError:
            continue
        if 0 < n_bytes < end:
            spaces.stacks.append((end - n_bytes, end, thread.tid))
