"""Lost blocks: those in use that nothing in the process points at, in every scan.

Scope: what several scans agree on. A block that is lost stays lost, so that motion does not matter: a pointer that one
scan missed is seen by another one. A block that is written or freed meanwhile was not lost: it is refuted.

A block that is freed and allocated again all the time is the hard case. A walk finds it in use; by the time of the scan
it is free, and nothing points at it; at the next walk it is in use again, with the same size and contents. Four scans
called one such block of 20,000 lost in 5 of 30 looks at a program beside two busy processes. So contents are read
between scans too, and scans go on until one takes nothing back.

Grades: ``lost``: no word of the process points into the block. ``leftover``: only words do that have the form of links
of free lists, which a block keeps that was never initialised. ``hidden``: other words fit it that are no pointers:
compressed to 32 bits, or the next of a list whose links are XORed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from nativeleak.heaps.memory import Flags, Places, Words
from nativeleak.holders.helper import Helper
from nativeleak.holders.scan import Scan
from nativeleak.holders.table import LINK, BlockTable, Bytes
from nativeleak.holders.windows import Reader

LOST, LEFT_OVER, HIDDEN = "lost", "leftover", "hidden"
CONTENT_WORDS: Final = 8
_FACTORS: Final = np.array([0x9E3779B97F4A7C15 * (2 * n + 1) % (1 << 64) | 1 for n in range(CONTENT_WORDS)], np.uint64)
_MIN_BLOCKS_SHARE: Final = 0.8
_PART: Final = 1 << 16


@dataclass(slots=True)
class Reached:
    """What one scan reached.

    Attributes:
        marks: 1 for each block that some pointer reaches.
        strong: 1 for each block that is reached without leftovers of free lists.
    """

    marks: Bytes
    strong: Bytes


def reach(scan: Scan, helper: Helper) -> Reached:
    """Mark all blocks that are reached from outside of the allocators."""
    roots = scan.roots.blocks
    strong = np.zeros(max(len(scan.table), 1), np.uint8)
    helper.mark(scan.graph, roots[scan.roots.flags & LINK == 0], strong, follows_leftovers=False)
    marks = np.zeros(max(len(scan.table), 1), np.uint8)
    helper.mark(scan.graph, roots, marks)
    return Reached(marks, strong)


@dataclass(slots=True)
class Candidates:
    """Blocks that no scan so far reached.

    Attributes:
        starts: Addresses in ascending order.
        ends: First addresses behind them.
        is_leftover: In some scan, leftovers of free lists pointed at it.
        contents: A number for the first words of each in the first scan.
        n_first: How many there were after the first scan.
        n_scans: Scans that agreed.
        n_reached: Blocks that a later scan reached.
        refuted: Blocks that were written to, by size.
        n_freed: Blocks that were freed since the first scan.
    """

    starts: Words
    ends: Words
    is_leftover: Flags
    contents: Words
    n_first: int
    n_scans: int = 1
    n_reached: int = 0
    refuted: dict[int, int] = field(default_factory=dict)
    n_freed: int = 0

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def sizes(self) -> Words:
        """Bytes of each as the allocator counts them."""
        return self.ends - self.starts

    @property
    def n_taken_back(self) -> int:
        """Blocks that the first scan did not reach and that were not lost."""
        return self.n_reached + self.n_freed + sum(self.refuted.values())

    def keep(self, wanted: Flags) -> None:
        """Leave the others out."""
        self.starts, self.ends = self.starts[wanted], self.ends[wanted]
        self.is_leftover, self.contents = self.is_leftover[wanted], self.contents[wanted]


def first_candidates(scan: Scan, reached: Reached, reader: Reader) -> Candidates:
    """What the first scan did not reach, with the contents of each."""
    is_lost = reached.strong[: len(scan.table)] == 0
    starts, ends = scan.table.starts[is_lost], scan.table.ends[is_lost]
    is_leftover = reached.marks[: len(scan.table)][is_lost] == 1
    return Candidates(starts, ends, is_leftover, read_contents(reader, starts, ends), int(is_lost.sum()))


def narrow(candidates: Candidates, scan: Scan, reached: Reached) -> None:
    """Leave out what another scan reached, or did not find: that was freed."""
    index, is_there = _find(candidates, scan.table)
    candidates.n_freed += int((~is_there).sum())
    clipped = np.clip(index, 0, None)
    still = is_there & (reached.strong[clipped] == 0)
    candidates.n_reached += int((is_there & ~still).sum())
    candidates.is_leftover |= reached.marks[clipped] == 1
    candidates.keep(still)
    candidates.n_scans += 1


def keep_what_is_in_use(candidates: Candidates, table: BlockTable) -> None:
    """Leave out what another walk did not find: that was freed."""
    _, is_there = _find(candidates, table)
    candidates.n_freed += int((~is_there).sum())
    candidates.keep(is_there)


def _find(candidates: Candidates, table: BlockTable) -> tuple[Places, Flags]:
    """Place of each candidate in a table, and whether the very block is there."""
    index = table.look(candidates.starts)
    if not len(table):
        return index, np.zeros(len(index), np.bool_)
    clipped = np.clip(index, 0, None)
    is_same = (table.starts[clipped] == candidates.starts) & (table.ends[clipped] == candidates.ends)
    return index, np.asarray((index >= 0) & is_same, np.bool_)


def refute(candidates: Candidates, reader: Reader) -> None:
    """Leave out what was written to since the first scan."""
    now = read_contents(reader, candidates.starts, candidates.ends)
    is_written = now != candidates.contents
    values, counts = np.unique(candidates.sizes[is_written], return_counts=True)
    for size, count in zip(values.tolist(), counts.tolist(), strict=True):
        candidates.refuted[size] = candidates.refuted.get(size, 0) + count
    candidates.keep(~is_written)


def read_contents(reader: Reader, starts: Words, ends: Words) -> Words:
    """A number for the first 64 bytes of each block, so far as they are its own."""
    numbers = np.zeros(len(starts), np.uint64)
    for low in range(0, len(starts), _PART):
        part = slice(low, low + _PART)
        words = reader.words(starts[part] & np.uint64(~7 & (1 << 64) - 1), CONTENT_WORDS)
        # The last word of a block of glibc lies in the next one's header, whose size field follows it.
        n_words = np.minimum((ends[part] - starts[part]).astype(np.int64) // 8 - 1, CONTENT_WORDS)
        words[np.arange(CONTENT_WORDS) >= n_words[:, None]] = 0
        numbers[part] = (words * _FACTORS).sum(axis=1)
    return numbers


def has_lost_blocks(before: int, now: int) -> bool:
    """Whether a walk found so much less than the one before that it is to be done again."""
    return now < _MIN_BLOCKS_SHARE * before
