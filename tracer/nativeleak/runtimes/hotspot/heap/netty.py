"""Netty's pools: what they gave out, and what of it a buffer that the program can reach accounts for.

Scope: direct memory of io.netty.buffer under its own name (not where it was renamed inside of another library).

Source: Netty 4.1.48 and 4.1.138, 4.2: PoolChunk (chunkSize, freeBytes), PooledByteBuf (chunk, maxLength: what it takes
of the chunk), PoolSubpage (elemSize, maxNumElems, numAvail, pageSize, since 4.1.52 runSize: a page of small buffers
counts as in use with its first one), PoolThreadCache.MemoryRegionCache.Entry (chunk, handle, since 4.1.57
normCapacity; before, a handle begins with the place of its run in a binary tree), AdaptivePoolingAllocator.Chunk
(capacity, allocatedBytes; memory is given back when all of its buffers are released), AdaptiveByteBuf (chunk, length).
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from nativeleak.arrays import distinct, distinct_in_place
from nativeleak.runtimes.hotspot.heap.classes import ClassTable
from nativeleak.runtimes.hotspot.heap.climb import Edges
from nativeleak.runtimes.hotspot.heap.fields import FieldReader
from nativeleak.runtimes.hotspot.heap.graph import ORDER, Graph, State
from nativeleak.runtimes.hotspot.heap.pages import Addresses, HeapPages, Indices
from nativeleak.runtimes.hotspot.heap.result import Pool

_PACKAGE: Final = "io/netty/buffer/"
_CHUNK: Final = _PACKAGE + "PoolChunk"
_BUFFER: Final = _PACKAGE + "PooledByteBuf"
_SUBPAGE: Final = _PACKAGE + "PoolSubpage"
_CACHED: Final = _PACKAGE + "PoolThreadCache$MemoryRegionCache$Entry"
_ADAPTIVE_CHUNK: Final = _PACKAGE + "AdaptivePoolingAllocator$Chunk"
_ADAPTIVE_BUFFER: Final = _PACKAGE + "AdaptivePoolingAllocator$AdaptiveByteBuf"
_WIDTHS: Final = {"I": 4, "J": 8, "Z": 1}
_SUBPAGE_HANDLE: Final = 1 << 62  # 4.1.48: PoolSubpage.toHandle


class _Amount(NamedTuple):
    """Objects and what they take of a pool."""

    number: int
    n_bytes: int


class NettyReader:
    """Reads the pools of one heap.

    Args:
        pages: Of the process.
        classes: That are loaded.
        fields: Their fields.
        edges: The references to the holders of native memory, and to what refers to these.
        graph: How objects are held.
    """

    def __init__(self, pages: HeapPages, classes: ClassTable, fields: FieldReader, edges: Edges, graph: Graph) -> None:
        self._pages = pages
        self._classes = classes
        self._fields = fields
        self._edges = edges
        self._graph = graph

    def pools(self) -> tuple[Pool, ...]:
        """Those that have chunks of native memory."""
        return tuple(pool for pool in (self._pooled(), self._adaptive()) if pool is not None)

    def _pooled(self) -> Pool | None:
        chunks = self._owners_of_memory(_CHUNK, "memory")
        if not len(chunks):
            return None
        sizes = self._numbers(chunks, "chunkSize")
        free = self._numbers(chunks, "freeBytes")
        in_use = int((sizes - free).clip(0).sum())
        live, garbage = self._buffers(_BUFFER, "maxLength", chunks)
        subpages, of_subpages = self._with_chunk(_SUBPAGE, chunks)
        spare = self._spare(subpages)
        cached = self._cached(chunks, sizes, subpages, of_subpages)
        known = live.n_bytes + garbage.n_bytes + cached + spare
        return Pool(
            "pooled", len(chunks), int(sizes.sum()), in_use, live.number, live.n_bytes, garbage.number, garbage.n_bytes,
            cached, max(0, in_use - known),
        )  # fmt: skip

    def _adaptive(self) -> Pool | None:
        # A chunk refers to a buffer without a pool, which refers to the memory.
        rows = self._rows(_ADAPTIVE_CHUNK, "delegate")
        chunks = distinct_in_place(self._edges.parents[rows])
        if not len(chunks):
            return None
        sizes, given = self._numbers(chunks, "capacity"), self._numbers(chunks, "allocatedBytes")
        in_use = int(np.minimum(given, sizes).clip(0).sum())
        live, garbage = self._buffers(_ADAPTIVE_BUFFER, "length", chunks)
        return Pool(
            "adaptive", len(chunks), int(sizes.sum()), in_use, live.number, live.n_bytes, garbage.number,
            garbage.n_bytes, 0, max(0, in_use - live.n_bytes - garbage.n_bytes),
        )  # fmt: skip

    def _owners_of_memory(self, name: str, field: str) -> Addresses:
        return distinct_in_place(self._edges.parents[self._rows(name, field)])

    def _rows(self, name: str, field: str) -> Indices:
        """The references in a field of a class and its subclasses."""
        edges = self._edges
        is_one = np.zeros(len(edges.parents), np.bool_)
        for index in distinct(edges.classes).tolist():
            if self._classes.is_array(index) or name not in self._classes.above(index):
                continue
            found = self._fields.by_name(index).get(field)
            if found is not None:
                is_one |= (edges.classes == index) & (edges.offsets == found.offset)
        return np.flatnonzero(is_one)

    def _with_chunk(self, name: str, chunks: Addresses) -> tuple[Addresses, Addresses]:
        """(objects, their chunks) of a class whose field ``chunk`` refers to one of these."""
        rows = self._rows(name, "chunk")
        rows = rows[np.isin(self._edges.children[rows], chunks)]
        objects, first = np.unique(self._edges.parents[rows], return_index=True)
        return objects, self._edges.children[rows][first]

    def _buffers(self, name: str, length: str, chunks: Addresses) -> tuple[_Amount, _Amount]:
        """Buffers that the program can reach, and those that it dropped."""
        objects, _ = self._with_chunk(name, chunks)
        lengths = self._numbers(objects, length)
        is_live = self._graph.states(objects) <= ORDER.index(State.OPEN)
        return (
            _Amount(int(is_live.sum()), int(lengths[is_live].sum())),
            _Amount(int((~is_live).sum()), int(lengths[~is_live].sum())),
        )

    def _spare(self, subpages: Addresses) -> int:
        """Bytes of pages of small buffers that no buffer has."""
        sizes, most = self._numbers(subpages, "elemSize"), self._numbers(subpages, "maxNumElems")
        spare, runs = self._numbers(subpages, "numAvail"), self._numbers(subpages, "runSize", "pageSize")
        is_used = self._numbers(subpages, "doNotDestroy") != 0
        return int((runs - (most - spare) * sizes)[is_used].clip(0).sum())

    def _cached(self, chunks: Addresses, sizes: Indices, subpages: Addresses, of_subpages: Addresses) -> int:
        """Bytes that threads keep for their next buffers."""
        entries, of_entries = self._with_chunk(_CACHED, chunks)
        # A finalizer that empties the cache of a thread that has ended leaves its entries as they are.
        is_kept = self._graph.states(entries) != ORDER.index(State.NONE)
        entries, of_entries = entries[is_kept], of_entries[is_kept]
        if not len(entries):
            return 0
        handles = self._numbers(entries, "handle")
        capacities = self._numbers(entries, "normCapacity")
        if capacities.any():
            return int(capacities[handles >= 0].sum())
        places = self._numbers(subpages, "memoryMapIdx")
        elements = self._numbers(subpages, "elemSize")
        small = {
            (int(chunk), int(place)): int(size)
            for chunk, place, size in zip(of_subpages, places, elements, strict=True)
        }
        size_of = dict(zip(chunks.tolist(), sizes.tolist(), strict=True))
        total = 0
        for chunk, handle in zip(of_entries.tolist(), handles.tolist(), strict=True):
            place = handle & 0xFFFF_FFFF
            if handle < 0 or not place:
                continue
            if handle & _SUBPAGE_HANDLE:
                total += small.get((chunk, place), 0)
            else:
                total += size_of.get(chunk, 0) >> place.bit_length() - 1
        return total

    def _numbers(self, objects: Addresses, *names: str) -> Indices:
        """A number of each object, under the first of these names that its class has; 0 where it cannot be read."""
        found = np.zeros(len(objects), np.int64)
        if not len(objects):
            return found
        at = np.searchsorted(self._edges.parents, objects)
        classes = self._edges.classes[np.minimum(at, len(self._edges.parents) - 1)]
        for index in distinct(classes).tolist():
            declared = self._fields.by_name(index)
            field = next((declared[name] for name in names if name in declared), None)
            width = _WIDTHS.get(field.type) if field is not None else None
            if field is None or width is None:
                continue
            rows = np.flatnonzero(classes == index)
            raw, _ = self._pages.scattered(objects[rows] + np.uint64(field.offset), width)
            found[rows] = np.ascontiguousarray(raw).view(f"<i{width}").ravel()
        return found
