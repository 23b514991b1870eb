"""Resident memory by use: made-up mappings, whose parts are known to the byte."""

from __future__ import annotations

from nativeleak.engines.memory import split
from nativeleak.engines.pmap.regions import ARENA_BYTES, StackPointer, Surroundings
from nativeleak.engines.pmap.smaps import Mapping
from nativeleak.model import MemoryLine, Owner
from nativeleak.runtimes.base import OwnedRange
from nativeleak.runtimes.hotspot.spec import HOTSPOT

MIB = 1 << 20
BASE = 0x7F00_0000_0000


def _mapping(start_mib: int, n_mib: int, rss_mib: int, path: str = "", perms: str = "rw-p", flags: str = "") -> Mapping:
    return Mapping(BASE + start_mib * MIB, BASE + (start_mib + n_mib) * MIB, perms, path, rss_mib * MIB, flags)


def _range(start_mib: int, n_mib: int, owner: Owner) -> tuple[int, int, Owner]:
    return BASE + start_mib * MIB, BASE + (start_mib + n_mib) * MIB, owner


def test_mappings_are_told_by_name_guard_stack_pointer_arena_and_mapper() -> None:
    mappings = [
        _mapping(0, 8, 3, "[heap]"),
        _mapping(10, 4, 2, "/lib/libc.so.6", "r-xp"),
        _mapping(20, 1, 0, perms="---p"),
        _mapping(21, 8, 1),  # behind a guard
        _mapping(40, 8, 5),  # a stack pointer lies in it
        _mapping(64, 16, 7, flags="rd wr"),
        _mapping(80, 48, 0, perms="---p"),
        _mapping(200, 30, 12),  # by malloc, by the program, from before
        _mapping(300, 4, 4, "/SYSV00000000", "rw-s"),
    ]
    assert ARENA_BYTES == 64 * MIB
    owners = [_range(200, 10, Owner.ALLOCATOR), _range(210, 15, Owner.PROGRAM)]
    lines = split(Surroundings(mappings, [StackPointer(BASE + 41 * MIB, 7, "w")]), owners, None)
    assert {line: n_bytes / MIB for line, n_bytes in lines.items() if n_bytes} == {
        MemoryLine.ALLOCATOR: 3 + 7 + 4,
        MemoryLine.FILES: 2,
        MemoryLine.STACKS: 1 + 5,
        MemoryLine.MAPPED: 6,
        MemoryLine.UNEXPLAINED: 2,
        MemoryLine.SHARED: 4,
    }
    assert sum(lines.values()) == sum(mapping.rss for mapping in mappings)


def test_memory_of_a_jvm_is_parted_into_its_heap_and_the_rest() -> None:
    mappings = [_mapping(0, 10, 10), _mapping(10, 10, 0, perms="---p", flags="nr")]
    owned = [OwnedRange(BASE, BASE + 6 * MIB, "Java heap"), OwnedRange(BASE + 6 * MIB, BASE + 8 * MIB, "JVM: code")]
    lines = split(Surroundings(mappings, owned=owned, runtime=HOTSPOT), [], None)
    assert (lines[MemoryLine.JAVA_HEAP], lines[MemoryLine.JVM]) == (6 * MIB, 4 * MIB)


def test_heap_of_zgc_is_the_java_heap() -> None:
    lines = split(Surroundings([_mapping(0, 9, 7, path="/memfd:java_heap (deleted)")], runtime=HOTSPOT), [], None)
    assert (lines[MemoryLine.JAVA_HEAP], lines.get(MemoryLine.JVM, 0)) == (7 * MIB, 0)
