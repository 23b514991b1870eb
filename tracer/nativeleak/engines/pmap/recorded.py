"""Recorded output of ``pmap`` or ``pmap -x``: several listings of one process, in files of their own or in one.

One listing alone is a state, not a growth: it is reported as all regions with what they hold. Of several the first is
the state before. ``pmap`` prints no times: date lines between listings say how far apart they are, or the times of the
files, where these agree with the order given. Otherwise the time is unknown, and said to be.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import replace

from nativeleak.engines.pmap.ledger import PmapLedger
from nativeleak.engines.pmap.listing import Listing, ListingReader
from nativeleak.engines.pmap.regions import Surroundings
from nativeleak.engines.pmap.smaps import Mapping
from nativeleak.engines.threads import ThreadTable
from nativeleak.engines.userspace import TracedProcess, most_snapshots, snapshot_of
from nativeleak.errors import NativeleakError
from nativeleak.model import RuntimeInfo, SiteTotals, Snapshot, Stack, TargetInfo
from nativeleak.runtimes.base import UNKNOWN_VERSION, RuntimeSpec
from nativeleak.runtimes.registry import RUNTIMES

_COMM_LENGTH = 15
_MIN_APART_S = 1.0
"""Files written closer to each other were copied, not recorded."""
_NO_TIMES = (
    "no line says when the listings were made, and the files' times do not: sizes hold, rates cannot be known "
    "(a line of `date` before each listing tells)"
)


class RecordedPmap:
    """Some listings; see ``RecordedSource``.

    Args:
        listings: In the order of the command line.
        pid: The process that is meant; 0: that of the first listing.
        written: When the file of each listing was written, seconds since 1970; None where that says nothing.
        reader: What has read them, for the lines that made no sense.

    Raises:
        NativeleakError: There is no listing of it.
    """

    backend = "pmap"
    probes: tuple[str, ...] = ("smaps",)

    def __init__(
        self,
        listings: Sequence[Listing],
        pid: int = 0,
        *,
        written: Sequence[float | None] = (),
        reader: ListingReader | None = None,
    ) -> None:
        wanted = pid or (listings[0].pid if listings else 0)
        kept = [i for i, listing in enumerate(listings) if listing.pid in (wanted, 0)]
        if not kept:
            raise NativeleakError(
                f"reading the output of pmap failed: no listing of process {wanted}",
                "without -p the process of the first listing is taken",
            )
        self._notes: list[tuple[str, str]] = []
        moments = _moments([listings[i] for i in kept], [written[i] if i < len(written) else None for i in kept])
        if moments is None:
            moments = [max((each for each in written if each), default=0.0)] * len(kept)
            if len(kept) > 1:
                self._notes.append(("unread", _NO_TIMES))
        self._listings = [(moment, listings[i]) for moment, i in zip(moments, kept, strict=True)]
        self._reader = reader
        self.started = self._listings[0][0]
        self.duration_s = self._listings[-1][0] - self.started
        command = self._listings[0][1].command
        comm = command.split()[0].rsplit("/", 1)[-1][:_COMM_LENGTH] if command.split() else "?"
        self._runtime = _runtime_in(self._listings[0][1].mappings)
        info = RuntimeInfo(self._runtime.name, UNKNOWN_VERSION) if self._runtime is not None else None
        self._process = TracedProcess(0, TargetInfo(0, wanted, comm, "", info))
        self._threads = ThreadTable()
        self._ledger = PmapLedger(self._process, self._threads)
        self._tell()
        left_out = len(listings) - len(self._listings)
        if left_out:
            self._notes.append(("input", f"{left_out} listings of other processes left out (-p takes one)"))

    def _tell(self) -> None:
        """Say what the listings do not show."""
        for number, (_, listing) in enumerate(self._listings, start=1):
            name = f"listing {number}"
            if not listing.has_sizes:
                text = (
                    "all sizes are printed as 0 (a fault of procps 3.2.8): mappings count as large as what is resident"
                )
                self._notes.append(("unread", f"{name}: {text}"))
            elif listing.is_complete is False:
                short = (listing.total_kib or 0) - (listing.mapped_bytes >> 10)
                self._notes.append(
                    ("unread", f"{name}: its rows add up to {short:,} KiB less than its total: some are missing")
                )
            if not listing.pid:
                self._notes.append(("input", f"{name}: no line names the process"))
        if self._reader is not None and self._reader.n_unread:
            n_unread, first = self._reader.n_unread, self._reader.first_unread
            self._notes.append(("unread", f"{n_unread:,} lines made no sense, first: {first}"))

    def take_notes(self) -> list[tuple[str, str]]:
        """What was found."""
        notes, self._notes = self._notes, []
        return notes

    def take_stacks(self) -> list[Stack]:
        """Regions seen for the first time."""
        return self._ledger.take_stacks()

    def snapshots(self, _interval_s: float) -> Iterator[Snapshot]:
        """One for each listing; of a single one, its regions."""
        first = self._listings[0][1].mappings
        if len(self._listings) == 1:
            self._notes.append(("input", "one listing only: what is mapped is shown, growth takes two"))
            self._ledger.begin(Surroundings([], runtime=self._runtime))
            self._ledger.take(first, lambda: Surroundings(first, runtime=self._runtime), 0.0)
            yield self._snapshot(0.0, first)
            return
        self._ledger.begin(Surroundings(first, runtime=self._runtime))
        yield self._snapshot(0.0, first)
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
            {
                "smaps_readings": self._ledger.n_readings,
                "unread_lines": self._reader.n_unread if self._reader is not None else 0,
            },
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


def _moments(listings: Sequence[Listing], written: Sequence[float | None]) -> list[float] | None:
    """Seconds since 1970 of each: by date lines, else by the files' times where these agree with the order given."""
    for found in ([listing.time_s for listing in listings], list(written)):
        known = [moment for moment in found if moment is not None]
        is_rising = all(b - a >= _MIN_APART_S for a, b in itertools.pairwise(known))
        if len(known) == len(listings) and (is_rising or len(known) == 1):
            return known
    return None


def _runtime_in(mappings: Sequence[Mapping]) -> RuntimeSpec | None:
    return next((spec for spec in RUNTIMES if any(spec.is_library(m.path) for m in mappings)), None)


def _resident(start: int, end: int, mappings: Sequence[Mapping], starts: Sequence[int]) -> int:
    total = 0
    for mapping in mappings[max(0, bisect_right(starts, start) - 1) : bisect_left(starts, end)]:
        shared = min(end, mapping.end) - max(start, mapping.start)
        if shared > 0:
            total += mapping.rss * shared // (mapping.end - mapping.start)
    return total
