"""How often the collectors of a JVM ran.

Source: perfMemory.hpp: a prologue of 32 bytes (magic, byte order, ..., offset of the first entry, number of entries),
then entries of {length, name offset, vector length, type, flags, units, variability, data offset}. Counters of this
name are in all of JDK 11 to 25.
"""

from __future__ import annotations

import re
import struct
from typing import Final

from nativeleak.runtimes.hotspot.jvm import HotSpot
from nativeleak.runtimes.hotspot.memory import UnreadableError

_PROLOGUE: Final = struct.Struct("<24xII")  # the last two numbers of it
_PROLOGUE_AT: Final = 0
_ENTRY: Final = struct.Struct("<IIIBBBBI")
_MAX_BYTES: Final = 4 << 20
_MAX_ENTRIES: Final = 1 << 14
_COUNTER: Final = re.compile(rb"sun\.gc\.collector\.\d+\.invocations")


def find_collection_counters(vm: HotSpot) -> list[int]:
    """Addresses of the counters of collections; empty where the JVM keeps none."""
    start, capacity = vm.pointer("PerfMemory::_start"), vm.pointer("PerfMemory::_capacity")
    if start is None or capacity is None:
        return []
    try:
        entry_at, n_entries = _PROLOGUE.unpack(vm.memory.read(start, _PROLOGUE.size))
        data = vm.memory.read(start, min(capacity, _MAX_BYTES))
    except UnreadableError:
        return []
    found = []
    for _ in range(min(n_entries, _MAX_ENTRIES)):
        if entry_at + _ENTRY.size > len(data):
            break
        length, name_at, _, kind, _, _, _, data_at = _ENTRY.unpack_from(data, entry_at)
        name = data[entry_at + name_at : entry_at + name_at + 64].partition(b"\0")[0]
        if kind == ord("J") and _COUNTER.fullmatch(name):
            found.append(start + entry_at + data_at)
        if length < _ENTRY.size:
            break
        entry_at += length
    return found


def count_collections(vm: HotSpot, counters: list[int]) -> int | None:
    """Collections so far, None where they are not counted."""
    try:
        for place in counters:
            vm.memory.drop(place, 8)
        return sum(vm.memory.u64(place) for place in counters) if counters else None
    except UnreadableError:
        return None
