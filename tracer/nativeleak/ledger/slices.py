"""Birth slices of a site: outstanding memory by time of allocation, in at most 16 equal slices of the window.

The length of the window is unknown beforehand, so the width of the slices doubles when all are used (a *generation*).
The kernel never moves data: in generation g it adds to and subtracts from bank ``g & 1``, at the index of the birth
time under that generation's width. Each bank therefore holds sums of differences, which are folded here. Slices folded
before are merged in pairs; differences of the older bank, from programs that ran while the width changed, count for
their pair. Each generation must be read at least once after it began and before the next begins.
"""

from __future__ import annotations

import struct
from typing import Final

from nativeleak.model import N_SLICES

_N_BANKS: Final = 2
_BANKS: Final = struct.Struct(f"={_N_BANKS * N_SLICES * 2}q")
BANKS_BYTES: Final = _BANKS.size
_ZERO: Final = bytes(BANKS_BYTES)
_NOTHING: Final = (0, 0)
"""One object for all empty slices: most of a site's are, and each would take 56 bytes."""

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
    """Slices of one site, folded from the kernel's two banks."""

    __slots__ = ("_folded", "_seen", "generation")

    def __init__(self, generation: int) -> None:
        self.generation = generation
        self._folded = [0] * (2 * N_SLICES)  # bytes, count, bytes, count, ... oldest first
        self._seen = _ZERO

    def fold(self, banks: bytes, generation: int) -> None:
        """Fold the current contents of the banks.

        Args:
            banks: ``slices`` of ``struct nl_site``.
            generation: The kernel's current generation.
        """
        while self.generation < generation:
            self._merge_pairs()
        if banks == self._seen:
            return
        now, before, folded = _BANKS.unpack(banks), _BANKS.unpack(self._seen), self._folded
        current = generation & 1
        for bank in range(_N_BANKS):
            first = bank * 2 * N_SLICES
            for i in range(2 * N_SLICES):
                difference = now[first + i] - before[first + i]
                if difference:
                    index = i >> 1 if bank == current else i >> 2
                    folded[index << 1 | i & 1] += difference
        self._seen = banks

    def forget(self, generation: int) -> None:
        """Drop all memory folded so far, because it is no longer outstanding."""
        while self.generation < generation:
            self._merge_pairs()
        self._folded = [0] * (2 * N_SLICES)

    def _merge_pairs(self) -> None:
        old = self._folded
        merged = [old[4 * i + j] + old[4 * i + 2 + j] for i in range(N_SLICES // 2) for j in (0, 1)]
        self._folded = merged + [0] * N_SLICES
        self.generation += 1

    def values(self) -> tuple[tuple[int, int], ...]:
        """(bytes, count) by slice, oldest first. Never negative: the kernel changes its counters during the read."""
        clipped = [value if value > 0 else 0 for value in self._folded]
        pairs = zip(clipped[::2], clipped[1::2], strict=True)
        return tuple(pair if pair != _NOTHING else _NOTHING for pair in pairs)

    def oldest(self) -> int | None:
        """Index of the oldest slice with outstanding memory."""
        return next((i for i in range(N_SLICES) if self._folded[2 * i + 1] > 0), None)
