"""How objects are held: the best way from outside of the heap to each, along the references that were found.

Scope: computing. Ways are tried from the strongest to the weakest; among strong ones, those from static fields of the
program go first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from enum import Enum
from typing import Final, NamedTuple

import numpy as np

from nativeleak.runtimes.hotspot.heap.classes import ClassTable
from nativeleak.runtimes.hotspot.heap.climb import Edges
from nativeleak.runtimes.hotspot.heap.kinds import Kinds, Strength
from nativeleak.runtimes.hotspot.heap.pages import Addresses, Flags, Indices
from nativeleak.runtimes.hotspot.heap.roots import HANDLE, STACK, STATIC, THREAD, Roots

MAX_STEPS: Final = 64


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


class Step(NamedTuple):
    """A reference on the way to an object.

    Attributes:
        parent: Address of the object that refers.
        index: Of its class.
        offset: Of the reference in it.
        child: Address of what it refers to.
    """

    parent: int
    index: int
    offset: int
    child: int


class Way(NamedTuple):
    """How one object is held.

    Attributes:
        state: How strongly.
        steps: From the object outwards.
        root: Index of the root at their end; -1 where a static field ends them, or none was reached.
        owner: Number of steps up to and with the first that is the program's own; 0 if there is none.
    """

    state: State
    steps: tuple[Step, ...]
    root: int
    owner: int


class Graph:
    """The references that were found, and how each object is held.

    Args:
        edges: That were found.
        objects: That the ways are asked for.
        unfollowed: Whose referrers were not all looked for.
        roots: Outside of the heap.
        classes: That are loaded.
        kinds: What is the program's own.
    """

    def __init__(
        self,
        edges: Edges,
        objects: Addresses,
        unfollowed: Addresses,
        roots: Roots,
        classes: ClassTable,
        kinds: Kinds,
    ) -> None:
        self._roots = roots
        self._classes = classes
        self._kinds = kinds
        self._nodes: Addresses = np.unique(np.concatenate([edges.parents, edges.children, objects, unfollowed]))
        parents = np.searchsorted(self._nodes, edges.parents)
        children = np.searchsorted(self._nodes, edges.children)
        self._edges = edges
        is_strong = edges.strengths == Strength.STRONG
        chosen = np.flatnonzero(is_strong)
        chosen = chosen[np.argsort(parents[chosen], kind="stable")]
        counts = np.bincount(parents[chosen], minlength=len(self._nodes))
        self._first = memoryview(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))
        self._edge = memoryview(chosen.astype(np.int64))
        self._to = memoryview(children[chosen].astype(np.int64))
        self._children = children
        self._parents = parents
        self._via = np.full(len(self._nodes), -1, np.int64)
        self._state = np.full(len(self._nodes), ORDER.index(State.NONE), np.int8)
        self._is_root = np.full(len(self._nodes), -1, np.int64)
        self._near_via = np.full(len(self._nodes), -1, np.int64)
        self._is_near = np.zeros(len(self._nodes), np.bool_)
        self._spread(unfollowed)
        self._spread_from_program()

    def way(self, address: int) -> Way:
        """How an object is held."""
        node = self._node(address)
        if node is None:
            return Way(State.NONE, (), -1, 0)
        state = ORDER[self._state[node]]
        steps: list[Step] = []
        owner = 0
        if self._is_near[node]:
            node = self._up(node, self._near_via, steps, to_program=True)
            owner = len(steps) if steps and self._kinds.is_of_program(steps[-1].index) else 0
        node = self._up(node, self._via, steps)
        if not owner:
            owner = next((at for at, step in enumerate(steps, 1) if self._kinds.is_of_program(step.index)), 0)
        return Way(state, tuple(steps), int(self._is_root[node]), owner)

    def parents_of(self, address: int) -> list[tuple[int, int, int]]:
        """(object, class, offset) of each reference to an object that was found, of any strength."""
        node = self._node(address)
        if node is None:
            return []
        at = np.flatnonzero(self._children == node)
        edges = self._edges
        return list(
            zip(edges.parents[at].tolist(), edges.classes[at].tolist(), edges.offsets[at].tolist(), strict=True)
        )

    def state(self, address: int) -> State:
        """How strongly an object is held."""
        node = self._node(address)
        return State.NONE if node is None else ORDER[self._state[node]]

    def _node(self, address: int) -> int | None:
        at = int(np.searchsorted(self._nodes, np.uint64(address)))
        return at if at < len(self._nodes) and int(self._nodes[at]) == address else None

    def _up(self, node: int, via: Indices, steps: list[Step], *, to_program: bool = False) -> int:
        """Append the steps from a node upwards; return the last node."""
        edges = self._edges
        while via[node] >= 0 and len(steps) < MAX_STEPS:
            at = int(via[node])
            steps.append(
                Step(int(edges.parents[at]), int(edges.classes[at]), int(edges.offsets[at]), int(edges.children[at]))
            )
            node = int(self._parents[at])
            if edges.strengths[at] != Strength.STRONG or (to_program and self._kinds.is_of_program(steps[-1].index)):
                break
        return node

    def _spread(self, unfollowed: Addresses) -> None:
        """Give each object its state, from the strongest on."""
        done = np.zeros(len(self._nodes), np.bool_)
        labels = self._roots.labels_of(self._nodes)
        # The mirrors' own edges have the name of the static field; what is held by one alone has its label.
        is_mirror = np.zeros(len(self._nodes), np.bool_)
        is_mirror[self._parents[self._edges.classes == self._classes.class_index]] = True
        for nodes in self._ranked(labels):
            self._is_root[nodes] = labels[nodes]
            self._run(nodes.tolist(), done, self._via, State.STRONG)
        self._run(np.flatnonzero(is_mirror & ~done).tolist(), done, self._via, State.STRONG)
        if len(unfollowed):
            self._run(np.searchsorted(self._nodes, unfollowed).tolist(), done, self._via, State.OPEN)
        for strength, state in _OF_STRENGTH:
            at = np.flatnonzero((self._edges.strengths == strength) & ~done[self._children])
            nodes, first = np.unique(self._children[at], return_index=True)
            self._via[nodes] = at[first]
            self._run(nodes.tolist(), done, self._via, state)

    def _ranked(self, labels: Indices) -> Iterable[Indices]:
        """Nodes that are held from outside, by what holds them: the program's static fields first, stacks last."""
        roots = self._roots.roots
        ranks = []
        for root in roots:
            if root.kind == STATIC:
                ranks.append(0 if self._kinds.is_of_program(root.owner) else 3)
            else:
                ranks.append({THREAD: 1, HANDLE: 2, STACK: 4}[root.kind])
        rank_of = np.array([*ranks, -1], np.int64)[labels]
        return [np.flatnonzero(rank_of == rank) for rank in range(5)]

    def _spread_from_program(self) -> None:
        """The nearest object of the program above each one."""
        strong = ORDER.index(State.STRONG)
        edges = self._edges
        program = np.array([self._kinds.is_of_program(index) for index in range(len(self._classes))], np.bool_)
        is_strong = edges.strengths == Strength.STRONG
        at = np.flatnonzero(is_strong & program[edges.classes] & (self._state[self._parents] <= strong + 1))
        done = np.zeros(len(self._nodes), np.bool_)
        nodes, first = np.unique(self._children[at], return_index=True)
        self._near_via[nodes] = at[first]
        sources = nodes.tolist()
        # Held by a static field of the program directly.
        labels = self._roots.labels_of(self._nodes)
        statics = np.array(
            [*(root.kind == STATIC and bool(program[root.owner]) for root in self._roots.roots), False], np.bool_
        )
        direct = np.flatnonzero(statics[labels])
        self._near_via[direct] = -1
        self._run(direct.tolist() + sources, done, self._near_via, None)
        self._is_near = done

    def _run(self, sources: list[int], done: Flags, via: Indices, state: State | None) -> None:
        """Breadth-first along strong references from some nodes to those that were not reached before."""
        queue: deque[int] = deque()
        number = ORDER.index(state) if state is not None else 0
        seen = memoryview(done.view(np.uint8))
        ways, states = memoryview(via), memoryview(self._state)
        first, edge, to = self._first, self._edge, self._to
        for node in sources:
            if not seen[node]:
                seen[node] = 1
                if state is not None:
                    states[node] = number
                queue.append(node)
        while queue:
            node = queue.popleft()
            for place in range(first[node], first[node + 1]):
                child = to[place]
                if seen[child]:
                    continue
                seen[child] = 1
                ways[child] = edge[place]
                if state is not None:
                    states[child] = number
                queue.append(child)
