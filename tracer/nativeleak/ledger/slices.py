"""Birth slices of a site: outstanding memory by time of allocation, in at most 16 equal slices of the window.

The length of the window is unknown beforehand, so the width of the slices doubles when all are used (a *generation*).
The kernel never moves data: in generation g it adds to and subtracts from bank ``g & 1``, at the index of the birth
time under that generation's width. Each bank therefore holds sums of differences, which are folded here. Slices folded
before are merged in pairs; differences of the older bank, from programs that ran while the width changed, count for
their pair. Each generation must be read at least once after it began and before the next begins.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from nativeleak.model import N_SLICES

_N_BANKS: Final = 2
_BANKS: Final = struct.Struct(f"={_N_BANKS * N_SLICES * 2}q")
_SLICE: Final = struct.Struct("=qq")
BANKS_BYTES: Final = _BANKS.size
_NUL: Final = b"\0"
_WORD_BYTES: Final = 8
_SLICE_BYTES: Final = 2 * _WORD_BYTES
_NO_WORDS: Final = (0,) * (BANKS_BYTES // _WORD_BYTES)
_NOTHING: Final = (0, 0)
"""One object for all empty slices: most of a site's are, and each would take 56 bytes."""
_EMPTY: Final = (_NOTHING,) * N_SLICES

BORN_SHIFT: Final = 20
SLICE_SHIFT: Final = 10


def slice_seconds(generation: int) -> float:
    """Width of a slice, seconds: 2^30 ns doubled ``generation`` times."""
    return float((1 << (BORN_SHIFT + SLICE_SHIFT)) << generation) / 1e9


def generation_at(elapsed_s: float) -> int:
    """The generation in which a window of this length fits its 16 slices."""
    generation = 0
    while elapsed_s >= N_SLICES * slice_seconds(generation):
        generation += 1
    return generation


class SiteSlices:
    """Slices of one site, folded from the kernel's two banks.

    Most sites have blocks in few slices: zeros before the first and after the last word are not kept. A site of one
    slice takes 0.3 KiB, which would be 1.1 KiB with them.
    """

    __slots__ = ("_first", "_folded", "_seen", "_seen_from", "generation")

    def __init__(self, generation: int) -> None:
        self.generation = generation
        self._first = 0
        self._folded: tuple[int, ...] = ()  # bytes, count, bytes, count, ... oldest first, from slice ``_first`` on
        self._seen_from = BANKS_BYTES
        self._seen = b""

    def fold(self, banks: bytes, generation: int) -> bool:
        """Fold the current contents of the banks.

        Args:
            banks: ``slices`` of ``struct nl_site``.
            generation: The kernel's current generation.

        Returns:
            Whether any slice has changed.
        """
        has_merged = self.widen(generation)
        rest = banks.lstrip(_NUL)
        seen_from, seen = BANKS_BYTES - len(rest), rest.rstrip(_NUL)
        if seen_from == self._seen_from and seen == self._seen:
            return has_merged
        if not self._seen and not self._folded:
            first, last = seen_from // _SLICE_BYTES, (seen_from + len(seen) - 1) // _SLICE_BYTES
            if first == last and first // N_SLICES == generation & 1:  # a new site: nothing to subtract
                self._first = first % N_SLICES
                self._folded = _SLICE.unpack_from(banks, first * _SLICE_BYTES)
                self._seen_from, self._seen = seen_from, seen
                return True
        now, before = _BANKS.unpack(banks), self._words_seen()
        start = min(seen_from, self._seen_from) // _WORD_BYTES
        end = -(-max(seen_from + len(seen), self._seen_from + len(self._seen)) // _WORD_BYTES)
        self._add_differences(now, before, range(start, end), generation & 1)
        self._seen_from, self._seen = seen_from, seen
        return True

    def _words_seen(self) -> tuple[int, ...]:
        if not self._seen:
            return _NO_WORDS
        return _BANKS.unpack((bytes(self._seen_from) + self._seen).ljust(BANKS_BYTES, _NUL))

    def _add_differences(self, now: Sequence[int], before: Sequence[int], words: range, current: int) -> None:
        folded = self._dense()
        for word in words:
            difference = now[word] - before[word]
            if difference:
                i = word % (2 * N_SLICES)
                index = i >> 1 if word // (2 * N_SLICES) == current else i >> 2
                folded[index << 1 | i & 1] += difference
        self._keep(folded)

    def _dense(self) -> list[int]:
        folded = [0] * (2 * N_SLICES)
        start = 2 * self._first
        folded[start : start + len(self._folded)] = self._folded
        return folded

    def _keep(self, folded: Sequence[int]) -> None:
        """Keep slices without the empty ones at both ends."""
        used = [i for i, value in enumerate(folded) if value]
        if used:
            self._first = used[0] >> 1
            self._folded = tuple(folded[2 * self._first : (used[-1] | 1) + 1])
        else:
            self._first, self._folded = 0, ()

    def take_out(self, born: int, n_bytes: int, count: int, generation: int) -> None:
        """Subtract a block that is no longer outstanding.

        Args:
            born: When, in units of 2^20 ns.
        """
        while self.generation < generation:
            self._merge_pairs()
        folded = self._dense()
        index = min(N_SLICES - 1, born >> (SLICE_SHIFT + self.generation))
        folded[2 * index] -= n_bytes
        folded[2 * index + 1] -= count
        self._keep(folded)

    def widen(self, generation: int) -> bool:
        """Merge slices in pairs until they have a generation's width; returns whether that has changed any."""
        if self.generation >= generation:
            return False
        while self.generation < generation:
            self._merge_pairs()
        return bool(self._folded)

    def _merge_pairs(self) -> None:
        self.generation += 1
        if not self._folded:
            return
        if len(self._folded) == 2:
            self._first >>= 1
            return
        old = self._dense()
        self._keep([old[4 * i + j] + old[4 * i + 2 + j] for i in range(N_SLICES // 2) for j in (0, 1)])

    def values(self) -> tuple[tuple[int, int], ...]:
        """(bytes, count) by slice, oldest first. Never negative: the kernel changes its counters during the read."""
        if not self._folded:
            return _EMPTY
        if len(self._folded) == 2:
            return _one_slice(self._first, *self._folded)
        clipped = [value if value > 0 else 0 for value in self._folded]
        pairs = [pair if pair != _NOTHING else _NOTHING for pair in zip(clipped[::2], clipped[1::2], strict=True)]
        return (*_EMPTY[: self._first], *pairs, *_EMPTY[self._first + len(pairs) :])

    def oldest(self) -> int | None:
        """Index of the oldest slice with outstanding memory."""
        if len(self._folded) == 2:
            return self._first if self._folded[1] > 0 else None
        counts = self._folded[1::2]
        return next((self._first + i for i, count in enumerate(counts) if count > 0), None)


@lru_cache(maxsize=4096)
def _one_slice(index: int, n_bytes: int, count: int) -> tuple[tuple[int, int], ...]:
    """Slices of which only one is used; one object for all sites alike, which are many where there are many sites."""
    return (*_EMPTY[:index], (max(0, n_bytes), max(0, count)), *_EMPTY[index + 1 :])
