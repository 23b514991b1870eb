"""How much of a process's heap is in use: asked of the heap itself, from outside, in a process of its own.

    python -m nativeleak.heaps.in_use PID

Prints three numbers: blocks, their bytes with the allocator's headers, and bytes that could not be read as blocks.

Scope: glibc, musl, jemalloc; each that the process has.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from nativeleak.errors import NativeleakError
from nativeleak.heaps.blocks import BlockList
from nativeleak.heaps.census import HeapWalk
from nativeleak.heaps.glibc.walk import walk_glibc
from nativeleak.heaps.jemalloc import has_jemalloc, walk_jemalloc
from nativeleak.heaps.memory import HeapError, HeapMemory
from nativeleak.heaps.musl import has_musl, walk_musl
from nativeleak.process import procfs
from nativeleak.process.procfs import MapEntry


class Counted(NamedTuple):
    """Blocks in use of one allocator, their bytes with headers, and bytes that could not be read as blocks."""

    n_blocks: int
    n_bytes: int
    unread_bytes: int


def count_in_use(pid: int) -> Counted:
    """What is in use in all heaps of a process that can be walked.

    Raises:
        NativeleakError: None of them can.
    """
    maps = procfs.read_maps(pid)
    with HeapMemory(pid) as memory:
        found, failure = [], None
        for count in _ways(memory, maps, procfs.read_exe(pid)):
            try:
                found.append(count())
            except HeapError as error:
                failure = error
    if not found and failure is not None:
        raise failure
    return Counted(*(sum(each[i] for each in found) for i in range(3)))


def _ways(memory: HeapMemory, maps: Sequence[MapEntry], exe: str) -> Iterator[Callable[[], Counted]]:
    taken: list[tuple[int, int]] = []
    if has_jemalloc(maps):

        def of_jemalloc() -> Counted:
            # One by one: by its own counts blocks in threads' caches are in use.
            blocks = BlockList()
            walk = walk_jemalloc(memory, maps, blocks)
            taken.extend((start, end) for start, end, _ in walk.ranges)
            starts, ends = blocks.take()
            return Counted(len(starts), int((ends - starts).sum()), walk.total.unread_bytes)

        yield of_jemalloc
    if has_musl(maps):
        yield lambda: _of(walk_musl(memory, maps))
    else:
        yield lambda: _of(walk_glibc(memory, maps, exe, sorted(taken)))


def _of(walk: HeapWalk) -> Counted:
    return Counted(walk.total.in_use.n_blocks + walk.n_mapped, walk.in_use_bytes, walk.total.unread_bytes)


def main() -> int:
    """Answer on standard output."""
    try:
        counted = count_in_use(int(sys.argv[1]))
    except NativeleakError as error:
        with contextlib.suppress(OSError):
            sys.stderr.write(f"{error.what}\n")
        return 1
    sys.stdout.write(f"{' '.join(map(str, counted))}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
