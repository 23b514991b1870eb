"""Reads of one recording what a report of many keeps: sums by process, call path and thread pool.

Nothing of the recording stays open. Memory that allocators took from the kernel for themselves is left out, as in all
totals.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from nativeleak.analysis.curves import MIN_WATCHED_PCT, Span, part_edges, watched_span
from nativeleak.analysis.cycles import mean_slopes
from nativeleak.analysis.select import Selection, pool_of, thread_test
from nativeleak.analysis.shared_paths import NO_PATH, SharedPaths
from nativeleak.analysis.table import thread_of
from nativeleak.model import Kind, Look, Owner, TargetInfo, ThreadInfo, TraceInfo
from nativeleak.recording import Recording
from nativeleak.recording.sites import SITE_NUMBERS
from nativeleak.reports.held import PROVEN, Held

Ints = npt.NDArray[np.int64]
Keys = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]

KINDS: Final = tuple(Kind)
OWNERS: Final = tuple(Owner)
"""Rows hold the positions of kinds and owners in these."""
FIGURES: Final = (
    "outstanding_bytes",
    "outstanding_count",
    "allocated_bytes",
    "allocated_count",
    "reserved_bytes",
    "resident_bytes",
)
"""Columns of ``Part.figures``: bytes and counts."""
FATES: Final = ("n_recorded", "n_in_use", "n_lost", "lost_bytes", "n_unproven")
"""Columns of ``Part.fates``: those of ``BlockFate``, and how many of the lost blocks are not proven to be."""
_COLUMN: Final = {name: number for number, name in enumerate(SITE_NUMBERS)}
_KEYS: Final = 5
_LEAST_EDGES: Final = 3
_LOSSES: Final = ("lost_", "truncated_", "unresolved_")


@dataclass(frozen=True, slots=True)
class Source:
    """A recording of the report.

    Attributes:
        watched_pct: Share of the trace in which calls of the heap were seen.
        counters: Counters of what was lost, without zeros.
        grows: Whether growth of its rows is known; it is not where too little was watched or the trace is too short.
        retired: Allocated bytes and count by kind, of sites that were dropped because all is freed.
        rss_bytes: Resident memory of the targets together at the first and the last snapshot that knows it.
        looks: Who holds the blocks, looked for after the trace: by target; empty where nobody looked.
    """

    name: str
    info: TraceInfo
    targets: tuple[TargetInfo, ...]
    duration_s: float
    sample_bytes: int
    watched_pct: float
    counters: Mapping[str, int]
    grows: bool
    retired: Mapping[Kind, tuple[int, int]]
    rss_bytes: tuple[int, int]
    looks: tuple[Look, ...] = ()


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of one recording.

    Attributes:
        keys: One row each: position in the source's targets (their number for a site of none of them), position in
            ``KINDS`` and in ``OWNERS``, path, pool.
        figures: Columns ``FIGURES``, one row each.
        measured: Whether the resident part was measured.
        growth: Bytes a second, half of the 95 % interval; NaN where unknown.
        sampled: Number of sampled blocks, and variance of the outstanding bytes and count; None where all is exact.
        fates: What became of blocks, as ``FATES``; None where nobody looked.
        held_by: By row: holders of blocks with their numbers of blocks.
    """

    source: Source
    keys: Keys
    figures: Ints
    measured: npt.NDArray[np.bool_]
    growth: Floats
    sampled: Floats | None
    fates: Ints | None = None
    held_by: Mapping[int, Mapping[str, int]] = field(default_factory=dict)


class Pools:
    """Names of thread pools, by number; the same in every recording."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._numbers: dict[str, int] = {}
        self._of_threads: dict[str, int] = {}

    def of_thread(self, thread: str) -> int:
        """Number of the pool of a thread."""
        number = self._of_threads.get(thread)
        if number is None:
            number = self._of_threads[thread] = self.number(pool_of(thread))
        return number

    def number(self, pool: str) -> int:
        """Number of a pool."""
        number = self._numbers.setdefault(pool, len(self.names))
        if number == len(self.names):
            self.names.append(pool)
        return number


def read_part(recording: Recording, paths: SharedPaths, pools: Pools, selection: Selection) -> Part:
    """The rows of a recording.

    Raises:
        RecordingError: The recording is damaged.
        UsageError: A filter makes no sense.
    """
    sites = np.frombuffer(recording.site_numbers(), dtype=np.int64).reshape(-1, len(SITE_NUMBERS))
    span = watched_span(recording)
    uids, thread = np.unique(sites[:, _COLUMN["thread_uid"]], return_inverse=True)
    threads = [thread_of(recording, uid) for uid in uids.tolist()]
    keys = np.empty((len(sites), _KEYS), dtype=np.int32)
    keys[:, 0] = _targets(recording, sites[:, _COLUMN["slot"]])
    keys[:, 1] = sites[:, _COLUMN["kind"]]
    keys[:, 2] = sites[:, _COLUMN["owner"]]
    keys[:, 3] = paths.read(recording, sites[:, _COLUMN["stack_key"]])
    keys[:, 4] = np.array([pools.of_thread(each.name) for each in threads], dtype=np.int32)[thread]
    chosen = (keys[:, 2] != OWNERS.index(Owner.ALLOCATOR)) & (keys[:, 3] != NO_PATH)
    if selection.thread is not None:
        test = _thread_test(selection.thread)
        chosen &= np.array([test(each) for each in threads], dtype=np.bool_)[thread]
    places = np.flatnonzero(chosen)
    _tell_owners(keys, places, paths)
    order, starts, labels = _groups(keys, places)
    figures, measured = _figures(sites[order], starts)
    growth = _growth(recording, span, labels, len(starts))
    source = _source(recording, span, grows=not np.isnan(growth).any() and bool(len(recording.snapshots)))
    sampled, fates = _sampled(recording, labels, len(starts)), _fates(recording, labels, len(starts))
    return Part(source, keys[order[starts]], figures, measured, growth, sampled, *fates)


def _targets(recording: Recording, slots: Ints) -> Keys:
    """Position of each slot's target; the number of targets for a slot that has none, as in a damaged recording."""
    position = {target.slot: i for i, target in enumerate(recording.targets)}
    different, of_site = np.unique(slots, return_inverse=True)
    found = [position.get(slot, len(position)) for slot in different.tolist()]
    return np.array(found, dtype=np.int32)[of_site]


def _thread_test(thread: str) -> Callable[[ThreadInfo], bool]:
    if thread.isdigit():
        return lambda each: each.tid == int(thread)
    test = thread_test(thread)
    return lambda each: test(each.name)


def _tell_owners(keys: Keys, places: Ints, paths: SharedPaths) -> None:
    """Write owners as the names of the frames tell them."""
    distinct, of_place = np.unique(keys[places, 3], return_inverse=True)
    told = [paths.owner(path) for path in distinct.tolist()]
    of_path = np.array([-1 if owner is None else OWNERS.index(owner) for owner in told], dtype=np.int32)
    owners = of_path[of_place]
    keys[places, 2] = np.where(owners >= 0, owners, keys[places, 2])


def _groups(keys: Keys, places: Ints) -> tuple[Ints, Ints, Ints]:
    """Sites in the order of their keys, where each group begins, and the group of each site, -1 for none."""
    order = places[np.lexsort(keys[places].T)]
    labels = np.full(len(keys), -1, dtype=np.int64)
    if not len(order):
        return order, np.zeros(0, dtype=np.int64), labels
    ordered = keys[order]
    begins = np.concatenate(([True], (ordered[1:] != ordered[:-1]).any(axis=1)))
    labels[order] = np.cumsum(begins) - 1
    return order, np.flatnonzero(begins), labels


def _figures(sites: Ints, starts: Ints) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """Sums of each group of sites, and whether the resident part of any was measured."""
    if not len(starts):
        return np.zeros((0, len(FIGURES)), dtype=np.int64), np.zeros(0, dtype=np.bool_)
    allocated, n_allocated, freed, n_freed, reserved, resident = (
        sites[:, _COLUMN[name]]
        for name in (
            "allocated_bytes",
            "allocated_count",
            "freed_bytes",
            "freed_count",
            "reserved_bytes",
            "resident_bytes",
        )
    )
    is_measured = resident >= 0
    columns = (
        allocated - freed,
        n_allocated - n_freed,
        allocated,
        n_allocated,
        reserved,
        np.where(is_measured, resident, 0),
    )
    sums = np.stack([np.add.reduceat(column, starts) for column in columns], axis=1)
    return sums, np.logical_or.reduceat(is_measured, starts)


def _growth(recording: Recording, span: Span, labels: Ints, n_rows: int) -> Floats:
    """Slope and half of its interval of each row; NaN where it is not known."""
    unknown = np.full((n_rows, 2), np.nan)
    times = [snapshot.elapsed_s for snapshot in recording.snapshots][span.first : span.last + 1]
    edges = part_edges(times)
    n_edges = len(edges.elapsed_s)
    if span.in_windows or span.watched_pct < MIN_WATCHED_PCT or n_edges < _LEAST_EDGES:
        return unknown
    placed = np.flatnonzero(labels >= 0)
    rows = labels[placed]
    now = np.zeros(len(labels))
    at_edges = np.zeros((n_rows, n_edges))
    for number, samples in enumerate(recording.samples()):
        now[np.asarray(samples.site_id)] = np.asarray(samples.outstanding_bytes)
        shares = edges.shares.get(number - span.first)
        if shares:
            sums = np.bincount(rows, weights=now[placed], minlength=n_rows)
            for column, share in shares:
                at_edges[:, column] += share * sums
    slopes, margins = mean_slopes(np.diff(at_edges, axis=1), np.diff(edges.elapsed_s))
    return np.stack((slopes, margins), axis=1)


def _sampled(recording: Recording, labels: Ints, n_rows: int) -> Floats | None:
    uncertain = recording.uncertainties()
    if not uncertain:
        return None
    sums = np.zeros((n_rows, 3))
    for position, uncertainty in uncertain.items():
        if 0 <= position < len(labels) and labels[position] >= 0:
            sums[labels[position]] += uncertainty
    return sums


def _fates(recording: Recording, labels: Ints, n_rows: int) -> tuple[Ints | None, dict[int, Counter[str]]]:
    """What became of the blocks of each row, and who holds them."""
    held = Held.read(recording)
    if not held.looks:
        return None, {}
    fates = np.zeros((n_rows, len(FATES)), np.int64)
    held_by: dict[int, Counter[str]] = {}
    slots = recording.site_columns.slot
    for position, fate in held.fates.items():
        row = int(labels[position]) if position < len(labels) else -1
        if row < 0:
            continue
        n_unproven = fate.n_lost if held.certainty_of((slots[position],)) != PROVEN else 0
        fates[row] += fate.n_recorded, fate.n_in_use, fate.n_lost, fate.lost_bytes, n_unproven
        held_by.setdefault(row, Counter()).update(dict(fate.held_by))
    return fates, held_by


def _source(recording: Recording, span: Span, *, grows: bool) -> Source:
    retired: dict[Kind, tuple[int, int]] = {}
    for site in recording.retired:
        if site.owner is not Owner.ALLOCATOR:
            n_bytes, n_blocks = retired.get(site.key.kind, (0, 0))
            retired[site.key.kind] = n_bytes + site.allocated_bytes, n_blocks + site.allocated_count
    info, counters = recording.info, recording.last_snapshot.counters
    rss = [snapshot.rss_bytes for snapshot in recording.snapshots if snapshot.rss_bytes] or [0]
    return Source(
        recording.name,
        info,
        recording.targets,
        recording.elapsed_s,
        max([info.sample_bytes, *(window.sample_bytes for window in recording.windows)]),
        span.watched_pct if info.coverage.has_blocks else 0.0,
        {name: count for name, count in counters.items() if count and name.startswith(_LOSSES)},
        grows,
        retired,
        (rss[0], rss[-1]),
        recording.looks,
    )
