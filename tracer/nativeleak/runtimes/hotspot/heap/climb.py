"""Passes over a Java heap: the objects that hold native blocks, then upwards from them what refers to these.

Scope: reading. A pass looks for the referrers of all objects found so far that were not looked for yet; a referrer is
looked for in the rest of the same pass at once, so that a chain often takes one pass. Passes change direction.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from nativeleak.arrays import GrowingColumn, distinct, distinct_in_place, pick
from nativeleak.runtimes.hotspot.heap.budget import Budget
from nativeleak.runtimes.hotspot.heap.classes import ClassTable
from nativeleak.runtimes.hotspot.heap.kinds import Kinds, Strength
from nativeleak.runtimes.hotspot.heap.layout import Layout
from nativeleak.runtimes.hotspot.heap.matching import Blocks, Hits, Known, Targets
from nativeleak.runtimes.hotspot.heap.objects import ObjectFinder
from nativeleak.runtimes.hotspot.heap.pages import Addresses, Flags, HeapPages, Window
from nativeleak.runtimes.hotspot.heap.parts import Part
from nativeleak.runtimes.hotspot.heap.roots import Roots

_LOOKS_A_WINDOW: Final = 64
_FULL: Final = 0.8

Column: TypeAlias = npt.NDArray[np.int32]
Strengths: TypeAlias = npt.NDArray[np.int8]


@dataclass(slots=True)
class Holders:
    """Objects that hold native blocks: one row for each place that points into one, in the order of the objects.

    Attributes:
        objects: Address of the object.
        classes: Index of its class.
        offsets: Of the ``long`` in it.
        blocks: Index of the block.
        inside: The address is inside of the block, not at its start.
        followed: Addresses of the objects that are followed upwards, in order.
        likeness: Place in ``followed`` of the object whose referrers stand for those of this one: itself, unless only a
            sample was followed.
        n_rejected: Words that point into a block and are no ``long`` of an object.
    """

    objects: Addresses = field(default_factory=lambda: np.zeros(0, np.uint64))
    classes: Column = field(default_factory=lambda: np.zeros(0, np.int32))
    offsets: Column = field(default_factory=lambda: np.zeros(0, np.int32))
    blocks: Column = field(default_factory=lambda: np.zeros(0, np.int32))
    inside: Flags = field(default_factory=lambda: np.zeros(0, np.bool_))
    followed: Addresses = field(default_factory=lambda: np.zeros(0, np.uint64))
    likeness: Column = field(default_factory=lambda: np.zeros(0, np.int32))
    n_rejected: int = 0

    def keep(self, rows: Column) -> None:
        """Leave the other rows out; column by column, so that few are there twice."""
        for name in ("objects", "classes", "offsets", "blocks", "inside", "likeness"):
            setattr(self, name, pick(getattr(self, name), rows))


@dataclass(slots=True)
class Edges:
    """References that were found: one row each, each once.

    Attributes:
        parents: Address of the object that refers.
        classes: Index of its class.
        offsets: Of the reference in it.
        children: Address of the object that is referred to.
        strengths: ``Strength`` of each.
    """

    parents: Addresses = field(default_factory=lambda: np.zeros(0, np.uint64))
    classes: Column = field(default_factory=lambda: np.zeros(0, np.int32))
    offsets: Column = field(default_factory=lambda: np.zeros(0, np.int32))
    children: Addresses = field(default_factory=lambda: np.zeros(0, np.uint64))
    strengths: Strengths = field(default_factory=lambda: np.zeros(0, np.int8))


class Climber:
    """Makes the passes over one heap.

    Args:
        layout: How the heap is written.
        classes: That are loaded.
        kinds: What their fields are for.
        finder: Finds objects.
        pages: Of the process.
        parts: Of the heap that are in use, in address order.
        budget: What it may cost.

    Attributes:
        n_passes: Made so far.
        heap_bytes: Read in the largest pass.
        n_unresolved: References whose object was not found.
        cut_short: Which bound ended it early; None if none did.
    """

    def __init__(
        self,
        layout: Layout,
        classes: ClassTable,
        kinds: Kinds,
        finder: ObjectFinder,
        pages: HeapPages,
        parts: list[Part],
        budget: Budget,
    ) -> None:
        self._layout = layout
        self._classes = classes
        self._kinds = kinds
        self._finder = finder
        self._pages = pages
        self._ranges = _merged(parts)
        self._budget = budget
        self._edges: list[tuple[Addresses, Column, Column, Addresses, Strengths]] = []
        self._n_edges = 0
        self._known = Known()
        self._n_followed = np.zeros(len(classes), np.int64)
        self._crowd: list[Addresses] = []
        self.n_passes = 0
        self.heap_bytes = 0
        self.n_unresolved = 0
        self.cut_short: str | None = None

    def holders(self, blocks: Blocks) -> Holders:
        """The first pass: objects with a ``long`` that points into a native block."""
        objects_, classes_, offsets_ = GrowingColumn(np.uint64), GrowingColumn(np.int32), GrowingColumn(np.int32)
        blocks_, inside_ = GrowingColumn(np.int32), GrowingColumn(np.bool_)
        found = Holders()
        for window in self._windows():
            hits = blocks.hits(window)
            owners = self._finder.owners(window, hits.places, self._kinds.hold_addresses)
            is_one = owners.classes >= 0
            found.n_rejected += int((~is_one).sum())
            objects, index = owners.objects[is_one], hits.found[is_one].astype(np.int64)
            objects_.add(objects)
            classes_.add(owners.classes[is_one])
            offsets_.add(hits.places[is_one] - (objects.astype(np.int64) - window.start))
            blocks_.add(index)
            inside_.add(window.words[hits.places[is_one] // 8] != blocks.starts[index])
        found.objects, found.classes, found.offsets = objects_.take(), classes_.take(), offsets_.take()
        found.blocks, found.inside = blocks_.take(), inside_.take()
        _sort(found)
        return found

    def climb(self, start: Addresses, roots: Roots, n_passes: int) -> Addresses:
        """The other passes: what refers to objects, up to what is held from outside of the heap.

        Args:
            start: The objects.
            roots: Nothing above an object that they hold is looked for.
            n_passes: Made in all at most, those before among them.

        Returns:
            Objects whose referrers were not all looked for.
        """
        self._known.new_of(start)
        self._crowd.clear()
        frontier = self._above(distinct(start), roots)
        while len(frontier) and self.cut_short is None and self.n_passes < n_passes:
            targets, found = Targets(self._layout, frontier), []
            for window in self._windows(is_downward=self.n_passes % 2 == 1):
                found += self._look(window, targets, roots)
                if self.cut_short is not None:
                    break
            new = np.concatenate(found) if found else np.zeros(0, np.uint64)
            frontier = new if self.cut_short is None else np.concatenate([frontier, new])
        return distinct_in_place(np.concatenate([frontier, *self._crowd]))

    def renew(self, finder: ObjectFinder, parts: list[Part]) -> None:
        """Go on in the heap as it is by now."""
        self._finder = finder
        self._ranges = _merged(parts)

    def edges(self) -> Edges:
        """All references that were found."""
        self._put_in_order()
        if not self._edges:
            return Edges()
        return Edges(*self._edges[0])

    def _put_in_order(self) -> None:
        """Join what was found; each reference stays once."""
        if not self._edges:
            return
        columns = [np.concatenate(parts) for parts in zip(*self._edges, strict=True)]
        self._edges.clear()
        parents, classes, offsets, children, strengths = columns
        order = np.lexsort((children, offsets, parents))
        is_new = np.ones(len(order), np.bool_)
        for position, column in enumerate((parents, offsets, children)):
            change = np.diff(column[order]) != 0
            is_new[1:] = change if not position else is_new[1:] | change
        order = order[is_new]
        self._edges.append((parents[order], classes[order], offsets[order], children[order], strengths[order]))
        self._n_edges = len(order)

    def _windows(self, *, is_downward: bool = False) -> Iterator[Window]:
        before = self._pages.n_bytes
        self.n_passes += 1
        for window in self._pages.windows(self._ranges, is_downward=is_downward):
            yield window
            self.cut_short = self.cut_short or self._budget.spent(self._pages.n_bytes)
            if self.cut_short is not None:
                break
        self.heap_bytes = max(self.heap_bytes, self._pages.n_bytes - before)

    def _look(self, window: Window, targets: Targets, roots: Roots) -> list[Addresses]:
        """Referrers in a window; those found are looked for in the window again, a few times."""
        found = []
        at = targets
        for _ in range(_LOOKS_A_WINDOW):
            new = self._referrers(window, at.hits(window), roots)
            if not len(new):
                break
            found.append(new)
            targets.add(new)
            at = Targets(self._layout, new)
        return found

    def _referrers(self, window: Window, hits: Hits, roots: Roots) -> Addresses:
        """Note the references; return the objects above which more is to be looked for."""
        owners = self._finder.owners(window, hits.places, self._kinds.hold_references)
        is_one = owners.classes >= 0
        self.n_unresolved += int((~is_one).sum())
        parents, classes = owners.objects[is_one], owners.classes[is_one]
        children: Addresses = hits.found[is_one].astype(np.uint64)
        offsets = hits.places[is_one] - (parents.astype(np.int64) - window.start)
        strengths = self._kinds.strengths(classes, offsets)
        keep = (strengths < Strength.NONE) & (parents != children)
        parents, classes, offsets = parents[keep], classes[keep], offsets[keep]
        children, strengths = children[keep], strengths[keep]
        if not len(parents):
            return np.zeros(0, np.uint64)
        small = classes.astype(np.int32), offsets.astype(np.int32), strengths.astype(np.int8)
        self._edges.append((parents, small[0], small[1], children, small[2]))
        self._n_edges += len(parents)
        if self._n_edges > self._budget.n_edges:
            self._put_in_order()
            # With little room left the same would happen again with nearly each window.
            if self._n_edges > _FULL * self._budget.n_edges:
                self.cut_short = f"{self._n_edges:,} references were followed"
        is_above = (strengths == Strength.STRONG) & (classes != self._classes.class_index)
        is_crowd = self._n_followed[classes] >= self._budget.n_of_class
        if (is_above & is_crowd).any():
            self._crowd.append(distinct_in_place(parents[is_above & is_crowd]))
        is_above &= ~is_crowd
        new = self._known.new_of(parents[is_above])
        if len(new):
            is_new = is_above & np.isin(parents, new)
            _, first = np.unique(parents[is_new], return_index=True)
            self._n_followed += np.bincount(classes[is_new][first], minlength=len(self._n_followed))
        if len(self._known) > self._budget.n_objects:
            self.cut_short = f"{self._budget.n_objects:,} objects were followed"
        return self._above(new, roots)

    @staticmethod
    def _above(objects: Addresses, roots: Roots) -> Addresses:
        """Those that nothing outside of the heap is known to hold; a word of a stack may be left over."""
        is_end = roots.are_ends(objects)
        return np.compress(~is_end, objects)


def _sort(found: Holders) -> None:
    """Put rows in the order of their objects; windows and places are, so that few heaps need it."""
    if (found.objects[1:] >= found.objects[:-1]).all():
        return
    order = np.argsort(found.objects, kind="stable")
    found.objects, found.classes = found.objects[order], found.classes[order]
    found.offsets, found.blocks, found.inside = found.offsets[order], found.blocks[order], found.inside[order]


def _merged(parts: list[Part]) -> list[tuple[int, int]]:
    """The ranges in use; neighbours are joined."""
    ranges: list[tuple[int, int]] = []
    for part in parts:
        if part.top <= part.start:
            continue
        if ranges and ranges[-1][1] == part.start:
            ranges[-1] = ranges[-1][0], part.top
        else:
            ranges.append((part.start, part.top))
    return ranges
