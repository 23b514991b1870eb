"""From objects and ways to groups: the same field, held in the same way."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np

from nativeleak.arrays import distinct_in_place, n_distinct, parts, pick
from nativeleak.runtimes.hotspot.heap.climb import Column, Holders, Strengths
from nativeleak.runtimes.hotspot.heap.graph import ORDER, Graph, State
from nativeleak.runtimes.hotspot.heap.matching import Blocks
from nativeleak.runtimes.hotspot.heap.naming import NOWHERE, Namer, Names
from nativeleak.runtimes.hotspot.heap.pages import Flags
from nativeleak.runtimes.hotspot.heap.result import HolderGroup

_MAX_SIZES: Final = 8


@dataclass(slots=True)
class _Group:
    rows: list[Column] = field(default_factory=list)
    names: Counter[Names] = field(default_factory=Counter)


def group_holders(
    holders: Holders, blocks: Blocks, graph: Graph, namer: Namer, is_moving: Flags
) -> tuple[HolderGroup, ...]:
    """Groups of holders, those with the most bytes first.

    Args:
        holders: The rows that the first pass found; those that own a block are left.
        blocks: The native blocks.
        graph: How objects are held.
        namer: Names ways.
        is_moving: For each row: the object is young and was moved or collected meanwhile.
    """
    states = pick(graph.states(holders.followed).astype(np.int8), holders.likeness)
    states[is_moving & (states > ORDER.index(State.OPEN))] = ORDER.index(State.MOVING)
    rows = _owning_rows(holders.blocks, len(blocks), states, holders.inside, namer.are_of_jdk(holders.classes))
    # Memory that is not in use any more is full of old words; an array around some of them is no holder.
    is_array = namer.are_arrays(holders.classes)
    rows = rows[~pick((states == ORDER.index(State.NONE)) & (holders.inside | is_array), rows)]
    states, is_array = pick(states, rows), pick(is_array, rows)
    holders.keep(rows)
    ways = namer.ways(graph, holders.followed).astype(np.int32)
    kinds = _kinds(holders, states, ways, is_array)
    found: dict[tuple[str, State, str, str, bool], _Group] = defaultdict(_Group)
    for number, (index, offset, state_number, way, inside) in enumerate(kinds.rows):
        members = kinds.members[kinds.starts[number] : kinds.starts[number + 1]]
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
        rows: Class, offset, state, way and inside of each kind, in order.
        members: The rows, those of a kind together.
        starts: Where in ``members`` each kind begins, and the end.
    """

    rows: list[tuple[int, ...]]
    members: Column
    starts: list[int]


def _kinds(holders: Holders, states: Strengths, ways: Column, is_array: Flags) -> _Kinds:
    """The rows by class, offset, state, way and whether the address is inside; of arrays all offsets are alike."""
    numbers: dict[tuple[int, ...], int] = {}
    fields: dict[int, int] = {}
    kinds = np.empty(len(states), np.int32)
    for part in parts(len(states)):
        at = np.arange(part.start, part.stop, dtype=np.int32)
        offsets = np.where(is_array[at], 0, holders.offsets[at]).astype(np.int64)
        different, of_field = np.unique(holders.classes[at].astype(np.int64) << 32 | offsets, return_inverse=True)
        places = np.array([fields.setdefault(each, len(fields)) for each in different.tolist()], np.int64)
        # A way has at most 16 bits, a state three.
        way = ways[holders.likeness[at]].astype(np.int64) << 1 | holders.inside[at]
        code = places[of_field] << 32 | states[at].astype(np.int64) << 28 | way
        _, first, of_kind = np.unique(code, return_index=True, return_inverse=True)
        found = []
        for row in at[first].tolist():
            offset = 0 if is_array[row] else int(holders.offsets[row])
            held = int(states[row]), int(ways[holders.likeness[row]])
            key = int(holders.classes[row]), offset, *held, int(holders.inside[row])
            found.append(numbers.setdefault(key, len(numbers)))
        kinds[part] = np.array(found, np.int32)[of_kind]
    in_order = sorted(numbers)
    place_of = np.empty(len(numbers), np.int32)
    place_of[[numbers[key] for key in in_order]] = np.arange(len(numbers))
    kinds = pick(place_of, kinds)
    starts = np.concatenate([[0], np.cumsum(np.bincount(kinds, minlength=len(numbers)))])
    members = np.argsort(kinds, kind="stable").astype(np.int32)
    return _Kinds(in_order, members, starts.tolist())


def _parts_by_name(namer: Namer, holders: Holders, rows: Column, index: int, offset: int) -> list[tuple[str, Column]]:
    """The rows of a field; of static fields, by class."""
    if not namer.is_static(index, offset):
        return [(namer.field_name(index, offset), rows)]
    return [(namer.field_name(index, offset, int(holders.objects[row])), rows[i : i + 1]) for i, row in enumerate(rows)]


def _owning_rows(block_of: Column, n_blocks: int, states: Strengths, inside: Flags, of_jdk: Flags) -> Column:
    """The row that each block counts in: that of the strongest object, exact before inside, the JDK's before others.

    A library's own object often repeats the address of a buffer of the JDK that it has. Of equal rows it is the first.
    """
    ranks = states.view(np.uint8) << 2 | inside.view(np.uint8) << 1 | (~of_jdk).view(np.uint8)
    best = np.full(n_blocks, 255, np.uint8)
    for part in parts(len(ranks)):
        np.minimum.at(best, block_of[part], ranks[part])
    first = np.full(n_blocks, -1, np.int32)
    for part in reversed(list(parts(len(ranks)))):
        is_best = best[block_of[part]] == ranks[part]
        rows = (np.flatnonzero(is_best) + part.start).astype(np.int32)[::-1]
        first[block_of[rows]] = rows  # of several, the last one that is written stays
    found = first[first >= 0]
    found.sort()
    return found


def _made(holder: str, state: State, is_inside: bool, group: _Group, holders: Holders, blocks: Blocks) -> HolderGroup:
    names = group.names.most_common(1)[0][0]
    rows = np.concatenate(group.rows) if len(group.rows) > 1 else group.rows[0]
    indices = distinct_in_place(pick(holders.blocks, rows))
    sizes = pick(blocks.sizes, indices)
    n_bytes = int(sizes.sum())
    sizes.sort()
    starts = np.flatnonzero(np.concatenate([[True], sizes[1:] != sizes[:-1]]))
    counts = np.diff(starts, append=len(sizes))
    sizes = sizes[starts]
    largest = np.argsort(-(sizes.astype(np.int64) * counts), kind="stable")[:_MAX_SIZES]
    return HolderGroup(
        holder, state, names.path, names.root, names.owner, n_distinct(pick(holders.objects, rows)), indices, n_bytes,
        tuple((int(sizes[i]), int(counts[i])) for i in largest.tolist()), len(starts), is_inside,
    )  # fmt: skip
