"""Recorded output of ``pmap`` or ``pmap -x``: several listings of one process, in files of their own or in one.

One listing alone is a state, not a growth: it is reported as all regions with what they hold. Of several the first is
the state before. ``pmap`` prints no times: files are as far apart as they were written, listings in one file a second.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import replace

from nativeleak.engines.pmap.ledger import PmapLedger
from nativeleak.engines.pmap.regions import Surroundings
from nativeleak.engines.pmap.smaps import Listing, Mapping
from nativeleak.engines.threads import ThreadTable
from nativeleak.engines.userspace import TracedProcess, most_snapshots, snapshot_of
from nativeleak.errors import NativeleakError
from nativeleak.model import RuntimeInfo, SiteTotals, Snapshot, Stack, TargetInfo
from nativeleak.runtimes.base import UNKNOWN_VERSION, RuntimeSpec
from nativeleak.runtimes.registry import RUNTIMES

_COMM_LENGTH = 15


class RecordedPmap:
    """Some listings; see ``RecordedSource``.

    Args:
        listings: (seconds since 1970, listing), in order of time.
        pid: The process that is meant; 0: that of the first listing.

    Raises:
        NativeleakError: There is no listing of it.
    """

    backend = "pmap"
    probes: tuple[str, ...] = ("smaps",)

    def __init__(self, listings: Sequence[tuple[float, Listing]], pid: int = 0) -> None:
        wanted = pid or (listings[0][1].pid if listings else 0)
        self._listings = [(at_s, listing) for at_s, listing in listings if listing.pid == wanted]
        if not self._listings:
            raise NativeleakError(
                f"reading the output of pmap failed: no listing of process {wanted}",
                "without -p the process of the first listing is taken",
            )
        self.started = self._listings[0][0]
        self.duration_s = self._listings[-1][0] - self.started
        command = self._listings[0][1].command
        comm = command.split()[0].rsplit("/", 1)[-1][:_COMM_LENGTH] if command.split() else "?"
        self._runtime = _runtime_in(self._listings[0][1].mappings)
        info = RuntimeInfo(self._runtime.name, UNKNOWN_VERSION) if self._runtime is not None else None
        self._process = TracedProcess(0, TargetInfo(0, wanted, comm, "", info))
        self._threads = ThreadTable()
        self._ledger = PmapLedger(self._process, self._threads)
        self._notes: list[tuple[str, str]] = []
        left_out = len(listings) - len(self._listings)
        if left_out:
            self._notes.append(("input", f"{left_out} listings of other processes left out (-p takes one)"))

    def take_notes(self) -> list[tuple[str, str]]:
        """What was found."""
        notes, self._notes = self._notes, []
        return notes

    def take_stacks(self) -> list[Stack]:
        """Regions seen for the first time."""
        return self._ledger.take_stacks()

    def snapshots(self, _interval_s: float) -> Iterator[Snapshot]:
        """One for each listing after the first; of a single one, its regions."""
        first = self._listings[0][1].mappings
        if len(self._listings) == 1:
            self._notes.append(("input", "one listing only: what is mapped is shown, growth takes two"))
            self._ledger.begin(Surroundings([], runtime=self._runtime))
            self._ledger.take(first, lambda: Surroundings(first, runtime=self._runtime), 0.0)
            yield self._snapshot(0.0, first)
            return
        self._ledger.begin(Surroundings(first, runtime=self._runtime))
        n_names = len({mapping.path for _, listing in self._listings for mapping in listing.mappings})
        every = -(-len(self._listings) // most_snapshots(n_names))
        for i, (at_s, listing) in enumerate(self._listings[1:], start=2):
            around = Surroundings(listing.mappings, runtime=self._runtime)
            self._ledger.take(listing.mappings, lambda around=around: around, at_s - self.started)  # type: ignore[misc]
            if listing is self._listings[-1][1]:
                self._notes += self._ledger.growth_notes(around)
            if i == len(self._listings) or i % every == 0:
                yield self._snapshot(at_s - self.started, listing.mappings)

    def _snapshot(self, elapsed_s: float, mappings: Sequence[Mapping]) -> Snapshot:
        rss_bytes = sum(max(0, mapping.rss) for mapping in mappings)
        snapshot = snapshot_of(
            [self._process],
            self._threads,
            elapsed_s,
            {"smaps_readings": self._ledger.n_readings},
            events=self._ledger.n_readings,
            is_live=False,
            sites=self._sites(elapsed_s, mappings),
        )
        return replace(snapshot, rss_bytes=rss_bytes)

    def _sites(self, elapsed_s: float, mappings: Sequence[Mapping]) -> list[SiteTotals]:
        """Totals with what is resident of each: of a mapping that is part of several sites, by their shares."""
        space = self._process.space
        if any(mapping.rss < 0 for mapping in mappings):
            return space.site_totals(0, elapsed_s)
        starts = [mapping.start for mapping in mappings]
        return space.site_totals(0, elapsed_s, lambda start, end: _resident(start, end, mappings, starts))


def _runtime_in(mappings: Sequence[Mapping]) -> RuntimeSpec | None:
    return next((spec for spec in RUNTIMES if any(spec.is_library(m.path) for m in mappings)), None)


def _resident(start: int, end: int, mappings: Sequence[Mapping], starts: Sequence[int]) -> int:
    total = 0
    for mapping in mappings[max(0, bisect_right(starts, start) - 1) : bisect_left(starts, end)]:
        shared = min(end, mapping.end) - max(start, mapping.start)
        if shared > 0:
            total += mapping.rss * shared // (mapping.end - mapping.start)
    return total
