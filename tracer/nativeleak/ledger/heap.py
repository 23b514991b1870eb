"""Heap totals per site, from the kernel's maps to snapshots.

Sites whose thread has ended and that have nothing outstanding are retired: their totals move into one sum, which frees
their entries in the kernel's map.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from nativeleak.ledger.slices import SiteSlices, slice_seconds
from nativeleak.model import Kind, Owner, SiteKey, SiteTotals

_HEAD: Final = struct.Struct("=QQQQII")


class SiteLabel(NamedTuple):
    """Facts from the names on a stack: the allocator function and the owner."""

    functions: tuple[str, ...]
    owner: Owner


@dataclass(slots=True)
class _SiteState:
    slices: SiteSlices
    totals: tuple[int, int, int, int] = (0, 0, 0, 0)
    written_off: tuple[int, int] = (0, 0)


@dataclass(slots=True)
class HeapLedger:
    """Totals of all heap sites of a trace."""

    _sites: dict[SiteKey, _SiteState] = field(default_factory=dict)
    _retired: dict[int, list[int]] = field(default_factory=dict)
    written_off: tuple[int, int] = (0, 0)
    """Bytes and count that ``write_off`` has taken out of what is outstanding."""

    def read(self, raw_sites: Iterable[tuple[int, int, int, bytes]], generation: int) -> None:
        """Read the kernel's totals: (slot, thread, stack, value) for each site."""
        for slot, thread, stack, value in raw_sites:
            key = SiteKey(Kind.HEAP, slot, thread, stack)
            freed_bytes, freed_count, allocated_bytes, allocated_count, _, _ = _HEAD.unpack_from(value)
            if not allocated_count:
                continue
            state = self._sites.get(key)
            if state is None:
                state = self._sites[key] = _SiteState(SiteSlices(generation))
            state.slices.fold(value[_HEAD.size :], generation)
            off_bytes, off_count = state.written_off
            state.totals = (allocated_bytes, allocated_count, freed_bytes + off_bytes, freed_count + off_count)

    def snapshot(
        self,
        elapsed_s: float,
        generation: int,
        label: Callable[[int], SiteLabel],
        oldest_born_s: Mapping[SiteKey, float] | None = None,
    ) -> list[SiteTotals]:
        """All sites as they are now.

        Args:
            label: Facts from the names on a stack, by stack key.
            oldest_born_s: Exact birth times (seconds since the start) of the oldest outstanding blocks, if the live
                set was read; else an age is at most the width of a birth slice too high.
        """
        return [
            self._totals(key, state, elapsed_s, generation, label, oldest_born_s) for key, state in self._sites.items()
        ]

    @staticmethod
    def _totals(
        key: SiteKey,
        state: _SiteState,
        elapsed_s: float,
        generation: int,
        label: Callable[[int], SiteLabel],
        oldest_born_s: Mapping[SiteKey, float] | None,
    ) -> SiteTotals:
        functions, owner = label(key.stack_key)
        oldest_s: float | None = None
        if state.totals[1] > state.totals[3]:
            if oldest_born_s is not None and key in oldest_born_s:
                oldest_s = elapsed_s - oldest_born_s[key]
            elif (index := state.slices.oldest()) is not None:
                oldest_s = elapsed_s - index * slice_seconds(generation)
        return SiteTotals(
            key,
            *state.totals,
            oldest_s=None if oldest_s is None else max(0.0, round(oldest_s, 3)),
            slices=state.slices.values(),
            owner=owner,
            functions=functions,
        )

    def write_off(self, generation: int) -> None:
        """Count all outstanding memory as freed, with its own sum, because its frees are no longer traced.

        Call it right after ``read``, when the kernel has dropped all blocks.
        """
        for state in self._sites.values():
            allocated_bytes, allocated_count, freed_bytes, freed_count = state.totals
            n_bytes, count = allocated_bytes - freed_bytes, allocated_count - freed_count
            state.written_off = (state.written_off[0] + n_bytes, state.written_off[1] + count)
            state.totals = (allocated_bytes, allocated_count, allocated_bytes, allocated_count)
            state.slices.forget(generation)
            self.written_off = (self.written_off[0] + n_bytes, self.written_off[1] + count)

    def outstanding(self) -> tuple[int, int]:
        """Bytes and count outstanding over all sites."""
        totals = [state.totals for state in self._sites.values()]
        return sum(t[0] - t[2] for t in totals), sum(t[1] - t[3] for t in totals)

    def allocated(self) -> tuple[int, int, int, int]:
        """Allocated bytes and count, freed bytes and count, over all sites and those retired."""
        sums = [0, 0, 0, 0]
        for totals in (*(state.totals for state in self._sites.values()), *self._retired.values()):
            for i in range(4):
                sums[i] += totals[i]
        return sums[0], sums[1], sums[2], sums[3]

    def by_outstanding(self, n: int) -> list[tuple[SiteKey, int, int]]:
        """The n sites with the most outstanding bytes: key, bytes, count."""
        rows = [(key, s.totals[0] - s.totals[2], s.totals[1] - s.totals[3]) for key, s in self._sites.items()]
        rows.sort(key=lambda row: -row[1])
        return rows[:n]

    @property
    def n_sites(self) -> int:
        """Number of sites."""
        return len(self._sites)

    def retire(self, is_gone: Callable[[int], bool]) -> list[SiteKey]:
        """Drop the sites of ended threads that have nothing outstanding; returns them.

        Args:
            is_gone: Thread uid -> whether the thread has ended.
        """
        gone = [
            key
            for key, state in self._sites.items()
            if key.thread_uid and state.totals[1] == state.totals[3] and is_gone(key.thread_uid)
        ]
        for key in gone:
            sums = self._retired.setdefault(key.slot, [0, 0, 0, 0])
            for i, value in enumerate(self._sites.pop(key).totals):
                sums[i] += value
        return gone

    def retired(self) -> list[SiteTotals]:
        """One sum per target over its retired sites."""
        return [
            SiteTotals(SiteKey(Kind.HEAP, slot, 0, 0), sums[0], sums[1], sums[2], sums[3])
            for slot, sums in self._retired.items()
        ]
