"""The inner loops in numpy, where the C helper is not there: slower, with the same results.

Scope: see ``helper``. A walk goes level by level while a level is wide, and block by block while it is narrow, since a
long list is a level for each of its blocks.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from nativeleak.arrays import distinct_in_place
from nativeleak.heaps.memory import Flags, Places, Words
from nativeleak.holders.graph import Graph
from nativeleak.holders.table import INTERIOR, LEFTOVER, LINK, NONE, SHARED, Blocks, BlockTable, Bytes
from nativeleak.holders.windows import Runs

_MASK: Final = np.uint64((1 << 48) - 1)
_TARGET: Final = np.uint32(LEFTOVER - 1)
_NARROW: Final = 256


class NumpyHelper:
    """The loops in numpy."""

    name = "numpy"

    def roots(self, table: BlockTable, runs: Runs) -> tuple[Words, Blocks, Bytes]:
        """See ``Helper``."""
        places, values, blocks = _hits(table, runs)
        flags = np.where(values != table.starts[blocks], INTERIOR, 0) | np.where(_links(table, blocks, values), LINK, 0)
        return places, blocks.astype(np.uint32), flags.astype(np.uint8)

    def edges(self, table: BlockTable, runs: Runs, seen: Blocks) -> tuple[Blocks, Blocks]:  # noqa: ARG002
        """See ``Helper``."""
        places, values, blocks = _hits(table, runs)
        sources = table.look(places)
        is_edge = (sources >= 0) & (sources != blocks)
        sources, blocks, values = sources[is_edge], blocks[is_edge], values[is_edge]
        targets = blocks.astype(np.uint64) | np.where(_links(table, blocks, values), np.uint64(LEFTOVER), np.uint64(0))
        pairs = distinct_in_place(sources.astype(np.uint64) << np.uint64(32) | targets)
        return (pairs >> np.uint64(32)).astype(np.uint32), (pairs & np.uint64(0xFFFF_FFFF)).astype(np.uint32)

    def mark(self, graph: Graph, roots: Blocks, marks: Bytes, *, follows_leftovers: bool = True) -> int:
        """See ``Helper``."""
        offsets, targets, view = graph.offsets.data, graph.targets.data, marks.data
        front = distinct_in_place(roots[marks[roots] == 0]).astype(np.int64)
        marks[front] = 1
        n = len(front)
        while len(front):
            if len(front) >= _NARROW:
                _, found = _following(graph, front)
                if not follows_leftovers:
                    found = found[found < LEFTOVER]
                found = found & _TARGET
                front = distinct_in_place(found[marks[found] == 0]).astype(np.int64)
                marks[front] = 1
                n += len(front)
                continue
            stack = front.tolist()
            while stack and len(stack) < 4 * _NARROW:
                block = stack.pop()
                for edge in range(offsets[block], offsets[block + 1]):
                    to = targets[edge]
                    if to >= LEFTOVER:
                        if not follows_leftovers:
                            continue
                        to -= LEFTOVER
                    if not view[to]:
                        view[to] = 1
                        n += 1
                        stack.append(to)
            front = np.array(stack, np.int64)
        return n

    def owners(self, graph: Graph, roots: Blocks, labels: Blocks) -> Blocks:
        """See ``Helper``."""
        owner = np.full(max(len(graph.offsets) - 1, 1), NONE, np.uint32)
        blocks, first = np.unique(roots, return_index=True)
        front = blocks[np.argsort(first, kind="stable")].astype(np.int64)
        owner[front] = labels[np.sort(first)]
        while len(front):
            if len(front) < _NARROW:
                front = self._own_narrowly(graph, front, owner)
                continue
            sources, found = _following(graph, front)
            found = found & _TARGET
            is_new = owner[found] == NONE
            blocks, first = np.unique(found[is_new], return_index=True)
            owner[blocks] = owner[sources[is_new][first]]
            front = blocks[np.argsort(first, kind="stable")].astype(np.int64)
        return owner

    @staticmethod
    def _own_narrowly(graph: Graph, front: Places, owner: Blocks) -> Places:
        offsets, targets, view = graph.offsets.data, graph.targets.data, owner.data
        level: list[int] = front.tolist()
        while level and len(level) < 4 * _NARROW:
            following: list[int] = []
            for block in level:
                for edge in range(offsets[block], offsets[block + 1]):
                    to = targets[edge] & (LEFTOVER - 1)
                    if view[to] == NONE:
                        view[to] = view[block]
                        following.append(to)
            level = following
        return np.array(level, np.int64)

    def exclusive(self, graph: Graph, roots: Blocks, labels: Blocks) -> Blocks:
        """See ``Helper``."""
        only = np.full(max(len(graph.offsets) - 1, 1), NONE, np.uint32)
        front = _put(only, roots, labels)
        while len(front):
            if len(front) < _NARROW:
                front = self._exclude_narrowly(graph, front, only)
                continue
            sources, found = _following(graph, front)
            front = _put(only, found & _TARGET, only[sources])
        return only

    @staticmethod
    def _exclude_narrowly(graph: Graph, front: Places, only: Blocks) -> Places:
        offsets, targets, view = graph.offsets.data, graph.targets.data, only.data
        stack: list[int] = front.tolist()
        while stack and len(stack) < 4 * _NARROW:
            block = stack.pop()
            label = view[block]
            for edge in range(offsets[block], offsets[block + 1]):
                to = targets[edge] & (LEFTOVER - 1)
                now = view[to]
                new = label if now in (NONE, label) else SHARED
                if new != now:
                    view[to] = new
                    stack.append(to)
        return np.array(stack, np.int64)


def _hits(table: BlockTable, runs: Runs) -> tuple[Words, Words, Places]:
    """Place, value and block of each word that points into a block."""
    places, values = [np.zeros(0, np.uint64)], [np.zeros(0, np.uint64)]
    if len(table) and len(table.span_starts):
        low = table.span_starts[0]
        size = table.span_ends[-1] - low
        for address, offset, n_bytes in zip(runs.addresses, runs.offsets.tolist(), runs.sizes.tolist(), strict=True):
            data = runs.data[offset : offset + n_bytes]
            for shift in range(0, 8, runs.step):
                whole = (n_bytes - shift) // 8 * 8
                words = data[shift : shift + whole].view(np.uint64) & _MASK
                index = np.flatnonzero(words - low < size)
                places.append(address + np.uint64(shift) + np.uint64(8) * index.astype(np.uint64))
                values.append(words[index])
    place, value = np.concatenate(places), np.concatenate(values)
    if runs.step != 8:
        order = np.argsort(place, kind="stable")
        place, value = place[order], value[order]
    block = table.look(value)
    is_hit = block >= 0
    return place[is_hit], value[is_hit], block[is_hit]


def _links(table: BlockTable, blocks: Places, values: Words) -> Flags:
    if not table.link_offset:
        return np.zeros(len(values), np.bool_)
    return np.asarray(values == table.ends[blocks] - np.uint64(table.link_offset), np.bool_)


def _following(graph: Graph, front: Places) -> tuple[Places, Blocks]:
    """Source and target of each edge from these blocks."""
    starts = graph.offsets[front]
    counts = graph.offsets[front + 1] - starts
    total = int(counts.sum())
    before = np.cumsum(counts) - counts
    index = np.repeat(starts - before, counts) + np.arange(total)
    return np.repeat(front, counts), np.asarray(graph.targets[index])


def _put(only: Blocks, blocks: Blocks, labels: Blocks) -> Places:
    """Give labels to blocks; those whose label changed."""
    pairs = distinct_in_place(blocks.astype(np.uint64) << np.uint64(32) | labels)
    block, label = (pairs >> np.uint64(32)).astype(np.int64), (pairs & np.uint64(0xFFFF_FFFF)).astype(np.uint32)
    is_double = np.zeros(len(block), np.bool_)
    is_double[1:] = block[1:] == block[:-1]
    label[:-1][is_double[1:]] = SHARED  # the first of several is the one that is kept
    block, label = block[~is_double], label[~is_double]
    now = only[block]
    new = np.where(now == NONE, label, np.where(now == label, now, np.uint32(SHARED))).astype(np.uint32)
    changed = new != now
    only[block[changed]] = new[changed]
    return np.asarray(block[changed], np.int64)
