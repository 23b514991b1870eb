"""A map from address ranges to values: sorted, disjoint pieces, each with an access bit.

Scope: a pure data structure; the values have no meaning here. Every change is one ``splice``: it cuts a range out,
returns the pieces in it, and puts new pieces in its place.

Caveats: kept in chunks, because one flat list would move megabytes at each event of a program that leaks a million
small mappings. New mappings mostly come at the low end of those before them, where a list is slowest.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Final, Generic, TypeAlias, TypeVar

V = TypeVar("V")

Piece: TypeAlias = tuple[int, int, V, bool]
"""``(start, end, value, accessible)``, end not included. A plain tuple: made several times for each event."""

_CHUNK: Final = 512
"""Pieces in a new chunk; a chunk is divided when it has twice as many. Measured: 256 to 1,024 are equally fast."""


class IntervalMap(Generic[V]):
    """Disjoint pieces in order of address; equal neighbours (same value, same access) are one piece."""

    __slots__ = ("_firsts", "_pieces", "_starts")

    def __init__(self) -> None:
        self._firsts: list[int] = [0]  # start of the first piece of each chunk; meaningless for an only, empty chunk
        self._starts: list[list[int]] = [[]]
        self._pieces: list[list[Piece[V]]] = [[]]

    def __len__(self) -> int:
        return sum(map(len, self._starts))

    def __iter__(self) -> Iterator[Piece[V]]:
        """All pieces in order of address; the map must not change meanwhile."""
        return chain.from_iterable(self._pieces)

    @property
    def end(self) -> int:
        """The first address after the last piece; 0 for an empty map."""
        return self._pieces[-1][-1][1] if self._pieces[-1] else 0

    def clear(self) -> None:
        """Remove everything."""
        self._firsts, self._starts, self._pieces = [0], [[]], [[]]

    def overlapping(self, start: int, end: int) -> list[Piece[V]]:
        """Pieces inside ``[start, end)``, cut to it, in order of address."""
        found: list[Piece[V]] = []
        c = max(bisect_right(self._firsts, start) - 1, 0)
        i = max(bisect_right(self._starts[c], start) - 1, 0)
        while c < len(self._pieces):
            for piece in self._pieces[c][i:]:
                p_start, p_end, value, accessible = piece
                if p_start >= end:
                    return found
                if p_start < start or p_end > end:
                    piece = (max(p_start, start), min(p_end, end), value, accessible)
                if piece[0] < piece[1]:
                    found.append(piece)
            c, i = c + 1, 0
        return found

    def gaps(self, start: int, end: int) -> list[tuple[int, int]]:
        """The ranges inside ``[start, end)`` without a piece, in order of address."""
        found = []
        for p_start, p_end, _, _ in self.overlapping(start, end):
            if start < p_start:
                found.append((start, p_start))
            start = p_end
        if start < end:
            found.append((start, end))
        return found

    def splice(self, start: int, end: int, new: Sequence[Piece[V]] = ()) -> list[Piece[V]]:
        """Cut ``[start, end)`` out and put other pieces there.

        Args:
            start: First address of the range.
            end: First address after it.
            new: Pieces inside the range, disjoint, in order of address; gaps between them stay empty.

        Returns:
            The pieces that were in the range, cut to it, in order of address.
        """
        if start >= end:
            return []
        firsts = self._firsts
        # "Left of start", not "at start": the piece that ends where the range begins may have to be merged with.
        c = bisect_left(firsts, start) - 1
        if c < 0:
            c = 0
        if c + 1 < len(firsts) and firsts[c + 1] <= end:
            self._join(c, end)
        starts, pieces = self._starts[c], self._pieces[c]
        i = bisect_left(starts, start) - 1
        if i < 0 or pieces[i][1] < start:
            i += 1
        j = bisect_right(starts, end, i)
        left, removed, right = _divide(pieces[i:j], start, end)
        if not new and not removed:
            return removed
        kept = _merged(left, new, right)
        pieces[i:j] = kept
        starts[i:j] = [piece[0] for piece in kept]
        if i == 0 or len(starts) > 2 * _CHUNK:
            self._tidy(c)
        return removed

    def _join(self, c: int, end: int) -> None:
        """Make one chunk of chunk ``c`` and all after it that begin at ``end`` or before."""
        stop = bisect_right(self._firsts, end)
        self._starts[c:stop] = [list(chain.from_iterable(self._starts[c:stop]))]
        self._pieces[c:stop] = [list(chain.from_iterable(self._pieces[c:stop]))]
        del self._firsts[c + 1 : stop]

    def _tidy(self, c: int) -> None:
        """Restore the rules of chunks for chunk ``c``: not empty, not too long, its first start known."""
        starts, pieces = self._starts[c], self._pieces[c]
        if not starts:
            if len(self._firsts) > 1:
                del self._firsts[c], self._starts[c], self._pieces[c]
            return
        cuts = range(0, len(starts), _CHUNK) if len(starts) > 2 * _CHUNK else range(1)
        if len(cuts) == 1:
            self._firsts[c] = starts[0]
            return
        self._firsts[c : c + 1] = [starts[k] for k in cuts]
        self._starts[c : c + 1] = [starts[k : k + _CHUNK] for k in cuts]
        self._pieces[c : c + 1] = [pieces[k : k + _CHUNK] for k in cuts]


def stretched(pieces: Sequence[Piece[V]], start: int, end: int, value: V) -> list[Piece[V]]:
    """Pieces over all of ``[start, end)`` with the access of those given, each reaching back to the one before it."""
    found: list[Piece[V]] = []
    for _, p_end, _, accessible in pieces:
        found.append((start, p_end, value, accessible))
        start = p_end
    if start < end:
        found.append((start, end, value, found[-1][3] if found else True))
    return found


def _divide(old: list[Piece[V]], start: int, end: int) -> tuple[Piece[V] | None, list[Piece[V]], Piece[V] | None]:
    """What of ``old`` is left of the range, inside, and right of it; there is at most one piece at either side."""
    left: Piece[V] | None = None
    right: Piece[V] | None = None
    removed: list[Piece[V]] = []
    for piece in old:
        p_start, p_end, value, accessible = piece
        if p_start >= end:
            right = piece
        elif p_end <= start:
            left = piece
        elif p_start >= start and p_end <= end:
            removed.append(piece)
        else:
            if p_start < start:
                left = (p_start, start, value, accessible)
                p_start = start
            if p_end > end:
                right = (end, p_end, value, accessible)
                p_end = end
            removed.append((p_start, p_end, value, accessible))
    return left, removed, right


def _merged(left: Piece[V] | None, new: Sequence[Piece[V]], right: Piece[V] | None) -> list[Piece[V]]:
    """The pieces in order, equal neighbours merged."""
    kept = [] if left is None else [left]
    for piece in new:
        _append(kept, piece)
    if right is not None:
        _append(kept, right)
    return kept


def _append(kept: list[Piece[V]], piece: Piece[V]) -> None:
    if kept:
        start, end, value, accessible = kept[-1]
        if end == piece[0] and accessible is piece[3] and value == piece[2]:
            kept[-1] = (start, piece[1], value, accessible)
            return
    kept.append(piece)
