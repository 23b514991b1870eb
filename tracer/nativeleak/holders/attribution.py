"""Who holds what: bytes by holder, and what each class keeps.

Scope: one scan. First owner: each block belongs to the holder that is nearest by pointers; of holders that are as near,
variables come before regions, regions before stacks, and a pointer to a block's start before one into it. Exclusive:
what is reached from one holder and no other.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

import numpy as np

from nativeleak.holders.classes import Classes
from nativeleak.holders.helper import Helper
from nativeleak.holders.labels import Label, Labels
from nativeleak.holders.places import ANONYMOUS, GLOBAL, JAVA, KERNEL, REGISTERS, SHARED_MEMORY, STACK
from nativeleak.holders.scan import Scan
from nativeleak.holders.table import INTERIOR, NONE, SHARED, Blocks, Bytes

_ORDER: Final = {GLOBAL: 10, ANONYMOUS: 20, SHARED_MEMORY: 20, JAVA: 22, KERNEL: 25, STACK: 30, REGISTERS: 31}
_FROM_ELSEWHERE: Final = 5
MAX_CLASSES: Final = 24
"""Classes whose retained bytes are computed: one walk of the graph each."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A holder and what it holds.

    Attributes:
        label: Its name.
        n_blocks: Blocks of which it is the first owner.
        n_bytes: Their bytes.
        exclusive_blocks: Blocks that no other holder reaches.
        exclusive_bytes: Their bytes.
    """

    label: Label
    n_blocks: int
    n_bytes: int
    exclusive_blocks: int
    exclusive_bytes: int


@dataclass(frozen=True, slots=True)
class ClassCensus:
    """Objects of one class.

    Attributes:
        name: Demangled.
        n_objects: Blocks that begin with one.
        n_bytes: Their bytes.
        retained_bytes: Bytes that would be unreachable without them, their own too; None where it was not computed.
        n_lost: Of the objects, those that nothing points at.
    """

    name: str
    n_objects: int
    n_bytes: int
    retained_bytes: int | None
    n_lost: int


def find_holders(scan: Scan, labels: Labels, helper: Helper) -> tuple[list[Holder], Blocks]:
    """Holders by bytes, the largest first; and of each block the number of the label of its first owner, or NONE."""
    joined = labels.join_neighbours()
    ranks = np.array([_ORDER.get(kind, _FROM_ELSEWHERE) for kind in labels.kinds()] or [0], np.uint8)
    roots = scan.roots
    blocks, of_roots = _in_order(roots.blocks, joined[roots.labels], ranks, roots.flags & np.uint8(INTERIOR))
    owner = helper.owners(scan.graph, blocks, of_roots)[: len(scan.table)]
    only = helper.exclusive(scan.graph, blocks, of_roots)[: len(scan.table)]
    sizes = scan.table.sizes
    counted, summed = _sums(owner, sizes, owner != NONE, len(labels))
    counted_only, summed_only = _sums(only, sizes, (only != NONE) & (only != SHARED), len(labels))
    holders = [
        Holder(labels[each], counted[each], summed[each], counted_only[each], summed_only[each])
        for each in sorted(range(len(labels)), key=lambda number: -summed[number])
        if counted[each]
    ]
    return holders, owner


def _in_order(blocks: Blocks, labels: Blocks, ranks: Bytes, is_inside: Bytes) -> tuple[Blocks, Blocks]:
    """Roots by the rank of their label, pointers to a start before others; ranks are few, so that nothing is sorted."""
    rank_of = ranks[labels] << 1 | is_inside
    chosen = [np.flatnonzero(rank_of == rank).astype(np.uint32) for rank in range(256) if (rank_of == rank).any()]
    order = np.concatenate(chosen) if chosen else np.zeros(0, np.uint32)
    return blocks[order], labels[order]


def _sums(
    labels: np.ndarray[tuple[int], np.dtype[np.uint32]], sizes: np.ndarray[tuple[int], np.dtype[np.uint64]],
    wanted: np.ndarray[tuple[int], np.dtype[np.bool_]], n_labels: int,
) -> tuple[list[int], list[int]]:  # fmt: skip
    """Number and bytes of blocks by label."""
    chosen = labels[wanted]
    counts = np.bincount(chosen, minlength=n_labels)
    sums = np.zeros(max(n_labels, 1), np.uint64)
    np.add.at(sums, chosen, sizes[wanted])
    return counts.tolist(), sums.tolist()


def count_classes(
    scan: Scan, classes: Classes, helper: Helper, is_lost: np.ndarray[tuple[int], np.dtype[np.bool_]],
    deadline: float,
) -> list[ClassCensus]:  # fmt: skip
    """Objects by class, the largest by bytes first.

    Args:
        scan: Whose blocks they are.
        classes: Types of the blocks.
        helper: The inner loops.
        is_lost: Of each block, whether nothing points at it.
        deadline: By time.monotonic(); after it no retained bytes are computed.
    """
    sizes, of_blocks = scan.table.sizes, classes.of_blocks
    found = []
    everything = _reached_bytes(scan, helper, None)
    numbers = of_blocks[of_blocks >= 0].astype(np.uint32)
    counts, sums = _sums(numbers, sizes[of_blocks >= 0], np.ones(len(numbers), np.bool_), len(classes.names))
    lost = np.bincount(of_blocks[is_lost & (of_blocks >= 0)], minlength=len(classes.names)).tolist()
    for rank, number in enumerate(sorted(range(len(classes.names)), key=lambda each: -sums[each])):
        if not counts[number]:
            continue
        retained = None
        if rank < MAX_CLASSES and time.monotonic() < deadline:
            retained = everything - _reached_bytes(scan, helper, of_blocks == number)
        found.append(ClassCensus(classes.names[number], counts[number], sums[number], retained, lost[number]))
    return found


def _reached_bytes(scan: Scan, helper: Helper, without: np.ndarray[tuple[int], np.dtype[np.bool_]] | None) -> int:
    """Bytes that are reached when some blocks are not passed and not counted."""
    marks = np.zeros(max(len(scan.table), 1), np.uint8)
    if without is not None:
        marks[: len(without)][without] = 2
    helper.mark(scan.graph, scan.roots.blocks, marks)
    return int(scan.table.sizes[marks[: len(scan.table)] == 1].sum())
