"""From objects and ways to groups: the same field, held in the same way."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from nativeleak.runtimes.hotspot.heap.climb import Holders
from nativeleak.runtimes.hotspot.heap.graph import ORDER, Graph, State, Way
from nativeleak.runtimes.hotspot.heap.matching import Blocks
from nativeleak.runtimes.hotspot.heap.naming import Namer, Names
from nativeleak.runtimes.hotspot.heap.pages import Flags, Indices
from nativeleak.runtimes.hotspot.heap.result import HolderGroup

_MAX_SIZES: Final = 8
_NOWHERE: Final = Names((), "", "")


@dataclass(slots=True)
class _Group:
    objects: set[int] = field(default_factory=set)
    blocks: list[int] = field(default_factory=list)
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
    objects = holders.objects.tolist()
    ways: dict[int, tuple[Way, Names]] = {}
    states = np.zeros(len(objects), np.int64)
    for row, address in enumerate(objects):
        if address not in ways:
            way = graph.way(address)
            ways[address] = way, namer.names(way)
        states[row] = ORDER.index(ways[address][0].state)
    states[is_moving & (states > ORDER.index(State.OPEN))] = ORDER.index(State.MOVING)
    # Memory that is not in use any more is full of old words; an array around some of them is no holder.
    is_chance = (states == ORDER.index(State.NONE)) & holders.inside
    rows = _owning_rows(holders.blocks, states, holders.inside, namer.are_of_jdk(holders.classes))
    rows = rows[~is_chance[rows]]
    found: dict[tuple[str, State, str, str, bool], _Group] = defaultdict(_Group)
    for row in rows.tolist():
        address = objects[row]
        holder = namer.field_name(int(holders.classes[row]), int(holders.offsets[row]), address)
        state = ORDER[states[row]]
        names = ways[address][1] if state is not State.MOVING else _NOWHERE
        if holder.startswith("static "):  # a class holds it itself
            state, names = State.STRONG, Names((), holder, holder.removeprefix("static "))
        # One field of the program is one answer, by whichever way it leads there.
        way = names.owner or " ".join(names.path)
        group = found[holder, state, names.root, way, bool(holders.inside[row])]
        group.names[names] += 1
        group.objects.add(address)
        group.blocks.append(int(holders.blocks[row]))
    groups = [
        _made(holder, state, is_inside, group, blocks) for (holder, state, _, _, is_inside), group in found.items()
    ]
    return tuple(sorted(groups, key=lambda group: (-group.n_bytes, group.holder, group.path)))


def _owning_rows(block_of: Indices, states: Indices, inside: Flags, of_jdk: Flags) -> Indices:
    """The row that each block counts in: that of the strongest object, exact before inside, the JDK's before others.

    A library's own object often repeats the address of a buffer of the JDK that it has.
    """
    order = np.lexsort((np.arange(len(block_of)), ~of_jdk, inside, states, block_of))
    is_first = np.ones(len(order), np.bool_)
    is_first[1:] = np.diff(block_of[order]) != 0
    return np.sort(order[is_first])


def _made(holder: str, state: State, is_inside: bool, group: _Group, blocks: Blocks) -> HolderGroup:
    names = group.names.most_common(1)[0][0]
    indices = np.unique(np.array(group.blocks, np.int64))
    sizes = Counter(blocks.sizes[indices].tolist())
    largest = sorted(sizes.items(), key=lambda item: -item[0] * item[1])[:_MAX_SIZES]
    return HolderGroup(
        holder, state, names.path, names.root, names.owner, len(group.objects), indices,
        int(blocks.sizes[indices].sum()), tuple((int(size), count) for size, count in largest), is_inside,
    )  # fmt: skip
