"""How objects are held: the best way from outside of the heap to each, along the references that were found.

Scope: computing. Ways are tried from the strongest to the weakest; among strong ones, those from static fields of the
program go first. Names of the ways are ``naming``'s.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterable
from enum import Enum
from typing import Final

import numpy as np

from nativeleak.arrays import distinct_in_place
from nativeleak.runtimes.hotspot.heap.classes import ClassTable
from nativeleak.runtimes.hotspot.heap.climb import Column, Edges
from nativeleak.runtimes.hotspot.heap.kinds import Kinds, Strength
from nativeleak.runtimes.hotspot.heap.pages import Addresses, Flags, Indices, Numbers
from nativeleak.runtimes.hotspot.heap.roots import HANDLE, STACK, STATIC, THREAD, Roots


class State(Enum):
    """How an object is held, from the strongest to the weakest."""

    STRONG = "strong"
    """A static field, a thread or native code reaches it."""
    OPEN = "not-followed"
    """Something refers to it that was not followed to its end."""
    SOFT = "soft"
    WEAK = "weak"
    CLEANER = "cleaner-only"
    """Only a Cleaner, a finalizer or a phantom reference: a collection that sees it frees its memory."""
    NONE = "no-referrer"
    """Nothing: garbage, and no cleaner that would free its memory."""
    MOVING = "young"
    """It is young and was moved or collected while it was looked for."""


ORDER: Final = tuple(State)
_OF_STRENGTH: Final = ((Strength.SOFT, State.SOFT), (Strength.WEAK, State.WEAK), (Strength.CLEANER, State.CLEANER))


class Graph:
    """The references that were found, and how each object is held.

    Args:
        edges: That were found.
        objects: That the ways are asked for, in order, each once.
        object_classes: Index of the class of each.
        unfollowed: Whose referrers were not all looked for.
        roots: Outside of the heap.
        classes: That are loaded.
        kinds: What is the program's own.

    Attributes:
        edges: As given.
        nodes: Addresses of all objects, in order; an object's place here is its number.
        classes: Index of the class of each, -1 where it is not known.
        labels: Index in the roots of what holds each directly, -1 for nothing.
        parents: Number of the object that refers, of each reference.
        via: Number of the reference by which the best way comes to each object, -1 where it begins there.
        order: Objects that have a way, each after the one that its way comes from.
        near_via: The same for the way from the nearest field of the program, among objects that are held strongly.
        near_order: Objects that have such a way.
    """

    def __init__(
        self,
        edges: Edges,
        objects: Addresses,
        object_classes: Numbers,
        unfollowed: Addresses,
        roots: Roots,
        classes: ClassTable,
        kinds: Kinds,
    ) -> None:
        self.edges = edges
        self._roots = roots
        self._class_table = classes
        self._kinds = kinds
        self.nodes: Addresses = distinct_in_place(np.concatenate([edges.parents, edges.children, objects, unfollowed]))
        self.parents: Column = np.searchsorted(self.nodes, edges.parents).astype(np.int32)
        self._children: Column = np.searchsorted(self.nodes, edges.children).astype(np.int32)
        self.classes: Column = np.full(len(self.nodes), -1, np.int32)
        self.classes[self.parents] = edges.classes
        self.classes[np.searchsorted(self.nodes, objects)] = object_classes
        self.labels: Column = roots.labels_of(self.nodes).astype(np.int32)
        self._make_lists()
        self.via: Column = np.full(len(self.nodes), -1, np.int32)
        self.near_via: Column = np.full(len(self.nodes), -1, np.int32)
        self._states = np.full(len(self.nodes), ORDER.index(State.NONE), np.int8)
        self.order = array("i")
        self.near_order = array("i")
        self._spread(unfollowed)
        self._spread_from_program()
        del self._children, self._first, self._edge, self._to, self._is_link  # half of what it takes

    def numbers(self, objects: Addresses) -> Indices:
        """Number of each object, -1 where it is not among them."""
        if not len(self.nodes):
            return np.full(len(objects), -1, np.int64)
        at = np.minimum(np.searchsorted(self.nodes, objects), len(self.nodes) - 1)
        return np.where(self.nodes[at] == objects, at, -1)

    def states(self, objects: Addresses) -> Indices:
        """How strongly each object is held, as a place in ``ORDER``."""
        none = ORDER.index(State.NONE)
        at = self.numbers(objects)
        return np.where(at >= 0, self._states[at], none).astype(np.int64) if len(self.nodes) else np.full(len(at), none)

    def _make_lists(self) -> None:
        """The strong references of each object, one after the other."""
        edges = self.edges
        chosen = np.flatnonzero(edges.strengths == Strength.STRONG)
        chosen = chosen[np.argsort(self.parents[chosen], kind="stable")]
        counts = np.bincount(self.parents[chosen], minlength=len(self.nodes))
        self._first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32).data
        self._edge = chosen.astype(np.int32).data
        self._to = self._children[chosen].data
        is_link = self.classes[self.parents[chosen]] == self.classes[self._children[chosen]]
        self._is_link = is_link.view(np.uint8).data

    def _spread(self, unfollowed: Addresses) -> None:
        """Give each object its state, from the strongest on."""
        done = np.zeros(len(self.nodes), np.bool_)
        is_mirror = np.zeros(len(self.nodes), np.bool_)
        is_mirror[self.parents[self.edges.classes == self._class_table.class_index]] = True
        for nodes in self._ranked():
            self._run(nodes, done, self.via, State.STRONG)
        self._run(np.flatnonzero(is_mirror), done, self.via, State.STRONG)
        self._run(np.searchsorted(self.nodes, unfollowed), done, self.via, State.OPEN)
        for strength, state in _OF_STRENGTH:
            at = np.flatnonzero((self.edges.strengths == strength) & ~done[self._children])
            nodes, first = np.unique(self._children[at], return_index=True)
            self.via[nodes] = at[first]
            self._run(nodes, done, self.via, state)

    def _ranked(self) -> Iterable[Indices]:
        """Objects that are held from outside, by what holds them: the program's static fields first, stacks last."""
        ranks = []
        for root in self._roots.roots:
            if root.kind == STATIC:
                ranks.append(0 if self._kinds.is_of_program(root.owner) else 3)
            else:
                ranks.append({THREAD: 1, HANDLE: 2, STACK: 4}[root.kind])
        rank_of = np.array([*ranks, -1], np.int64)[self.labels]
        return [np.flatnonzero(rank_of == rank) for rank in range(5)]

    def _spread_from_program(self) -> None:
        """The nearest field of the program above each object."""
        edges = self.edges
        program = np.array([self._kinds.is_of_program(index) for index in range(len(self._class_table))], np.bool_)
        is_held = self._states[self.parents] <= ORDER.index(State.OPEN)
        at = np.flatnonzero((edges.strengths == Strength.STRONG) & program[edges.classes] & is_held)
        nodes, first = np.unique(self._children[at], return_index=True)
        self.near_via[nodes] = at[first]
        statics = [root.kind == STATIC and bool(program[root.owner]) for root in self._roots.roots]
        direct = np.flatnonzero(np.array([*statics, False], np.bool_)[self.labels])
        self.near_via[direct] = -1
        done = np.zeros(len(self.nodes), np.bool_)
        # A link to another object of the same class is no ownership where there is another way: Netty's chunks are all
        # linked, so that one request would own them all.
        self._run(np.concatenate([direct, nodes]), done, self.near_via, None, passes_links=False)
        reached = np.frombuffer(self.near_order, np.int32).copy()
        done[:] = False
        self.near_order = array("i")
        self._run(reached, done, self.near_via, None)

    def _run(
        self, sources: Numbers, done: Flags, via: Column, state: State | None, *, passes_links: bool = True
    ) -> None:
        """Breadth-first along strong references from some objects to those that were not reached before."""
        queue: deque[int] = deque()
        number = ORDER.index(state) if state is not None else 0
        order = self.order if state is not None else self.near_order
        seen = done.view(np.uint8).data
        ways, states = via.data, self._states.data
        first, edge, to, is_link = self._first, self._edge, self._to, self._is_link
        for node in np.ascontiguousarray(sources).data:
            if not seen[node]:
                seen[node] = 1
                queue.append(node)
        while queue:
            node = queue.popleft()
            order.append(node)
            if state is not None:
                states[node] = number
            for place in range(first[node], first[node + 1]):
                child = to[place]
                if seen[child] or (is_link[place] and not passes_links):
                    continue
                seen[child] = 1
                ways[child] = edge[place]
                queue.append(child)
