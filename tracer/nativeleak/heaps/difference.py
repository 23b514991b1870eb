"""Differences between walks of a heap: which sizes of blocks grow, and by how many, with no probe.

Scope: counting. The verdict on a course is made elsewhere (``analysis.growth``); here are its numbers, bounded in
memory however long it goes on.

Shapes, for whoever joins them with births or with a trace:

- ``Sizes``: kind of allocator -> Counter of blocks in use by size with the allocator's header. ``sizes_of`` makes it.
- ``difference(before, after)``: one ``ClassChange`` a size class that changed; the changes of all classes add up to the
  change of all blocks. What one call site adds in a class cannot exceed the class's change, but for what it freed.
- ``SizeCourse``: many walks; ``rows()`` gives one ``ClassCourse`` a class with its number at each moment.

With glibc a class is joined with the next one, 16 bytes larger: a rest of less than 32 bytes stays with its block, and
call sites exchange such chunks. In a program with four leaks the joined classes were within 1 % of what it leaked, and
the larger halves alone were not.

Caveat: one moment's count holds what is in use just then. A cache that fills looks like a leak.

Source: arena.md, 3.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

import numpy as np

from nativeleak.heaps.census import HeapWalk
from nativeleak.heaps.memory import Places
from nativeleak.process.procfs import PAGE_BYTES

Sizes: TypeAlias = Mapping[str, Counter[int]]

MIN_WALKED: Final = 0.95
"""Less of a heap read is no census: its numbers are not compared."""

_GLIBC: Final = "glibc"
_STEP: Final = 16
_HEADER: Final = 8
_LEAST_CHUNK: Final = 32
_MIN_MAPPED: Final = 128 << 10  # M_MMAP_THRESHOLD
_MAX_CLASSES: Final = 4096
_MAX_MOMENTS: Final = 48


class BlockSize(NamedTuple):
    """Blocks of one size.

    Attributes:
        kind: Of the allocator: ``glibc``, ``musl``, ``jemalloc``.
        n_bytes: With the allocator's header.
    """

    kind: str
    n_bytes: int


@dataclass(frozen=True, slots=True)
class ClassChange:
    """One size class between two walks.

    Attributes:
        kind: Of the allocator.
        sizes: Sizes of its blocks with header; two where neighbours are joined.
        n_before: Blocks in use in the first walk.
        n_after: Blocks in use in the second.
        bytes_change: Bytes of them added, headers too.
    """

    kind: str
    sizes: tuple[int, ...]
    n_before: int
    n_after: int
    bytes_change: int

    @property
    def n_change(self) -> int:
        """Blocks added; negative where they became fewer."""
        return self.n_after - self.n_before


@dataclass(frozen=True, slots=True)
class ClassCourse:
    """One size class over many walks.

    Attributes:
        kind: Of the allocator.
        sizes: Sizes of its blocks with header; two where neighbours are joined.
        n_blocks: Blocks in use at each moment.
        n_bytes: Bytes of them at each moment.
    """

    kind: str
    sizes: tuple[int, ...]
    n_blocks: Places
    n_bytes: Places


def sizes_of(walks: Iterable[HeapWalk]) -> dict[str, Counter[int]]:
    """Blocks in use by allocator and size."""
    found: dict[str, Counter[int]] = {}
    for walk in walks:
        found.setdefault(walk.kind, Counter()).update(walk.sizes)
    return found


def is_census(walks: Sequence[HeapWalk]) -> bool:
    """Whether so much of each heap was read that its numbers can be compared."""
    return bool(walks) and all(walk.walked_share >= MIN_WALKED for walk in walks)


def difference(before: Sizes, after: Sizes) -> list[ClassChange]:
    """Size classes that changed, the most bytes added first."""
    sizes = sorted({BlockSize(kind, size) for walk in (before, after) for kind, each in walk.items() for size in each})
    first = np.array([_count(before, size) for size in sizes], np.int64)
    last = np.array([_count(after, size) for size in sizes], np.int64)
    changes = []
    for places in joined(sizes, last - first):
        n_bytes = np.array([sizes[place].n_bytes for place in places], np.int64)
        n_before, n_after = first[list(places)], last[list(places)]
        if (n_before != n_after).any():
            changes.append(
                ClassChange(
                    sizes[places[0]].kind, tuple(n_bytes.tolist()), int(n_before.sum()), int(n_after.sum()),
                    int(((n_after - n_before) * n_bytes).sum()),
                )
            )  # fmt: skip
    return sorted(changes, key=lambda change: -change.bytes_change)


def joined(sizes: Sequence[BlockSize], changes: Places) -> list[tuple[int, ...]]:
    """Places of the sizes of each class: of glibc's a size with the next one, that which changed more taking the other.

    Args:
        sizes: In order.
        changes: Blocks added of each.
    """
    place_of = {size: place for place, size in enumerate(sizes)}
    taken = np.zeros(len(sizes), np.bool_)
    classes = []
    for place in np.argsort(-np.abs(changes), kind="stable").tolist():
        if taken[place]:
            continue
        size = sizes[place]
        members = [place]
        following = place_of.get(BlockSize(size.kind, size.n_bytes + _STEP))
        if size.kind == _GLIBC and size.n_bytes < _MIN_MAPPED and following is not None and not taken[following]:
            members.append(following)
        taken[members] = True
        classes.append(tuple(members))
    return classes


def requests_of(kind: str, sizes: Sequence[int]) -> tuple[int, int] | None:
    """Least and most bytes that a program asks for to get blocks of these sizes; None where it is not known.

    Args:
        kind: Of the allocator.
        sizes: Of one class, in order.
    """
    low, high = sizes[0], sizes[-1]
    if kind != _GLIBC:
        return None
    if low >= _MIN_MAPPED and low % PAGE_BYTES == 0:
        return low - 2 * _HEADER - PAGE_BYTES + 1, high - _HEADER
    return (1 if low <= _LEAST_CHUNK else low - _STEP - _HEADER + 1), high - _HEADER


class SizeCourse:
    """Blocks in use by size at moments of a watch, in bounded memory.

    When there are 48 moments every second one is dropped, and from then on only every second one is kept, and so on.
    The newest is always there. Of more than 4,096 sizes those that come last are counted together.

    Attributes:
        n_skipped: Walks that read too little of a heap to be compared.
        n_beyond: Blocks of the newest walk whose sizes are not kept apart.
    """

    def __init__(self) -> None:
        self.n_skipped = 0
        self.n_beyond = 0
        self._place: dict[BlockSize, int] = {}
        self._times: list[float] = []
        self._counts: list[Places] = []
        self._stride = 1
        self._n_seen = 0
        self._newest: tuple[float, Places] | None = None

    def add(self, elapsed_s: float, walks: Sequence[HeapWalk]) -> None:
        """Take a reading of all allocators of the process.

        Args:
            elapsed_s: When, later than the one before.
            walks: Of all its allocators; a reading without any is not counted.
        """
        if not walks:
            return
        if not is_census(walks):
            self.n_skipped += 1
            return
        counts = self._counted(sizes_of(walks))
        self._newest = elapsed_s, counts
        if self._n_seen % self._stride == 0:
            self._times.append(elapsed_s)
            self._counts.append(counts)
            if len(self._times) > _MAX_MOMENTS:
                del self._times[1::2], self._counts[1::2]
                self._stride *= 2
        self._n_seen += 1

    @property
    def elapsed_s(self) -> list[float]:
        """The moments that are kept, the newest among them."""
        newest = [] if self._newest is None or self._newest[0] in self._times[-1:] else [self._newest[0]]
        return [*self._times, *newest]

    def rows(self, n_most: int) -> list[ClassCourse]:
        """The classes that gained most bytes from the first to the newest moment.

        Args:
            n_most: At most so many.
        """
        moments = list(self._counts)
        if self._newest is not None and self._newest[0] not in self._times[-1:]:
            moments.append(self._newest[1])
        if len(moments) < 2:
            return []
        counts = np.zeros((len(self._place), len(moments)), np.int64)
        for column, each in enumerate(moments):
            counts[: len(each), column] = each
        sizes = sorted(self._place)
        counts = counts[[self._place[size] for size in sizes]]
        rows = []
        for places in joined(sizes, counts[:, -1] - counts[:, 0]):
            n_bytes = np.array([sizes[place].n_bytes for place in places], np.int64)
            mine = counts[list(places)]
            rows.append(
                ClassCourse(
                    sizes[places[0]].kind,
                    tuple(n_bytes.tolist()),
                    mine.sum(axis=0),
                    (mine * n_bytes[:, None]).sum(axis=0),
                )
            )
        rows = [row for row in rows if row.n_bytes[-1] > row.n_bytes[0]]
        rows.sort(key=lambda row: int(row.n_bytes[0] - row.n_bytes[-1]))
        return rows[:n_most]

    def _counted(self, sizes: Sizes) -> Places:
        """Numbers by place; a size that has none yet gets one where there is room, the most bytes first."""
        new = [BlockSize(kind, size) for kind, each in sizes.items() for size in each]
        new = [size for size in new if size not in self._place]
        new.sort(key=lambda size: -size.n_bytes * sizes[size.kind][size.n_bytes])
        for size in new[: _MAX_CLASSES - len(self._place)]:
            self._place[size] = len(self._place)
        self.n_beyond = sum(sizes[size.kind][size.n_bytes] for size in new if size not in self._place)
        counts = np.zeros(len(self._place), np.int64)
        for size, place in self._place.items():
            counts[place] = _count(sizes, size)
        return counts


def _count(sizes: Sizes, size: BlockSize) -> int:
    of_kind = sizes.get(size.kind)
    return of_kind[size.n_bytes] if of_kind is not None else 0
