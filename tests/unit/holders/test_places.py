"""Where pointers are looked for: which mappings, which parts of stacks, whose names."""

from __future__ import annotations

from nativeleak.holders.places import (
    ANONYMOUS,
    GLOBAL,
    JAVA,
    SHARED_MEMORY,
    STACK,
    Named,
    Place,
    Thread,
    find_places,
)  # fmt: skip
from nativeleak.process.procfs import parse_maps

MAPS = """\
55aa00000000-55aa00001000 r--p 00000000 fe:00 11 /usr/bin/app
55aa00001000-55aa00002000 r-xp 00001000 fe:00 11 /usr/bin/app
55aa00002000-55aa00003000 rw-p 00002000 fe:00 11 /usr/bin/app
55aa00003000-55aa00005000 rw-p 00000000 00:00 0
55ab00000000-55ab00100000 rw-p 00000000 00:00 0 [heap]
7f0000000000-7f0000100000 rw-p 00000000 00:00 0
7f0000200000-7f0000201000 ---p 00000000 00:00 0
7f0000201000-7f0000a01000 rw-p 00000000 00:00 0
7f0001000000-7f0001100000 rw-s 00000000 00:01 7 /dev/zero (deleted)
7f0002000000-7f0002100000 rw-s 00000000 fe:00 9 /var/lib/data.db
7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0 [stack]
7ffd00030000-7ffd00034000 r--p 00000000 00:00 0 [vvar]
"""
HEAP = (0x55AB00000000, 0x55AB00100000)


def _places(*threads: Thread, named: tuple[Named, ...] = ()) -> list[Place]:
    return find_places(parse_maps(MAPS), threads, named, [HEAP])


def test_data_bss_anonymous_and_shared_memory_are_read_and_files_on_disk_are_not() -> None:
    found = {place.start: place for place in _places()}
    assert found[0x55AA00002000] == Place(0x55AA00002000, 0x55AA00003000, GLOBAL, "/usr/bin/app", skips_files=True)
    assert found[0x55AA00003000] == Place(0x55AA00003000, 0x55AA00005000, GLOBAL, "/usr/bin/app")
    assert found[0x7F0000000000].kind == ANONYMOUS
    assert found[0x7F0001000000].kind == SHARED_MEMORY
    assert not {HEAP[0], 0x7F0000200000, 0x7F0002000000, 0x7FFD00030000} & found.keys()


def test_below_the_stack_pointer_of_a_sleeper_nothing_counts() -> None:
    pointer = 0x7F0000900000
    found = _places(Thread(7, "worker", pointer, sleeps=True))
    assert Place(pointer - 128, 0x7F0000A01000, STACK, "worker") in found
    running = _places(Thread(7, "worker", pointer, sleeps=False))
    assert Place(0x7F0000201000, 0x7F0000A01000, STACK, "worker") in running


def test_two_stacks_in_one_mapping_are_both_read_whole() -> None:
    threads = Thread(7, "a", 0x7F0000300000, sleeps=True), Thread(8, "b", 0x7F0000900000, sleeps=True)
    found = _places(*threads)
    assert Place(0x7F0000201000, 0x7F0000A01000, STACK, "a and 1 others") in found


def test_a_named_range_cuts_its_mapping_and_is_read_last() -> None:
    found = _places(named=(Named(0x7F0000040000, 0x7F0000080000, JAVA, "Java heap"),))
    parts = [(place.start, place.end, place.kind) for place in found if 0x7F0000000000 <= place.start < 0x7F0000100000]
    assert sorted(parts) == [
        (0x7F0000000000, 0x7F0000040000, ANONYMOUS),
        (0x7F0000040000, 0x7F0000080000, JAVA),
        (0x7F0000080000, 0x7F0000100000, ANONYMOUS),
    ]
    assert found[-1].kind == JAVA
