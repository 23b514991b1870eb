"""Rows of a whole object: the functions put in order, gaps between them filled, equal neighbours joined.

Scope: pure arithmetic on addresses. ``calls.py`` does the same but leaves out rows that no walk looks up.
"""

from __future__ import annotations

import array
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from operator import itemgetter

from nativeleak.unwind import rules
from nativeleak.unwind.cfa import Row
from nativeleak.unwind.eh_frame import Fde

Range = tuple[int, int]
"""(start, end) of addresses, end excluded."""

Piece = tuple[int, int, int, tuple[Row, ...]]
"""(start, end, base, rows): addresses for which the rows hold that are counted from base."""


class RowList:
    """Rows in ascending order: where each begins, and the rule from there to the next.

    Attributes:
        starts: Addresses, strictly ascending.
        words: The rule of each; two neighbours differ.
    """

    def __init__(self) -> None:
        self.starts = array.array("Q")
        self.words = array.array("Q")
        self.last = rules.NONE
        """Rule of the last row; NONE before the first row."""

    def __len__(self) -> int:
        return len(self.starts)

    def put(self, start: int, word: int) -> None:
        """Append a row unless it has the rule of the last one."""
        if word != self.last:
            self.starts.append(start)
            self.words.append(word)
            self.last = word


def arrange(fdes: Iterable[Fde], text: Sequence[Range]) -> list[Piece]:
    """The functions in ascending order, without overlap, cut to the text.

    Of two that overlap the later one counts, as in the binary search of every unwinder. The linker has removed
    functions at address 0.

    Args:
        fdes: The functions; an end at or before the start makes one vanish.
        text: Where code is, ascending and disjoint.
    """
    ordered = sorted([fde for fde in fdes if 0 < fde[0] < fde[1]], key=itemgetter(0))
    starts = [fde[0] for fde in ordered]
    pieces: list[Piece] = []
    for text_start, text_end in reversed(text):
        limit = text_end
        first, last = bisect_left(starts, text_start), bisect_left(starts, text_end)
        for start, end, rows in reversed(ordered[first:last]):
            if start < limit:
                pieces.append((start, end if end < limit else limit, start, rows))
                limit = start
    pieces.reverse()
    return pieces


def fill_gaps(pieces: Sequence[Piece], others: Iterable[Piece]) -> list[Piece]:
    """``pieces``, and the parts of ``others`` between them; arguments and result are ascending and disjoint."""
    merged: list[Piece] = []
    index = 0
    for start, end, base, rows in others:
        while start < end:
            while index < len(pieces) and pieces[index][1] <= start:
                merged.append(pieces[index])
                index += 1
            if index == len(pieces) or pieces[index][0] >= end:
                merged.append((start, end, base, rows))
                break
            if start < pieces[index][0]:
                merged.append((start, pieces[index][0], base, rows))
            start = pieces[index][1]
    merged.extend(pieces[index:])
    return merged


def full_rows(pieces: Iterable[Piece], text: Sequence[Range]) -> RowList:
    """Every row, for any address."""
    made = RowList()
    put = made.put
    reached = 0
    for start, end, base, rows in pieces:
        if start > reached:
            put(reached, rules.NONE)
        for row_start, row_end, word in rows:
            low = base + row_start
            if low >= end:
                break
            if low >= start:
                put(low, word)
            elif base + row_end > start:
                put(start, word)
        reached = end
    if text and reached < text[-1][1]:
        put(reached, rules.NONE)
    return made
