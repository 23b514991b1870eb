"""The tree of a recording's call paths, from the frame that heads each path outwards to its root.

Sites are sorted by path, so that the sites below every node are one range. Nodes are made for ranges that hold or
allocate a share worth looking at; a chain of frames with the same sites is one node.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from nativeleak.analysis.curves import Floats, Ints, Ranges

Key = tuple[int, ...]

_MAX_NODES: Final = 4000


@dataclass(slots=True)
class Node:
    """Sites with the same beginning of their keys.

    Attributes:
        first: The first site of its range, in the order of the tree.
        stop: The end of its range.
        depth: Index of the element of the keys that sets it apart from its siblings.
        children: Ranges within it, apart from each other. Sites of too little weight are in none.
    """

    first: int
    stop: int
    depth: int
    number: int = 0
    children: list[Node] = field(default_factory=list)


class Tree:
    """Nodes over sites that are sorted by key.

    Attributes:
        order: Positions of the sites, sorted by key.
        keys: Keys in this order; the first element is the class of memory.
        nodes: All nodes, by number.
        roots: One node for each class of memory.
    """

    def __init__(self, positions: Ints, keys: Sequence[Key], weights: Floats) -> None:
        """Make the nodes.

        Args:
            positions: Positions of sites.
            keys: The key of each.
            weights: The weights of each, one column a kind of weight; each as a share of the least that counts.
        """
        by_key = sorted(range(len(keys)), key=keys.__getitem__)
        self.order: Ints = positions[np.array(by_key, dtype=np.int64)]
        self.keys = [keys[i] for i in by_key]
        self.nodes: list[Node] = []
        sums = np.concatenate((np.zeros((1, weights.shape[1])), np.cumsum(weights[by_key], axis=0)))
        self._sums = sums
        self.roots = [self._node(first, stop, 0) for first, stop in self._groups(0, len(keys), 0)]
        self._expand()

    def ranges(self) -> Ranges:
        """The ranges of all nodes, for curves."""
        first = np.array([node.first for node in self.nodes], dtype=np.int64)
        stop = np.array([node.stop for node in self.nodes], dtype=np.int64)
        return Ranges(self.order, first, stop)

    def positions(self, node: Node) -> Ints:
        """Positions of the sites of a node."""
        return self.order[node.first : node.stop]

    def prefix(self, node: Node) -> Key:
        """The beginning of the keys that all sites of a node share, up to the element that sets it apart."""
        return self.keys[node.first][: node.depth + 1]

    def _node(self, first: int, stop: int, depth: int) -> Node:
        node = Node(first, stop, depth, len(self.nodes))
        self.nodes.append(node)
        return node

    def _expand(self) -> None:
        waiting = list(self.roots)
        while waiting:
            deeper: list[Node] = []
            for node in waiting:
                if len(self.nodes) > _MAX_NODES:
                    return
                depth = self._branch(node.first, node.stop, node.depth + 1)
                for first, stop in self._groups(node.first, node.stop, depth):
                    if (self._sums[stop] - self._sums[first] >= 1).any():
                        node.children.append(self._node(first, stop, depth))
                deeper += node.children
            waiting = deeper

    def _branch(self, first: int, stop: int, depth: int) -> int:
        """The first depth at which the keys differ; the heads of paths are nodes even where there is only one."""
        low, high = self.keys[first], self.keys[stop - 1]
        end = min(len(low), len(high))
        if depth == 1:
            return depth
        while depth < end and low[depth] == high[depth]:
            depth += 1
        return depth

    def _groups(self, first: int, stop: int, depth: int) -> list[tuple[int, int]]:
        """Ranges with the same element at this depth; keys that end before are in none."""
        groups = []
        start, before = first, None
        for i in range(first, stop):
            key = self.keys[i]
            element = key[depth] if depth < len(key) else None
            if element != before:
                if before is not None:
                    groups.append((start, i))
                start, before = i, element
        if before is not None:
            groups.append((start, stop))
        return groups
