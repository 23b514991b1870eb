"""Courses of memory totals over a trace: of single sites, of groups of them, of ranges of sites in a given order.

The whole course of every site would not fit into memory. Kept of each are its values at the edges of eight parts, its
lowest value in each of ten parts, and its peak.

Where the heap was watched in windows, a course tells nothing: it rises in each window by what the window saw, and by
nothing between. What tells is how much of each age is left for each second in which births were seen (``windowed.py``).
Where one run of the watch covers most of the trace, courses cover that run alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from nativeleak.analysis.births import WATCHED, OwnBirths, own_births, watched_seconds
from nativeleak.model import Level, StackCoverage
from nativeleak.recording import Recording

Floats: TypeAlias = npt.NDArray[np.float64]
Bools: TypeAlias = npt.NDArray[np.bool_]
Ints: TypeAlias = npt.NDArray[np.int64]

N_PARTS: Final = 8
N_TROUGHS: Final = 10

_SMALL_RISE: Final = 0.25
MIN_WATCHED_PCT: Final = 50.0
"""With less of the time watched there is no verdict on the heap."""
MIN_SNAPSHOTS: Final = 4
"""With fewer snapshots a course has no verdict."""

_LEAST_RUN: Final = 0.5
"""Of the trace: a shorter run of the watch says less than all its windows."""
_LEAST_WINDOWS: Final = 3
"""A watch that ended for good, or began anew once, has no windows."""


@dataclass(frozen=True, slots=True)
class Curves:
    """Totals at the edges of the parts; every array has one row a curve.

    Attributes:
        elapsed_s: Time of each edge.
        n_snapshots: Number of snapshots from which the edges were chosen.
        n_bytes: Outstanding bytes, one column an edge.
        n_blocks: Outstanding allocations, one column an edge; empty if a curve does not consist of blocks.
        slices: Bytes by birth slice, oldest first, at the end; empty if none were recorded.
        slice_s: Width of a birth slice, seconds; 0.0 if none were recorded.
        start_s: Start of the time that the curves cover.
        troughs: Lowest bytes in each of at most ten parts; empty where only the edges are known.
        peaks: Highest bytes, and the time of it in seconds: two columns; empty where only the edges are known.
        courses: Bytes at every snapshot; empty unless they were asked for.
        resident: Resident bytes at each edge, outstanding bytes where they were not measured; empty where unknown.
        watched: Seconds of each birth slice in which births were seen, where the heap was watched in windows; None
            where it was watched all the time.
        n_freed: Blocks and mappings that were freed, one value a curve; empty where frees may have gone unseen.
        units: Bytes that one sample stands for, one value a curve; empty, or 0 where every block was kept.
        own: Of ``slices``, the bytes that were recorded at call sites which are watched by themselves; empty where none
            were.
        covered: Seconds of each birth slice in which these were watched.
    """

    elapsed_s: Floats
    n_snapshots: int
    n_bytes: Floats
    n_blocks: Floats
    slices: Floats
    slice_s: float = 0.0
    start_s: float = 0.0
    troughs: Floats = field(default_factory=lambda: np.zeros((0, 0)))
    peaks: Floats = field(default_factory=lambda: np.zeros((0, 0)))
    courses: Floats = field(default_factory=lambda: np.zeros((0, 0)))
    resident: Floats = field(default_factory=lambda: np.zeros((0, 0)))
    watched: Floats | None = None
    n_freed: Floats = field(default_factory=lambda: np.zeros(0))
    units: Floats = field(default_factory=lambda: np.zeros(0))
    own: Floats = field(default_factory=lambda: np.zeros((0, 0)))
    covered: Floats = field(default_factory=lambda: np.zeros(0))


@dataclass(frozen=True, slots=True)
class Span:
    """The snapshots that curves are made of, first and last, and the share of the trace with a watched heap.

    Attributes:
        in_windows: No run of the watch is long enough: births tell, by the windows in which they were seen.
        by_births: Most of the time was watched, but the snapshots of it are too few for a course: births tell.
        is_stretch: It is one stretch of the trace, before or after which the heap was not watched.
    """

    first: int
    last: int
    watched_pct: float
    in_windows: bool = False
    by_births: bool = False
    is_stretch: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether the heap was watched all the time."""
        return self.watched_pct >= 100


class Grouping(Protocol):
    """Sums of sites."""

    n_rows: int

    def sums(self, values: Floats) -> Floats:
        """Sum of each row; ``values`` has one value, or one row of values, a site."""


class EachSite:
    """Every site by itself."""

    def __init__(self, n_sites: int) -> None:
        self.n_rows = n_sites

    def sums(self, values: Floats) -> Floats:
        """The values themselves."""
        return values


class Labelled:
    """Sites with the same label; sites with label -1 are left out."""

    def __init__(self, labels: Ints, n_rows: int) -> None:
        self.n_rows = n_rows
        self._chosen = np.flatnonzero(labels >= 0)
        self._labels = labels[self._chosen]

    def sums(self, values: Floats) -> Floats:
        """Sum of each label."""
        chosen = values[self._chosen]
        if values.ndim == 1:
            return np.bincount(self._labels, weights=chosen, minlength=self.n_rows).astype(np.float64)
        columns = [np.bincount(self._labels, weights=column, minlength=self.n_rows) for column in chosen.T]
        return np.array(columns, dtype=np.float64).reshape(values.shape[1], self.n_rows).T


class Ranges:
    """Ranges of sites in an order of their own; ranges may lie within each other."""

    def __init__(self, order: Ints, first: Ints, stop: Ints) -> None:
        self.n_rows = len(first)
        self._order, self._first, self._stop = order, first, stop

    def sums(self, values: Floats) -> Floats:
        """Sum of each range, exact up to 2^53 in all."""
        added = np.cumsum(values[self._order], axis=0)
        added = np.concatenate((np.zeros((1, *values.shape[1:])), added))
        return np.asarray(added[self._stop] - added[self._first])


def watched_span(recording: Recording) -> Span:
    """The longest run of snapshots between which the heap was watched; the whole trace if the heap never was."""
    times = [snapshot.elapsed_s for snapshot in recording.snapshots]
    if not times:
        return Span(0, -1, 0.0)
    if "malloc" not in recording.info.probes:
        sees_regions = recording.info.coverage.stacks is StackCoverage.NONE
        return Span(0, len(times) - 1, 100.0 if sees_regions else 0.0)
    blind = [window for window in recording.windows if window.level not in WATCHED and window.to_s > window.from_s]
    if not blind:
        return Span(0, len(times) - 1, 100.0, by_births=len(times) < MIN_SNAPSHOTS and bool(recording.windows))
    unwatched_s = sum(window.to_s - window.from_s for window in blind)
    watched_pct = max(0.0, 100 * (1 - unwatched_s / times[-1])) if times[-1] else 0.0
    best = (0, -1)
    first = None
    for i, time_s in enumerate(times):
        before_s = times[i - 1] if i else 0.0
        if any(window.from_s < time_s and window.to_s > before_s for window in blind):
            first = None
            continue
        first = i if first is None else first
        if times[i] - times[first] > (times[best[1]] - times[best[0]] if best[1] >= 0 else -1.0):
            best = (first, i)
    run_s = times[best[1]] - times[best[0]] if best[1] - best[0] >= 1 else 0.0
    is_short = best[1] - best[0] + 1 < MIN_SNAPSHOTS
    has_own = any(window.level is Level.HOT for window in blind)
    # With too little of a course, births at watched call sites are all that tells.
    if run_s < _LEAST_RUN * times[-1] and (_n_runs(recording) >= _LEAST_WINDOWS or (has_own and is_short)):
        return Span(0, len(times) - 1, watched_pct, in_windows=True)
    if is_short and watched_pct >= MIN_WATCHED_PCT:
        return Span(0, len(times) - 1, watched_pct, by_births=True)
    if not run_s:
        return Span(0, len(times) - 1, watched_pct)
    return Span(*best, watched_pct, is_stretch=best != (0, len(times) - 1))


def _n_runs(recording: Recording) -> int:
    """How often the watch began."""
    levels = [window.level in WATCHED for window in recording.windows if window.to_s > window.from_s]
    return sum(here and not before for before, here in zip([False, *levels], levels, strict=False))


def read_curves(
    recording: Recording, groupings: Sequence[Grouping], span: Span | None = None, *, courses: bool = False
) -> list[Curves]:
    """The curves of each grouping, read in one pass over the recording.

    Args:
        recording: Where the totals come from.
        groupings: What is added up.
        span: The snapshots to look at; None: all.
        courses: Whether to keep the whole courses.

    Raises:
        RecordingError: The recording is damaged.
    """
    times = [snapshot.elapsed_s for snapshot in recording.snapshots]
    span = span or Span(0, len(times) - 1, 100.0)
    tracks = [_Track(grouping, times[span.first : span.last + 1]) for grouping in groupings]
    for track in tracks if courses else ():
        track.keep_courses()
    n_sites = len(recording.site_columns)
    now = np.zeros((n_sites, 3))
    for number, samples in enumerate(recording.samples()):
        ids = np.asarray(samples.site_id)
        outstanding, resident = np.asarray(samples.outstanding_bytes), np.asarray(samples.resident_bytes)
        now[ids, 0] = outstanding
        now[ids, 1] = np.asarray(samples.outstanding_count)
        now[ids, 2] = np.where(resident >= 0, resident, outstanding)
        if span.first <= number <= span.last:
            for track in tracks:
                track.add(number - span.first, now)
    slices, slice_s = _slices(recording) if span.last == len(times) - 1 else (np.zeros((n_sites, 0)), 0.0)
    start_s = times[span.first] if span.first else 0.0
    watched, born = None, None
    if span.in_windows or span.by_births:
        watched = watched_seconds(recording, slices.shape[1], slice_s)
        born = own_births(recording, slices.shape[1], slice_s)
    freed = np.array(recording.site_columns.freed_count, dtype=np.float64) if span.is_whole else None
    variances = np.zeros(n_sites)
    for position, uncertainty in recording.site_columns.uncertainty.items():
        variances[position] = uncertainty.variance_bytes
    return [
        replace(
            _with_own(track.curves(slices, slice_s, start_s, watched, freed), track.grouping, slices, born),
            units=track.grouping.sums(variances) / np.maximum(track.grouping.sums(now[:, 0]), 1.0),
        )
        for track in tracks
    ]


def _with_own(curves: Curves, grouping: Grouping, slices: Floats, born: OwnBirths | None) -> Curves:
    """The same curves with what was recorded at watched call sites."""
    if born is None:
        return curves
    chosen = np.zeros_like(slices)
    chosen[born.rows] = slices[born.rows]
    return replace(curves, own=grouping.sums(chosen), covered=born.seconds)


def course_curves(elapsed_s: Sequence[float], n_bytes: Floats, n_blocks: Floats | None = None) -> Curves:
    """The curves of totals whose whole courses are at hand.

    Args:
        elapsed_s: Time of each value, in order; at least one.
        n_bytes: One row a total, one column a time.
        n_blocks: The same in blocks; None where the totals do not consist of blocks.
    """
    n_rows = len(n_bytes)
    track = _Track(EachSite(n_rows), elapsed_s)
    track.keep_courses()
    blocks = np.zeros_like(n_bytes) if n_blocks is None else n_blocks
    for number in range(len(elapsed_s)):
        track.add(number, np.stack((n_bytes[:, number], blocks[:, number], n_bytes[:, number]), axis=1))
    curves = track.curves(np.zeros((n_rows, 0)), 0.0, elapsed_s[0], None)
    return curves if n_blocks is not None else replace(curves, n_blocks=np.zeros((n_rows, 0)))


def _slices(recording: Recording) -> tuple[Floats, float]:
    """Bytes by birth slice, one row a site, and the width of a slice in seconds."""
    groups = recording.birth_slices
    slices = np.zeros((len(recording.site_columns), max((group.width for group in groups), default=0)))
    for group in groups:
        pairs = np.asarray(group.values).reshape(len(group.positions), group.width, 2)
        slices[group.positions, : group.width] = pairs[:, :, 0]
    return slices, recording.last_snapshot.slice_s


def median_ages(curves: Curves) -> list[float | None]:
    """For each curve the age that half of its bytes exceed at the end, in seconds; None without birth slices."""
    if not curves.slices.shape[1]:
        return [None] * len(curves.n_bytes)
    end_s = float(curves.elapsed_s[-1])
    ages: list[float | None] = []
    for row in curves.slices:
        whole, before = float(row.sum()), np.concatenate(([0.0], np.cumsum(row)))
        if whole <= 0:
            ages.append(None)
            continue
        i = int(np.searchsorted(before, whole / 2, side="left")) - 1
        within = (whole / 2 - before[i]) / row[i]
        start_s, stop_s = i * curves.slice_s, min((i + 1) * curves.slice_s, end_s)
        ages.append(max(0.0, end_s - start_s - within * max(0.0, stop_s - start_s)))
    return ages


def replaces_older(recording: Recording, curves: Curves, span: Span) -> Bools:
    """Whether a curve's rise may be blocks that took the place of blocks from before the trace.

    Frees of those are seen, but not of what site. So this is so where enough of them were freed and the rise is small
    against what is held. Source: rss-ledger-and-verdicts.md 7.4.
    """
    if not curves.n_blocks.shape[1] or not curves.slices.shape[1] or span.last <= span.first:
        return np.zeros(len(curves.n_bytes), dtype=np.bool_)
    counts = [recording.snapshots[i].counters.get("unmatched_frees", 0) for i in (span.first, span.last)]
    gained = curves.n_blocks[:, -1] - curves.n_blocks[:, 0]
    is_small = curves.n_bytes[:, -1] - curves.n_bytes[:, 0] < _SMALL_RISE * curves.n_bytes[:, -1]
    is_heap = curves.slices.sum(axis=1) > 0
    return np.asarray(is_heap & is_small & (counts[1] - counts[0] >= gained / 2) & (gained > 0))


class _Track:
    """Collects the curves of one grouping, snapshot by snapshot."""

    def __init__(self, grouping: Grouping, times: Sequence[float]) -> None:
        self.grouping, self._times = grouping, times
        edges = part_edges(times)
        self._shares = edges.shares
        self._elapsed_s = edges.elapsed_s
        n_rows = grouping.n_rows
        self._values = np.zeros((3, n_rows, len(edges.elapsed_s)))
        self._troughs = np.full((n_rows, min(N_TROUGHS, len(times))), np.inf)
        self._peaks = np.zeros((n_rows, 2))
        self._courses = np.zeros((n_rows, 0))

    def keep_courses(self) -> None:
        self._courses = np.zeros((self.grouping.n_rows, len(self._times)))

    def add(self, number: int, now: Floats) -> None:
        n_bytes = self.grouping.sums(now[:, 0])
        if number in self._shares:
            values = np.stack((n_bytes, self.grouping.sums(now[:, 1]), self.grouping.sums(now[:, 2])))
            for column, share in self._shares[number]:
                self._values[:, :, column] += share * values
        part = self._part(number)
        np.minimum(self._troughs[:, part], n_bytes, out=self._troughs[:, part])
        higher = n_bytes > self._peaks[:, 0]
        self._peaks[higher, 0] = n_bytes[higher]
        self._peaks[higher, 1] = self._times[number]
        if self._courses.shape[1]:
            self._courses[:, number] = n_bytes

    def _part(self, number: int) -> int:
        n_parts = self._troughs.shape[1]
        whole_s = self._times[-1] - self._times[0]
        share = (self._times[number] - self._times[0]) / whole_s if whole_s else 0.0
        return min(n_parts - 1, int(share * n_parts))

    def curves(
        self, slices: Floats, slice_s: float, start_s: float, watched: Floats | None, freed: Floats | None = None
    ) -> Curves:
        troughs = self._troughs[:, np.isfinite(self._troughs).all(axis=0)]
        return Curves(
            self._elapsed_s,
            len(self._times),
            self._values[0],
            self._values[1],
            self.grouping.sums(slices),
            slice_s,
            start_s,
            troughs,
            self._peaks,
            self._courses,
            self._values[2],
            watched,
            np.zeros(0) if freed is None else self.grouping.sums(freed),
        )


@dataclass(frozen=True, slots=True)
class Edges:
    """The edges of the parts of a window, each a time between two snapshots.

    Attributes:
        elapsed_s: Time of each edge, in order.
        shares: For each snapshot that counts at an edge: the edge, and the weight of the snapshot there. The weights of
            an edge add up to 1.
    """

    elapsed_s: Floats
    shares: dict[int, list[tuple[int, float]]]

    def values(self, rows: Floats) -> Floats:
        """Values at the edges, one column an edge; ``rows`` has one column a snapshot."""
        values = np.zeros((len(rows), len(self.elapsed_s)))
        for number, shares in self.shares.items():
            for column, share in shares:
                values[:, column] += share * rows[:, number]
        return values


def part_edges(elapsed_s: Sequence[float]) -> Edges:
    """The edges of at most eight parts of the window: equal parts, or one for each two snapshots where these are few.

    A value at an edge lies on the line between the snapshots beside it. Snapshots of a busy machine are late by chance:
    parts that end at the nearest snapshot have unequal lengths, and their rates differ where the course is even.

    Args:
        elapsed_s: Times of the snapshots, in order. Of those of one moment the last one counts.
    """
    distinct: list[int] = []
    for i in reversed(range(len(elapsed_s))):
        if not distinct or elapsed_s[i] < elapsed_s[distinct[-1]]:
            distinct.append(i)
    distinct.reverse()
    times = np.array([elapsed_s[i] for i in distinct], dtype=np.float64)
    if len(times) <= N_PARTS + 1:
        return Edges(times, {number: [(column, 1.0)] for column, number in enumerate(distinct)})
    wanted = np.linspace(times[0], times[-1], N_PARTS + 1)
    shares: dict[int, list[tuple[int, float]]] = {}
    for column, moment in enumerate(wanted.tolist()):
        after = max(1, min(len(times) - 1, int(np.searchsorted(times, moment))))
        share = (moment - times[after - 1]) / (times[after] - times[after - 1])
        for number, weight in ((distinct[after - 1], 1.0 - share), (distinct[after], share)):
            if weight > 0:
                shares.setdefault(number, []).append((column, float(weight)))
    return Edges(wanted, shares)
