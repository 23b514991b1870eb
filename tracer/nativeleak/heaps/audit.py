"""Which of some blocks are gone: asked of the heap itself, from outside, in a process of its own.

    python -m nativeleak.heaps.audit PID < ADDRESSES > ANSWERS

Addresses are 64-bit words; the answer to each is one byte: 1 where the block is gone. The heap is walked twice. A block
is gone if it lies in memory of an allocator, and neither walk found it in use, although both read the memory around it:
nothing of a block that is never freed looks like that. So is a block whose address is not mapped any more. A block that
no walk can judge counts as there: blocks of glibc with a mapping of their own, and other allocators. Nothing is
answered if no heap can be walked.

Caveat: an address that was given away again is in use.

Scope: glibc, musl, jemalloc; each that the process has.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from nativeleak.errors import NativeleakError
from nativeleak.heaps.blocks import BlockList
from nativeleak.heaps.census import TABLES
from nativeleak.heaps.glibc.walk import walk_used
from nativeleak.heaps.jemalloc import has_jemalloc, walk_jemalloc
from nativeleak.heaps.memory import Flags, HeapError, HeapMemory, Places
from nativeleak.heaps.musl import has_musl, walk_musl
from nativeleak.process import procfs
from nativeleak.process.procfs import MapEntry

_N_WALKS: Final = 2


def find_gone(pid: int, addresses: Places) -> Flags:
    """Whether each of some blocks is gone.

    Raises:
        NativeleakError: No heap of the process can be walked.
    """
    gone = np.ones(len(addresses), np.bool_)
    exe = procfs.read_exe(pid)
    order = np.argsort(addresses)
    with HeapMemory(pid) as memory:
        for _ in range(_N_WALKS):
            found = np.zeros(len(addresses), np.bool_)
            found[order] = _not_in_use(memory, exe, addresses[order])
            gone &= found
    return gone


def _not_in_use(memory: HeapMemory, exe: str, ordered: Places) -> Flags:
    """Whether each address, in order, is no longer mapped, or some allocator has it and does not hold it in use."""
    maps = procfs.read_maps(memory.pid)
    # A block that is never freed stays mapped.
    gone, failure = ~_inside(ordered, [(entry.start, entry.end) for entry in maps]), None
    is_walked = False
    for walk in _walks(memory, maps, exe):
        try:
            gone |= walk.not_in_use(ordered)
            is_walked = True
        except HeapError as error:
            failure = error
    if failure is not None and not is_walked:
        raise failure
    return gone


def _walks(memory: HeapMemory, maps: Sequence[MapEntry], exe: str) -> Iterator[_Glibc | _Listed]:
    if has_jemalloc(maps) or has_musl(maps):
        yield _Listed(memory, maps)
    if not has_musl(maps):
        yield _Glibc(memory, maps, exe)


class _Glibc:
    """The chunks of glibc's arenas: a block is in use if one begins at its address."""

    def __init__(self, memory: HeapMemory, maps: Sequence[MapEntry], exe: str) -> None:
        self._memory, self._maps, self._exe = memory, maps, exe

    def not_in_use(self, ordered: Places) -> Flags:
        """Whether each address lies in an arena and no block in use begins there."""
        used = np.zeros(len(ordered), np.bool_)
        unread = np.zeros(len(ordered), np.bool_)

        def on_used(found: Places) -> None:
            places = np.searchsorted(ordered, found)
            places = places[places < len(ordered)]
            known = np.isin(ordered[places], found)
            used[places[known]] = True

        def on_unread(start: int, end: int) -> None:
            unread[np.searchsorted(ordered, start) : np.searchsorted(ordered, end)] = True

        ranges = walk_used(self._memory, self._maps, self._exe, on_used, on_unread)
        return np.asarray(_inside(ordered, ranges) & ~used & ~unread)


class _Listed:
    """The blocks of musl or jemalloc: a block is in use if its address lies in one.

    musl hands out addresses behind the start of a slot; those of jemalloc's larger blocks begin inside of a page.
    """

    def __init__(self, memory: HeapMemory, maps: Sequence[MapEntry]) -> None:
        self._memory, self._maps = memory, maps

    def not_in_use(self, ordered: Places) -> Flags:
        """Whether each address lies in the allocator's memory and in no block in use."""
        blocks = BlockList()
        walk_it = walk_musl if has_musl(self._maps) else walk_jemalloc
        walk = walk_it(self._memory, self._maps, blocks)
        # Pages that jemalloc keeps for later hold no block.
        spans = [*blocks.spans, *((start, end) for start, end, what in walk.ranges if what != TABLES)]
        starts, ends = blocks.take()
        index = np.searchsorted(starts, ordered.astype(np.uint64), side="right").astype(np.int64) - 1
        used = np.zeros(len(ordered), np.bool_)
        if len(starts):
            used = (index >= 0) & (ordered.astype(np.uint64) < ends[np.clip(index, 0, None)])
        return np.asarray(_inside(ordered, spans) & ~used & ~_inside(ordered, blocks.unread))


def _inside(ordered: Places, ranges: Sequence[tuple[int, int]]) -> Flags:
    is_inside = np.zeros(len(ordered), np.bool_)
    for start, end in ranges:
        is_inside[np.searchsorted(ordered, start) : np.searchsorted(ordered, end)] = True
    return is_inside


def main() -> int:
    """Answer on standard output."""
    addresses = np.frombuffer(sys.stdin.buffer.read(), np.int64)
    try:
        gone = find_gone(int(sys.argv[1]), addresses)
    except NativeleakError as error:
        with contextlib.suppress(OSError):
            sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.buffer.write(gone.astype(np.uint8).tobytes())
    return 0


if __name__ == "__main__":
    sys.exit(main())
