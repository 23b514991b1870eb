"""Growth of memory: its rate with a confidence interval, and a verdict in one word.

The window is divided into eight equal parts. The slope is the mean growth of the parts, and its 95 % interval is that
of Student's t over them. Parts do not overlap, so that noise does not make the interval too narrow, as more snapshots
do in a regression.

A rising curve does not prove growth without bound, because a cache that fills looks the same. So "growing" also
requires that the end of the window still rises and, if birth slices were recorded, that memory from every part of the
window is still outstanding.

Caveat: a cache that takes longer than the whole window to fill cannot be distinguished from a leak.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from nativeleak.model import Owner
from nativeleak.recording import Recording

Floats: TypeAlias = npt.NDArray[np.float64]
Bools: TypeAlias = npt.NDArray[np.bool_]
Ints: TypeAlias = npt.NDArray[np.int64]

N_PARTS: Final = 8
MIN_SNAPSHOTS: Final = 4
"""With fewer snapshots the verdict is "undecided"."""

_T_975: Final = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365)
"""97.5 % quantiles of Student's t for 1 to 7 degrees of freedom. Source: any table of the distribution."""

_MIN_BLOCKS: Final = 6
_MIN_LATE_SHARE: Final = 0.25
_STEADY_SHARE: Final = 0.10

_N_COHORTS: Final = 12
_N_OLD_COHORTS: Final = 9
_MIN_SURVIVING_COHORTS: Final = 5
_MIN_SLICES_IN_USE: Final = 8


class Verdict(StrEnum):
    """Verdict on the course of a memory total; the values are those of the JSON report."""

    GROWING = "growing"
    STEADY = "steady"
    SHRINKING = "shrinking"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Growth:
    """Growth of one total: bytes a second, the ends of the 95 % interval, and the verdict."""

    slope_bytes_per_s: float
    low_bytes_per_s: float
    high_bytes_per_s: float
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Curves:
    """Totals at the edges of the parts; every array has one row a curve and one column an edge.

    Attributes:
        elapsed_s: Time of each edge.
        n_snapshots: Number of snapshots from which the edges were chosen.
        n_bytes: Outstanding bytes.
        n_blocks: Outstanding allocations; empty if a curve does not consist of blocks.
        slices: Bytes by birth slice, oldest first, at the end; empty if none were recorded.
        slice_s: Width of a birth slice, seconds; 0.0 if none were recorded.
    """

    elapsed_s: Floats
    n_snapshots: int
    n_bytes: Floats
    n_blocks: Floats
    slices: Floats
    slice_s: float = 0.0

    def grouped(self, labels: Ints, n_groups: int) -> Curves:
        """Sums of the curves with the same label; curves with label -1 are left out."""
        return Curves(
            self.elapsed_s,
            self.n_snapshots,
            _sum_rows(self.n_bytes, labels, n_groups),
            _sum_rows(self.n_blocks, labels, n_groups),
            _sum_rows(self.slices, labels, n_groups),
            self.slice_s,
        )


def site_curves(recording: Recording) -> Curves:
    """The curves of all sites, one row a site in the order of ``Recording.sites``."""
    times = [snapshot.elapsed_s for snapshot in recording.snapshots]
    edges = part_edges(times)
    n_sites = len(recording.sites)
    n_bytes, n_blocks = np.zeros((n_sites, len(edges))), np.zeros((n_sites, len(edges)))
    bytes_now, blocks_now = np.zeros(n_sites), np.zeros(n_sites)
    column = {edge: i for i, edge in enumerate(edges)}
    for number, samples in enumerate(recording.samples()):
        ids = np.asarray(samples.site_id)
        bytes_now[ids] = np.asarray(samples.outstanding_bytes)
        blocks_now[ids] = np.asarray(samples.outstanding_count)
        if number in column:
            n_bytes[:, column[number]] = bytes_now
            n_blocks[:, column[number]] = blocks_now
    slice_s = recording.snapshots[-1].slice_s if recording.snapshots else 0.0
    width = max((len(site.slices) for site in recording.sites), default=0)
    slices = np.zeros((n_sites, width))
    for i, site in enumerate(recording.sites):
        if site.slices:
            slices[i, : len(site.slices)] = [pair[0] for pair in site.slices]
    return Curves(np.array(times)[edges], len(times), n_bytes, n_blocks, slices, slice_s)


def resident_estimate(recording: Recording) -> list[float]:
    """Bytes of resident memory that the sites account for, at every snapshot.

    Resident bytes if they were measured, else outstanding bytes. Memory that allocators mapped for themselves is left
    out, because the blocks inside it are counted.
    """
    counts = np.array([site.owner is not Owner.ALLOCATOR for site in recording.sites], dtype=np.bool_)
    now = np.zeros(len(counts))
    sums = []
    for samples in recording.samples():
        resident, outstanding = np.asarray(samples.resident_bytes), np.asarray(samples.outstanding_bytes)
        now[np.asarray(samples.site_id)] = np.where(resident >= 0, resident, outstanding)
        sums.append(float(now[counts].sum()))
    return sums


def course(elapsed_s: Sequence[float], n_bytes: Sequence[float]) -> Growth:
    """Growth of one total that is not a sum of blocks, such as resident memory."""
    edges = part_edges(elapsed_s)
    rows = np.array([n_bytes], dtype=np.float64).reshape(1, -1)[:, edges]
    none = np.zeros((1, 0))
    return measure(Curves(np.array(elapsed_s)[edges], len(elapsed_s), rows, none, none))[0]


def part_edges(elapsed_s: Sequence[float]) -> list[int]:
    """Indices of the snapshots that divide the window into at most eight parts of about equal length, none empty."""
    edges = list(range(len(elapsed_s)))
    if len(elapsed_s) > N_PARTS + 1:
        wanted = np.linspace(elapsed_s[0], elapsed_s[-1], N_PARTS + 1)
        times = np.array(elapsed_s)
        edges = sorted({int(np.abs(times - moment).argmin()) for moment in wanted} | {len(times) - 1})
    later: list[int] = []
    for i in reversed(edges):
        if not later or elapsed_s[i] < elapsed_s[later[-1]]:
            later.append(i)
    return later[::-1]


def measure(curves: Curves) -> list[Growth]:
    """Growth and verdict of every curve."""
    if len(curves.elapsed_s) < 3:
        return _too_short(curves)
    added = np.diff(curves.n_bytes, axis=1)
    spans = np.diff(curves.elapsed_s)
    slopes, margins = _mean_slopes(added, spans)
    low, high = slopes - margins, slopes + margins
    grows = (low > 0) & _rises_to_the_end(added) & _has_substance(curves, added)
    last, peak = curves.n_bytes[:, -1], np.abs(curves.n_bytes).max(axis=1, initial=0.0)
    flat = (low <= 0) & (high >= 0) & (np.abs(last - curves.n_bytes[:, 0]) <= _STEADY_SHARE * peak)
    tests = {Verdict.GROWING: grows, Verdict.SHRINKING: high < 0, Verdict.STEADY: flat}
    verdicts = np.full(len(slopes), Verdict.UNDECIDED.value, dtype="<U9")
    for verdict, holds in tests.items():
        verdicts[holds & (curves.n_snapshots >= MIN_SNAPSHOTS)] = verdict.value
    rows = zip(slopes.tolist(), low.tolist(), high.tolist(), verdicts.tolist(), strict=True)
    return [Growth(slope, lower, upper, Verdict(verdict)) for slope, lower, upper, verdict in rows]


def _too_short(curves: Curves) -> list[Growth]:
    """With one or two snapshots the interval covers every possible course, from losing all to gaining all of it."""
    rows = curves.n_bytes
    if not rows.shape[1]:
        return [Growth(0.0, 0.0, 0.0, Verdict.UNDECIDED)] * len(rows)
    slopes = np.zeros(len(rows))
    if rows.shape[1] == 2:
        slopes = (rows[:, 1] - rows[:, 0]) / max(curves.elapsed_s[1] - curves.elapsed_s[0], 1e-9)
    bounds = np.maximum(np.abs(slopes), np.abs(rows).max(axis=1) / max(curves.elapsed_s[-1], 1e-9))
    return [
        Growth(slope, -bound, bound, Verdict.UNDECIDED)
        for slope, bound in zip(slopes.tolist(), bounds.tolist(), strict=True)
    ]


def _mean_slopes(added: Floats, spans: Floats) -> tuple[Floats, Floats]:
    weights = spans / spans.sum()
    slopes = added.sum(axis=1) / spans.sum()
    n_parts = len(spans)
    spread = (weights * (added / spans - slopes[:, None]) ** 2).sum(axis=1) * n_parts / (n_parts - 1)
    margins = _T_975[n_parts - 2] * np.sqrt(spread / n_parts)
    # Equal parts differ only by rounding: an interval of 1e-12 bytes must not make a flat curve rise.
    return slopes, np.where(margins < 1e-6, 0.0, margins)


def _rises_to_the_end(added: Floats) -> Bools:
    third = max(1, added.shape[1] // 3)
    first, last = added[:, :third].sum(axis=1), added[:, -third:].sum(axis=1)
    return np.asarray((last > 0) & (last >= _MIN_LATE_SHARE * first))


def _has_substance(curves: Curves, added: Floats) -> Bools:
    """Whether blocks of all ages are outstanding; for a curve of few blocks, whether it grew in every part.

    Source: the rule by survivors, rss-ledger-and-verdicts.md 7.3, without its condition on the age of freed blocks,
    which is not recorded.
    """
    n_rows = len(added)
    if not curves.n_blocks.shape[1]:
        return np.ones(n_rows, dtype=np.bool_)
    blocks = curves.n_blocks
    ever_larger = (added > 0).all(axis=1) & (blocks[:, -1] <= 1.2 * np.maximum(blocks[:, 0], 1))
    enough = blocks[:, -1] >= _MIN_BLOCKS
    n_in_use = math.ceil(curves.elapsed_s[-1] / curves.slice_s) if curves.slice_s else 0
    if n_in_use < _MIN_SLICES_IN_USE:
        return np.asarray(enough | ever_larger)
    recorded = curves.slices.sum(axis=1) > 0
    return np.asarray((enough & (~recorded | _survivors_of_all_ages(curves))) | ever_larger)


def _survivors_of_all_ages(curves: Curves) -> Bools:
    end_s = float(curves.elapsed_s[-1])
    edges = np.linspace(0.0, end_s, _N_COHORTS + 1)
    cohorts = np.zeros((len(curves.slices), _N_COHORTS))
    for i in range(curves.slices.shape[1]):
        start, stop = i * curves.slice_s, min((i + 1) * curves.slice_s, end_s)
        if start < stop:
            shares = [max(0.0, min(stop, b) - max(start, a)) / (stop - start) for a, b in pairwise(edges.tolist())]
            cohorts += curves.slices[:, i : i + 1] * np.array(shares)
    old = cohorts[:, :_N_OLD_COHORTS]
    thirds = old.reshape(len(old), 3, _N_OLD_COHORTS // 3).sum(axis=2)
    surviving = (old > 0).sum(axis=1) >= _MIN_SURVIVING_COHORTS
    return np.asarray(surviving & (thirds > 0).all(axis=1) & (thirds[:, 2] >= _MIN_LATE_SHARE * thirds[:, 0]))


def _sum_rows(values: Floats, labels: Ints, n_groups: int) -> Floats:
    sums = np.zeros((n_groups, values.shape[1]))
    chosen = labels >= 0
    np.add.at(sums, labels[chosen], values[chosen])
    return sums
