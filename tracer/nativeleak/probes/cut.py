"""The cheapest set of places such that every way from an entry to an end passes exactly one of them.

That is a minimum cut of a directed graph with the additional rule that no way crosses it back. The rule is kept by an
unlimited arc against each arc (Picard 1976: closures and cuts); Dinic's algorithm does the rest.
"""

from __future__ import annotations

from collections import deque
from typing import Final

UNLIMITED: Final = 1 << 40
"""Cost of what may not be cut."""


class Cut:
    """A graph of which arcs are to be cut.

    Args:
        n_nodes: How many nodes; they are numbered from 0.
    """

    def __init__(self, n_nodes: int) -> None:
        self._arcs: list[list[int]] = [[] for _ in range(n_nodes)]
        self._heads: list[int] = []
        self._room: list[int] = []

    def add_arc(self, tail: int, head: int, cost: int) -> None:
        """A way from one node to another; a cost of ``UNLIMITED`` forbids to cut it."""
        for start, end, room in ((tail, head, cost), (head, tail, UNLIMITED)):
            self._arcs[start].append(len(self._heads))
            self._heads.append(end)
            self._room.append(room)

    def find(self, source: int, sink: int) -> set[int] | None:
        """The nodes on the source's side of the cheapest cut; None where there is none."""
        total = 0
        while True:
            levels = self._levels(source)
            if levels[sink] < 0:
                return {node for node, level in enumerate(levels) if level >= 0}
            places = [0] * len(self._arcs)
            while pushed := self._push(source, sink, levels, places):
                total += pushed
                if total >= UNLIMITED:
                    return None

    def _levels(self, source: int) -> list[int]:
        levels = [-1] * len(self._arcs)
        levels[source] = 0
        queue = deque([source])
        while queue:
            node = queue.popleft()
            for arc in self._arcs[node]:
                head = self._heads[arc]
                if self._room[arc] and levels[head] < 0:
                    levels[head] = levels[node] + 1
                    queue.append(head)
        return levels

    def _push(self, source: int, sink: int, levels: list[int], places: list[int]) -> int:
        """Send what one more way can take; 0 when none is left at these levels."""
        way: list[int] = []
        node = source
        while node != sink:
            arcs = self._arcs[node]
            while places[node] < len(arcs):
                arc = arcs[places[node]]
                if self._room[arc] and levels[self._heads[arc]] == levels[node] + 1:
                    break
                places[node] += 1
            if places[node] < len(arcs):
                way.append(arcs[places[node]])
                node = self._heads[way[-1]]
            elif way:
                node = self._heads[way.pop() ^ 1]
                places[node] += 1
            else:
                return 0
        amount = min(self._room[arc] for arc in way)
        for arc in way:
            self._room[arc] -= amount
            self._room[arc ^ 1] += amount
        return amount
