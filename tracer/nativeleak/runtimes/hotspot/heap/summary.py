"""From objects and ways to groups: the same field, held in the same way."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from nativeleak.runtimes.hotspot.heap.climb import Holders
from nativeleak.runtimes.hotspot.heap.graph import ORDER, Graph, State
from nativeleak.runtimes.hotspot.heap.matching import Blocks
from nativeleak.runtimes.hotspot.heap.naming import NOWHERE, Namer, Names
from nativeleak.runtimes.hotspot.heap.pages import Flags, Indices, Numbers
from nativeleak.runtimes.hotspot.heap.result import HolderGroup

_MAX_SIZES: Final = 8


@dataclass(slots=True)
class _Group:
    rows: list[Indices] = field(default_factory=list)
    names: Counter[Names] = field(default_factory=Counter)


def group_holders(
    holders: Holders, blocks: Blocks, graph: Graph, namer: Namer, is_moving: Flags
) -> tuple[HolderGroup, ...]:
    """Groups of holders, those with the most bytes first.

    Args:
        holders: The rows that the first pass found.
        blocks: The native blocks.
        graph: How objects are held.
        namer: Names ways.
        is_moving: For each row: the object is young and was moved or collected meanwhile.
    """
    states = graph.states(holders.likeness)
    states[is_moving & (states > ORDER.index(State.OPEN))] = ORDER.index(State.MOVING)
    ways = namer.ways(graph, holders.likeness)
    rows = _owning_rows(holders.blocks, states, holders.inside, namer.are_of_jdk(holders.classes))
    # Memory that is not in use any more is full of old words; an array around some of them is no holder.
    is_array = namer.are_arrays(holders.classes)
    rows = rows[~((states == ORDER.index(State.NONE)) & (holders.inside | is_array))[rows]]
    offsets = np.where(is_array, 0, holders.offsets)
    kinds = _kinds([holders.classes[rows], offsets[rows], states[rows], ways[rows], holders.inside[rows]])
    found: dict[tuple[str, State, str, str, bool], _Group] = defaultdict(_Group)
    for number, (index, offset, state_number, way, inside) in enumerate(kinds.rows):
        members = rows[kinds.order[kinds.starts[number] : kinds.starts[number + 1]]]
        state = ORDER[state_number]
        names = namer.name(way) if state is not State.MOVING else NOWHERE
        for name, part in _parts_by_name(namer, holders, members, index, offset):
            if name.startswith("static "):  # a class holds it itself
                state, names = State.STRONG, Names((), name, name.removeprefix("static "))
            # One field of the program is one answer, by whichever way it leads there.
            group = found[name, state, names.root, names.owner or " ".join(names.path), bool(inside)]
            group.names[names] += len(part)
            group.rows.append(part)
    groups = [_made(key[0], key[1], key[4], group, holders, blocks) for key, group in found.items()]
    return tuple(sorted(groups, key=lambda group: (-group.n_bytes, group.holder, group.path)))


class _Kinds(NamedTuple):
    """Rows that are alike.

    Attributes:
        rows: The values of each kind.
        order: Numbers of the rows, those of a kind together.
        starts: Where in ``order`` each kind begins, and the end.
    """

    rows: list[list[int]]
    order: Indices
    starts: list[int]


def _kinds(columns: Sequence[npt.NDArray[Any]]) -> _Kinds:
    """The rows of some columns by their values."""
    order = np.lexsort(columns[::-1]).astype(np.int64)
    is_first = np.zeros(len(order), np.bool_)
    is_first[:1] = True
    for column in columns:
        is_first[1:] |= np.diff(column[order]) != 0
    starts = np.flatnonzero(is_first)
    rows = [[int(column[order[start]]) for column in columns] for start in starts.tolist()]
    return _Kinds(rows, order, [*starts.tolist(), len(order)])


def _parts_by_name(namer: Namer, holders: Holders, rows: Indices, index: int, offset: int) -> list[tuple[str, Indices]]:
    """The rows of a field; of static fields, by class."""
    if not namer.is_static(index, offset):
        return [(namer.field_name(index, offset), rows)]
    return [(namer.field_name(index, offset, int(holders.objects[row])), rows[i : i + 1]) for i, row in enumerate(rows)]


def _owning_rows(block_of: Numbers, states: Indices, inside: Flags, of_jdk: Flags) -> Indices:
    """The row that each block counts in: that of the strongest object, exact before inside, the JDK's before others.

    A library's own object often repeats the address of a buffer of the JDK that it has.
    """
    order = np.lexsort((~of_jdk, inside, states, block_of))
    is_first = np.ones(len(order), np.bool_)
    is_first[1:] = np.diff(block_of[order]) != 0
    return np.sort(order[is_first])


def _made(holder: str, state: State, is_inside: bool, group: _Group, holders: Holders, blocks: Blocks) -> HolderGroup:
    names = group.names.most_common(1)[0][0]
    rows = np.concatenate(group.rows)
    indices = np.unique(holders.blocks[rows]).astype(np.int64)
    sizes, counts = np.unique(blocks.sizes[indices], return_counts=True)
    largest = np.argsort(-(sizes.astype(np.int64) * counts), kind="stable")[:_MAX_SIZES]
    return HolderGroup(
        holder, state, names.path, names.root, names.owner, len(np.unique(holders.objects[rows])), indices,
        int(blocks.sizes[indices].sum()), tuple((int(sizes[i]), int(counts[i])) for i in largest.tolist()),
        len(sizes), is_inside,
    )  # fmt: skip
