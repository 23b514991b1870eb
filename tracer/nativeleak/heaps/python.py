"""CPython's own allocator of small objects: arenas cut into pools; pool headers identify them.

Scope: which mappings hold pools, and how many bytes of their blocks are in use.

Source: Objects/obmalloc.c (struct pool_header: the number of blocks in use, three addresses, the arena's index, the
size class, the offset of the next block never used and the largest such offset); pools of 4 KiB up to CPython 3.9, of
16 KiB since 3.10.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from nativeleak.heaps.memory import HeapMemory
from nativeleak.process.procfs import PAGE_BYTES, MapEntry

_PROGRAM: Final = re.compile(r"/libpython[23][^/]*$|/python[23]?[.0-9]*$|/pypy[^/]*$")
_POOL_BYTES: Final = (16384, 4096)
_CLASS_OFFSET: Final = 32
_HEADER_BYTES: Final = 48
_N_CLASSES: Final = 32
_STEP: Final = 16
_LOW: Final = 0xFFFF_FFFF


class Pools(NamedTuple):
    """The pools of a range.

    Attributes:
        n_pools: How many.
        in_use_bytes: Blocks in use in them.
    """

    n_pools: int
    in_use_bytes: int


def has_python(maps: Iterable[MapEntry]) -> bool:
    """Whether the process runs CPython."""
    return any(entry.executable and _PROGRAM.search(entry.path) for entry in maps)


def find_pools(memory: HeapMemory, start: int, end: int) -> Pools | None:
    """The pools of a range of anonymous memory; None where most of what is in memory there are none."""
    runs = memory.present_runs(start, end)
    for pool_bytes in _POOL_BYTES:
        places = [
            place
            for low, high in runs
            for place in range(-(-low // pool_bytes) * pool_bytes, high - PAGE_BYTES + 1, pool_bytes)
        ]
        pools = _pools_at(memory, places, pool_bytes)
        if pools.n_pools and pools.n_pools >= len(places) / 2:
            return pools
    return None


def _pools_at(memory: HeapMemory, places: Sequence[int], pool_bytes: int) -> Pools:
    n_pools = n_bytes = 0
    heads = memory.heads(places)
    classes = memory.heads([place + _CLASS_OFFSET for place in places])
    for (n_blocks, _), (index_and_class, offsets) in zip(heads, classes, strict=True):
        size = _STEP * ((index_and_class >> 32) + 1)
        following, last = offsets & _LOW, offsets >> 32
        if size > _STEP * _N_CLASSES or last != pool_bytes - size or not _HEADER_BYTES <= following <= pool_bytes:
            continue
        n_blocks &= _LOW
        if n_blocks > pool_bytes // size:
            continue
        n_pools += 1
        n_bytes += n_blocks * size
    return Pools(n_pools, n_bytes)
