"""Blocks of glibc's malloc that have a mapping of their own.

Scope: at a page's start, a first word of 0 and a size that is a multiple of a page with the flag IS_MMAPPED. The kernel
joins neighbours to one line of its list, so that blocks are followed from end to start. Blocks of memalign, whose first
word is not 0, are not looked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from nativeleak.heaps.memory import HeapMemory
from nativeleak.process.procfs import PAGE_BYTES, MapEntry

_IS_MMAPPED: Final = 2
_FLAGS: Final = 7
_MAX_HEADS: Final = 65536  # pages looked at in one mapping; beyond, evenly spread ones
_PART: Final = 1024


def find_mapped(
    memory: HeapMemory, maps: Sequence[MapEntry], taken: Sequence[tuple[int, int]], n_expected: int | None
) -> list[tuple[int, int]]:
    """(start, size) of the blocks.

    Args:
        memory: Of the process.
        maps: Its mappings.
        taken: (start, end) of what belongs to somebody else, in address order.
        n_expected: How many glibc says there are; the search ends there. None if unknown.
    """
    found: list[tuple[int, int]] = []
    # Mappings that begin with a block first: then few pages are looked at in vain.
    free = [(low, high) for entry in maps if _may_hold(entry) for low, high in _without(entry.start, entry.end, taken)]
    present = [memory.present_runs(low, low + PAGE_BYTES) != [] for low, _ in free]
    heads = iter(memory.heads([low for (low, _), is_there in zip(free, present, strict=True) if is_there]))
    first = [
        _block(low, high, next(heads)) if is_there else 0 for (low, high), is_there in zip(free, present, strict=True)
    ]
    order = sorted(range(len(free)), key=lambda index: not first[index])
    for index in order:
        if n_expected is not None and len(found) >= n_expected:
            break
        low, high = free[index]
        if high - low >= PAGE_BYTES:
            found += _blocks_in(memory, low, high)
    return found if n_expected is None else found[:n_expected]


def _may_hold(entry: MapEntry) -> bool:
    return entry.perms == "rw-p" and not entry.path


def _without(start: int, end: int, taken: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """What is left of a range."""
    left = []
    for low, high in taken:
        if high <= start or low >= end:
            continue
        if low > start:
            left.append((start, low))
        start = max(start, high)
    if start < end:
        left.append((start, end))
    return left


def _block(address: int, end: int, head: tuple[int, int]) -> int:
    """Size of the block whose head this is, 0 for none."""
    previous, word = head
    size = word & ~_FLAGS
    fits = previous == 0 and word & _FLAGS == _IS_MMAPPED and size >= PAGE_BYTES and size % PAGE_BYTES == 0
    return size if fits and address + size <= end else 0


def _blocks_in(memory: HeapMemory, start: int, end: int) -> list[tuple[int, int]]:
    found = []
    runs = memory.present_runs(start, end)
    n_pages = sum(high - low for low, high in runs) // PAGE_BYTES
    step = PAGE_BYTES * max(1, n_pages // _MAX_HEADS)
    place = start
    for low, high in runs:
        address = max(low, place)
        while address < high:
            part = range(address, min(high, address + step * _PART), step)
            heads = memory.heads(part[: 1 if address == place else _PART])
            for at, head in zip(part, heads, strict=False):
                size = _block(at, end, head)
                if size:
                    found.append((at, size))
                    place = address = at + size
                    break
            else:
                address = part[len(heads) - 1] + step
    return found
