"""From objects and ways to groups: the same field, held in the same way."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from nativeleak.runtimes.hotspot.heap.climb import Holders
from nativeleak.runtimes.hotspot.heap.graph import ORDER, Graph, State
from nativeleak.runtimes.hotspot.heap.matching import Blocks
from nativeleak.runtimes.hotspot.heap.naming import NOWHERE, Namer, Names
from nativeleak.runtimes.hotspot.heap.pages import Flags, Indices
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
    states = graph.states(holders.objects)
    states[is_moving & (states > ORDER.index(State.OPEN))] = ORDER.index(State.MOVING)
    ways = namer.ways(graph, holders.objects)
    rows = _owning_rows(holders.blocks, states, holders.inside, namer.are_of_jdk(holders.classes))
    # Memory that is not in use any more is full of old words; an array around some of them is no holder.
    is_array = namer.are_arrays(holders.classes)
    rows = rows[~((states == ORDER.index(State.NONE)) & (holders.inside | is_array))[rows]]
    columns = [holders.classes, holders.offsets, states, ways, holders.inside.astype(np.int64)]
    columns[1] = np.where(is_array, 0, columns[1])
    keys, inverse = np.unique(np.stack([column[rows] for column in columns], 1), axis=0, return_inverse=True)
    found: dict[tuple[str, State, str, str, bool], _Group] = defaultdict(_Group)
    for number, (index, offset, state_number, way, inside) in enumerate(keys.tolist()):
        members = rows[np.ravel(inverse) == number]
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


def _parts_by_name(namer: Namer, holders: Holders, rows: Indices, index: int, offset: int) -> list[tuple[str, Indices]]:
    """The rows of a field; of static fields, by class."""
    if not namer.is_static(index, offset):
        return [(namer.field_name(index, offset), rows)]
    return [(namer.field_name(index, offset, int(holders.objects[row])), rows[i : i + 1]) for i, row in enumerate(rows)]


def _owning_rows(block_of: Indices, states: Indices, inside: Flags, of_jdk: Flags) -> Indices:
    """The row that each block counts in: that of the strongest object, exact before inside, the JDK's before others.

    A library's own object often repeats the address of a buffer of the JDK that it has.
    """
    order = np.lexsort((np.arange(len(block_of)), ~of_jdk, inside, states, block_of))
    is_first = np.ones(len(order), np.bool_)
    is_first[1:] = np.diff(block_of[order]) != 0
    return np.sort(order[is_first])


def _made(holder: str, state: State, is_inside: bool, group: _Group, holders: Holders, blocks: Blocks) -> HolderGroup:
    names = group.names.most_common(1)[0][0]
    rows = np.concatenate(group.rows)
    indices = np.unique(holders.blocks[rows])
    sizes, counts = np.unique(blocks.sizes[indices], return_counts=True)
    largest = np.argsort(-(sizes.astype(np.int64) * counts), kind="stable")[:_MAX_SIZES]
    return HolderGroup(
        holder, state, names.path, names.root, names.owner, len(np.unique(holders.objects[rows])), indices,
        int(blocks.sizes[indices].sum()), tuple((int(sizes[i]), int(counts[i])) for i in largest.tolist()),
        len(sizes), is_inside,
    )  # fmt: skip
