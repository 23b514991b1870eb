"""Heap totals per site, from the kernel's maps to snapshots.

Sites that have nothing outstanding are retired when their thread has ended, or when the kernel's map needs their room:
their totals move into one sum, which frees their entries in the map.

A site may have a twin, on which its thread books while the site is being retired (bpf/sites.bpf.h). A snapshot shows
both as one site.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from nativeleak.ledger.slices import SiteSlices, slice_seconds
from nativeleak.model import N_SLICES, Kind, Owner, SiteKey, SiteTotals

_HEAD: Final = struct.Struct("=QQQQII")
TWIN: Final = 1 << 31
"""Set in the thread of a twin: ``NL_TWIN``."""


class SiteLabel(NamedTuple):
    """Facts from the names on a stack: the allocator function and the owner."""

    functions: tuple[str, ...]
    owner: Owner


@dataclass(slots=True)
class _SiteState:
    slices: SiteSlices
    totals: tuple[int, int, int, int] = (0, 0, 0, 0)
    written_off: tuple[int, int] = (0, 0)
    check: int = 0
    is_quiet: bool = False
    """Nothing has changed between the last two reads."""
    is_shown: bool = False
    """It was in a snapshot."""
    row: SiteTotals | None = None
    """As the last snapshot has shown it, until something changes; its age is that of then."""

    @property
    def is_empty(self) -> bool:
        return self.totals[1] == self.totals[3]


@dataclass(slots=True)
class HeapLedger:
    """Totals of all heap sites of a trace."""

    _sites: dict[SiteKey, _SiteState] = field(default_factory=dict)
    _retired: dict[int, list[int]] = field(default_factory=dict)
    _hidden: dict[int, list[int]] = field(default_factory=dict)
    _dropped: list[SiteKey] = field(default_factory=list)
    n_retired: int = 0
    """Sites of threads that are alive that were retired."""
    hides_empty: bool = False
    """Leave sites that have nothing outstanding out of snapshots, unless they were in one.

    Their totals count as retired then. Where a process makes sites without end, each of them
    would stay in the recording.
    """
    uncertain: tuple[int, int] = (0, 0)
    """Outstanding bytes and count whose frees may have gone unseen."""

    def read(self, raw_sites: Iterable[tuple[int, int, int, bytes | memoryview]], generation: int) -> None:
        """Read the kernel's totals: (slot, thread, stack, value) for each site; no value is kept."""
        # Looked up once: there may be 65,536 sites.
        sites, unpack, kind = self._sites, _HEAD.unpack_from, Kind.HEAP
        for slot, thread, stack, value in raw_sites:
            freed_bytes, freed_count, allocated_bytes, allocated_count, check, _ = unpack(value)
            if not allocated_count:
                continue
            # A tuple is equal to a SiteKey of the same values, and quicker to make.
            state = sites.get((kind, slot, thread, stack))  # type: ignore[call-overload]
            if state is None:
                state = _SiteState(SiteSlices(generation), check=check)
                sites[SiteKey(kind, slot, thread, stack)] = state
            off_bytes, off_count = state.written_off
            totals = (allocated_bytes, allocated_count, freed_bytes + off_bytes, freed_count + off_count)
            # Slices change after totals: they are read once more when the totals stand still.
            is_still = totals == state.totals and state.is_quiet and state.slices.generation == generation
            if not is_still and state.slices.fold(bytes(value[_HEAD.size :]), generation):
                state.row = None
            state.is_quiet = totals == state.totals
            if not state.is_quiet:
                state.totals, state.row = totals, None

    def calls(self) -> Iterator[tuple[SiteKey, int]]:
        """Each site, and how many blocks were recorded at it."""
        return ((key, state.totals[1]) for key, state in self._sites.items())

    def widen_slices(self, generation: int) -> None:
        """Give all slices the width of a new generation, so that the next ``read`` takes no longer than others."""
        for state in self._sites.values():
            if state.slices.widen(generation):
                state.row = None

    def snapshot(
        self,
        elapsed_s: float,
        generation: int,
        label: Callable[[int], SiteLabel],
        oldest_born_s: Mapping[SiteKey, float] | None = None,
    ) -> list[SiteTotals]:
        """All sites as they are now; the age of one that has not changed is that of the snapshot before.

        Args:
            label: Facts from the names on a stack, by stack key.
            oldest_born_s: Exact birth times (seconds since the start) of the oldest outstanding blocks, if the live
                set was read; else an age is at most the width of a birth slice too high.
        """
        rows: list[SiteTotals] = []
        twins: list[SiteTotals] = []
        ages = [max(0.0, round(elapsed_s - i * slice_seconds(generation), 3)) for i in range(N_SLICES)]
        self._hidden = {}
        for key, state in self._sites.items():
            if self.hides_empty and not state.is_shown and state.is_empty:
                _add(self._hidden, key.slot, state.totals)
                continue
            state.is_shown = True
            row, names = state.row, label(key.stack_key)
            if row is None or oldest_born_s is not None or row.functions != names[0] or row.owner != names[1]:
                row = state.row = self._totals(_without_twin(key), state, elapsed_s, ages, names, oldest_born_s)
            (twins if key.thread_uid & TWIN else rows).append(row)
        return _with_twins(rows, twins) if twins else rows

    @staticmethod
    def _totals(
        key: SiteKey,
        state: _SiteState,
        elapsed_s: float,
        ages: Sequence[float],
        label: SiteLabel,
        oldest_born_s: Mapping[SiteKey, float] | None,
    ) -> SiteTotals:
        functions, owner = label
        oldest_s: float | None = None
        if state.totals[1] > state.totals[3]:
            if oldest_born_s is not None and key in oldest_born_s:
                oldest_s = max(0.0, round(elapsed_s - oldest_born_s[key], 3))
            elif (index := state.slices.oldest()) is not None:
                oldest_s = ages[index]
        # By position: this is called for each of up to 65,536 sites.
        return SiteTotals(key, *state.totals, None, 0, oldest_s, state.slices.values(), owner, functions)

    def take_out(self, key: SiteKey, born: int, n_bytes: int, count: int, generation: int) -> None:
        """Count a block as freed that is gone although no free was seen.

        Args:
            key: Its site, or the twin.
            born: When, in units of 2^20 ns since its target's window opened.
        """
        state = self._sites.get(key)
        if state is None:
            return
        state.written_off = (state.written_off[0] + n_bytes, state.written_off[1] + count)
        allocated_bytes, allocated_count, freed_bytes, freed_count = state.totals
        state.totals = (allocated_bytes, allocated_count, freed_bytes + n_bytes, freed_count + count)
        state.row = None
        state.slices.take_out(born, n_bytes, count, generation)

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
        return [(_without_twin(key), n_bytes, count) for key, n_bytes, count in rows[:n]]

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
            if key.thread_uid and state.is_empty and is_gone(key.thread_uid & ~TWIN)
        ]
        self._retire(gone)
        return gone

    def empty_sites(self) -> dict[SiteKey, int]:
        """Sites that had nothing outstanding when they were last read, with their second hashes.

        Left out are those for what has no site of its own, and a site together with its twin: a twin stays what it is
        while the site is there, so that blocks always have one of both to go to.
        """
        return {
            key: state.check
            for key, state in self._sites.items()
            if key.thread_uid and state.is_empty and key._replace(thread_uid=key.thread_uid ^ TWIN) not in self._sites
        }

    def retire_quiet(self, keys: Iterable[SiteKey]) -> list[SiteKey]:
        """Drop those of some sites that are still empty and have not changed with the last read; returns them."""
        gone = [key for key in keys if (state := self._sites[key]).is_quiet and state.is_empty]
        self.n_retired += len(gone)
        self._dropped += {_without_twin(key) for key in gone if self._sites[key].is_shown}
        self._retire(gone)
        return gone

    def _retire(self, keys: Sequence[SiteKey]) -> None:
        for key in keys:
            _add(self._retired, key.slot, self._sites.pop(key).totals)

    def take_dropped(self) -> tuple[SiteKey, ...]:
        """Sites that ``retire_quiet`` has dropped since the last call and that were in a snapshot."""
        dropped, self._dropped = tuple(self._dropped), []
        return dropped

    def stacks(self) -> set[int]:
        """Keys of the stacks of all sites."""
        return {key.stack_key for key in self._sites}

    def stacks_with_blocks(self) -> set[int]:
        """Keys of the stacks of all sites that have something outstanding."""
        return {key.stack_key for key, state in self._sites.items() if not state.is_empty}

    def retired(self) -> list[SiteTotals]:
        """One sum per target over its retired sites and those that the last snapshot has left out."""
        sums: dict[int, list[int]] = {}
        for part in (self._retired, self._hidden):
            for slot, totals in part.items():
                _add(sums, slot, totals)
        return [
            SiteTotals(SiteKey(Kind.HEAP, slot, 0, 0), each[0], each[1], each[2], each[3])
            for slot, each in sums.items()
        ]


def _add(sums: dict[int, list[int]], slot: int, totals: Sequence[int]) -> None:
    into = sums.setdefault(slot, [0, 0, 0, 0])
    for i, value in enumerate(totals):
        into[i] += value


def _without_twin(key: SiteKey) -> SiteKey:
    return key._replace(thread_uid=key.thread_uid & ~TWIN) if key.thread_uid & TWIN else key


def _with_twins(rows: Sequence[SiteTotals], twins: Sequence[SiteTotals]) -> list[SiteTotals]:
    """Each site together with its twin, if it has one."""
    sites = {row.key: row for row in rows}
    for twin in twins:
        sites[twin.key] = _merge(sites[twin.key], twin) if twin.key in sites else twin
    return list(sites.values())


def _merge(site: SiteTotals, twin: SiteTotals) -> SiteTotals:
    """Totals of a site and its twin as of one site."""
    ages = [each for each in (site.oldest_s, twin.oldest_s) if each is not None]
    return replace(
        site,
        allocated_bytes=site.allocated_bytes + twin.allocated_bytes,
        allocated_count=site.allocated_count + twin.allocated_count,
        freed_bytes=site.freed_bytes + twin.freed_bytes,
        freed_count=site.freed_count + twin.freed_count,
        oldest_s=max(ages, default=None),
        slices=tuple((a[0] + b[0], a[1] + b[1]) for a, b in zip(site.slices, twin.slices, strict=True)),
    )
