"""Growth of memory: its rate with a confidence interval, and a verdict in one word.

The window is divided into eight equal parts. The slope is the mean growth of the parts, and its 95 % interval is that
of Student's t over them. Parts do not overlap, so that noise does not make the interval too narrow, as more snapshots
do in a regression. A course that falls again and again, as under a garbage collector, is judged by its lowest values
in ten parts, whose trend is tested by Mann and Kendall's test, or by what stayed of every age: then the slope is that
of the survivors.

A rising curve does not prove growth without bound, because a cache that fills looks the same. So "growing" also
requires that the end of the window still rises and, if birth slices were recorded, that memory from every part of the
window is still outstanding and that the oldest part did not shrink away, or that nothing was freed at all.

Where blocks were sampled, the interval is at least that of the samples, a count of blocks is what the samples are worth
(``sampled.py``), and no verdict is given that the samples do not prove.

Caveat: a cache that takes longer than the whole window to fill cannot be distinguished from a leak.

Source: the rule by survivors, rss-ledger-and-verdicts.md 7.3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Final

import numpy as np

from nativeleak.analysis.curves import MIN_SNAPSHOTS, Bools, Curves, EachSite, Floats, part_edges, read_curves
from nativeleak.analysis.cycles import cycles, mean_slopes
from nativeleak.analysis.sampled import by_samples, change_margins
from nativeleak.analysis.windowed import estimate, tells_growth
from nativeleak.model import Owner
from nativeleak.recording import Recording

_Z_99: Final = 2.326
"""99 % quantile of a normal distribution, one-sided: the level of Mann and Kendall's test."""

_MIN_BLOCKS: Final = 6
_MIN_LATE_SHARE: Final = 0.25
_MIN_OLD_SHARE: Final = 0.40
_STEADY_SHARE: Final = 0.10
_WIDEST_SHARE: Final = 0.25
_MIN_LATER_STEPS: Final = 0.50
_MUCH_LARGER: Final = 1.5
_SAME_BLOCKS: Final = 1.2
_SLICED_SHARE: Final = 0.50
_WARM_UP_PARTS: Final = 3
_MIN_LATE_PARTS: Final = 5
_MIN_LATE_BLOCKS: Final = 20
_EVEN_SHARE: Final = 0.60
_STEP_SHARE: Final = 0.01
_FEW_STEPS: Final = 3

_N_COHORTS: Final = 12
_N_OLD_COHORTS: Final = 9
_MIN_SURVIVING_COHORTS: Final = 5
_MIN_SLICES_IN_USE: Final = 8

_LEAST_WATCH_S: Final = 60.0
_LONGER: Final = 3.0


class Verdict(StrEnum):
    """Verdict on the course of a memory total; the values are those of the JSON report."""

    GROWING = "growing"
    LEVELLING_OFF = "levelling-off"
    PERIODIC = "periodic"
    STEADY = "steady"
    SHRINKING = "shrinking"
    UNDECIDED = "undecided"
    UNKNOWN = "unknown"
    """Too little was watched for a verdict; of the process only."""


@dataclass(frozen=True, slots=True)
class Growth:
    """Growth of one total: bytes a second, the ends of the 95 % interval, and the verdict.

    Attributes:
        enough_s: Length of a trace that would decide; None unless the verdict is "undecided".
    """

    slope_bytes_per_s: float
    low_bytes_per_s: float
    high_bytes_per_s: float
    verdict: Verdict
    enough_s: float | None = None


def resident_estimate(recording: Recording) -> list[float]:
    """Bytes of resident memory that the sites account for, at every snapshot.

    Resident bytes if they were measured, else outstanding bytes. Memory that allocators mapped for themselves is left
    out, because the blocks inside it are counted.
    """
    counts = np.array(recording.site_columns.owner, dtype=object) != Owner.ALLOCATOR.value
    now = np.zeros(len(counts))
    sums = []
    for samples in recording.samples():
        resident, outstanding = np.asarray(samples.resident_bytes), np.asarray(samples.outstanding_bytes)
        now[np.asarray(samples.site_id)] = np.where(resident >= 0, resident, outstanding)
        sums.append(float(now[counts].sum()))
    return sums


def site_curves(recording: Recording) -> Curves:
    """The curves of all sites, one row a site in the order of ``Recording.sites``."""
    return read_curves(recording, [EachSite(len(recording.site_columns))])[0]


def course(elapsed_s: Sequence[float], n_bytes: Sequence[float]) -> Growth:
    """Growth of one total that is not a sum of blocks, such as resident memory."""
    edges = part_edges(elapsed_s)
    rows = edges.values(np.array([n_bytes], dtype=np.float64).reshape(1, -1))
    none = np.zeros((1, 0))
    return measure(Curves(edges.elapsed_s, len(elapsed_s), rows, none, none))[0]


def measure(curves: Curves) -> list[Growth]:
    """Growth and verdict of every curve."""
    curves = by_samples(curves)
    # With so few snapshots nothing is decided, but their differences are known.
    if curves.watched is not None and (curves.n_snapshots >= MIN_SNAPSHOTS or tells_growth(curves)):
        return _measure_windows(curves)
    if len(curves.elapsed_s) < 3:
        return _too_short(curves)
    added = np.diff(curves.n_bytes, axis=1)
    spans = np.diff(curves.elapsed_s)
    slopes, margins = mean_slopes(added, spans)
    by_chance = change_margins(curves)
    least_margins, is_sampled = by_chance / spans.sum(), by_chance > 0
    margins = np.maximum(margins, least_margins)
    low, high = slopes - margins, slopes + margins
    rising = low > 0
    troughs_rise = _troughs_rise(curves)
    certain = rising | (troughs_rise & _troughs_rise_for_certain(curves))
    # Where snapshots are few the parts between them are unequal: what is compared is what each adds in the same time.
    even = added * (spans.mean() / spans)
    late = np.where(rising, _rises_to_the_end(even), _rises_to_the_end(_trough_steps(curves)))
    last, peak = curves.n_bytes[:, -1], _peaks(curves)
    net = last - curves.n_bytes[:, 0]
    swings, by_cycles, cycle_slopes, cycle_margins = cycles(curves)
    stays, kept_slopes, kept_margins = _residue(curves)
    kept_slopes = np.where(stays, kept_slopes, cycle_slopes)
    kept_margins = np.where(stays, kept_margins, cycle_margins)
    stays = stays | (by_cycles & _has_no_slices(curves))
    goes_on, late_slopes, late_margins = _goes_on(curves, added, spans)
    flat = (low <= 0) & (high >= 0) & (np.abs(net) <= _STEADY_SHARE * peak)
    narrow = margins * float(spans.sum()) <= _WIDEST_SHARE * peak
    clear = by_chance <= _WIDEST_SHARE * peak
    tests = {
        Verdict.STEADY: flat & narrow & ~troughs_rise,
        Verdict.PERIODIC: swings & ~troughs_rise & clear,
        Verdict.LEVELLING_OFF: _levels_off(curves, even, peak) & ~(late & rising) & clear,
        Verdict.SHRINKING: high < 0,
        Verdict.GROWING: (late & (certain & _has_substance(curves, even) | _grows_ever_larger(curves, even)))
        | (swings & stays)
        | (goes_on & ~swings)
        | (rising & ~swings & _falls_behind(curves, even)),
    }
    by_residue = swings & stays & ~rising
    slopes = np.where(by_residue, kept_slopes, slopes)
    margins = np.where(by_residue, kept_margins, margins)
    after_warm_up = goes_on & ~swings & ~late
    slopes = np.where(after_warm_up, late_slopes, slopes)
    margins = np.where(after_warm_up, late_margins, margins)
    margins = np.maximum(margins, least_margins)
    low, high = slopes - margins, slopes + margins
    tests[Verdict.GROWING] &= ~is_sampled | (low > 0)
    verdicts = np.full(len(slopes), Verdict.UNDECIDED.value, dtype="<U13")
    for verdict, holds in tests.items():
        verdicts[holds & (curves.n_snapshots >= MIN_SNAPSHOTS)] = verdict.value
    enough = _enough_s(curves)
    rows = zip(slopes.tolist(), low.tolist(), high.tolist(), verdicts.tolist(), enough.tolist(), strict=True)
    return [
        Growth(slope, lower, upper, Verdict(verdict), enough_s if verdict == Verdict.UNDECIDED else None)
        for slope, lower, upper, verdict, enough_s in rows
    ]


def _measure_windows(curves: Curves) -> list[Growth]:
    """The same where the heap was watched in windows: it grows, or nothing is decided."""
    slopes, margins, certain = estimate(curves)
    enough_s = watch_s(_LONGER * (float(curves.elapsed_s[-1]) if len(curves.elapsed_s) else 0.0))
    return [
        Growth(slope, slope - margin, slope + margin, Verdict.GROWING)
        if grows
        else Growth(slope, slope - margin, slope + margin, Verdict.UNDECIDED, enough_s)
        for slope, margin, grows in zip(slopes.tolist(), margins.tolist(), certain.tolist(), strict=True)
    ]


def watch_s(seconds: float) -> float:
    """A length of a trace, rounded up to what a person would ask for."""
    wanted = max(_LEAST_WATCH_S, seconds)
    unit = 60.0 if wanted <= 600 else 600.0 if wanted <= 7200 else 3600.0
    return math.ceil(round(wanted / unit, 6)) * unit


def _enough_s(curves: Curves) -> Floats:
    """Three windows; longer where that gives too few blocks."""
    window_s = float(curves.elapsed_s[-1]) - curves.start_s
    wanted = np.full(len(curves.n_bytes), _LONGER * window_s)
    if curves.n_blocks.shape[1]:
        blocks = curves.n_blocks[:, -1]
        wanted = np.maximum(wanted, np.where(blocks > 0, 2 * _MIN_BLOCKS * window_s / np.maximum(blocks, 1), 0))
    return np.array([watch_s(seconds) for seconds in wanted.tolist()])


def _too_short(curves: Curves) -> list[Growth]:
    """With one or two snapshots the interval covers every possible course, from losing all to gaining all of it."""
    rows = curves.n_bytes
    elapsed_s = float(curves.elapsed_s[-1]) if len(curves.elapsed_s) else 0.0
    enough_s = watch_s(_LONGER * elapsed_s)
    if not rows.shape[1]:
        return [Growth(0.0, 0.0, 0.0, Verdict.UNDECIDED, enough_s)] * len(rows)
    slopes = np.zeros(len(rows))
    if rows.shape[1] == 2:
        slopes = (rows[:, 1] - rows[:, 0]) / max(curves.elapsed_s[1] - curves.elapsed_s[0], 1e-9)
    bounds = np.maximum(np.abs(slopes), np.abs(rows).max(axis=1) / max(elapsed_s, 1e-9))
    return [
        Growth(slope, -bound, bound, Verdict.UNDECIDED, enough_s)
        for slope, bound in zip(slopes.tolist(), bounds.tolist(), strict=True)
    ]


def _peaks(curves: Curves) -> Floats:
    peaks = np.abs(curves.n_bytes).max(axis=1, initial=0.0)
    return np.asarray(np.maximum(peaks, curves.peaks[:, 0]) if curves.peaks.shape[1] else peaks)


def _trough_steps(curves: Curves) -> Floats:
    """Differences of the lowest values of the parts; no column where only edges are known."""
    if curves.troughs.shape[1] < 2:
        return np.zeros((len(curves.n_bytes), 0))
    return np.diff(curves.troughs, axis=1)


def _troughs_rise(curves: Curves) -> Bools:
    """Whether the lowest values of the parts rise, by Mann and Kendall's test without its correction for ties."""
    troughs = curves.troughs
    n = troughs.shape[1]
    if n < 2:
        return np.zeros(len(curves.n_bytes), dtype=np.bool_)
    signs = np.zeros(len(troughs))
    for i in range(n - 1):
        signs += np.sign(troughs[:, i + 1 :] - troughs[:, i : i + 1]).sum(axis=1)
    return np.asarray((signs - 1) / math.sqrt(n * (n - 1) * (2 * n + 5) / 18) > _Z_99)


def _troughs_rise_for_certain(curves: Curves) -> Bools:
    """Whether the mean rise from one trough to the next lies above zero with its interval: no few large steps alone."""
    steps = _trough_steps(curves)
    if steps.shape[1] < 2:
        return np.zeros(len(steps), dtype=np.bool_)
    slopes, margins = mean_slopes(steps, np.ones(steps.shape[1]))
    return np.asarray(slopes - margins > 0)


def _rises_to_the_end(added: Floats) -> Bools:
    if not added.shape[1]:
        return np.zeros(len(added), dtype=np.bool_)
    third = max(1, added.shape[1] // 3)
    first, last = added[:, :third].sum(axis=1), added[:, -third:].sum(axis=1)
    return np.asarray((last > 0) & (last >= _MIN_LATE_SHARE * first))


def _levels_off(curves: Curves, added: Floats, peak: Floats) -> Bools:
    """Whether it rose at first and hardly any more at the end, without falling back."""
    third = max(1, added.shape[1] // 3)
    first, last = added[:, :third].sum(axis=1), added[:, -third:].sum(axis=1)
    rose = curves.n_bytes[:, -1] > np.maximum(_STEADY_SHARE * peak, curves.n_bytes[:, 0] * (1 + _STEADY_SHARE))
    kept = curves.n_bytes[:, -1] >= (1 - _WIDEST_SHARE) * peak
    levels = np.asarray((first > 0) & (np.abs(last) < _MIN_LATE_SHARE * first) & rose & kept)
    for row in np.flatnonzero(levels).tolist():
        levels[row] = not _may_step_again(added[row] > _STEP_SHARE * peak[row])
    return levels


def _may_step_again(steps: Bools) -> bool:
    """Whether it rose in few steps and is flat for no longer than a buffer is that doubles once more.

    Args:
        steps: For each part of the window, whether it rose there.
    """
    places = np.flatnonzero(steps).tolist()
    if len(places) not in range(2, _FEW_STEPS + 1):
        return False
    return len(steps) - 1 - places[-1] <= 2 * (places[-1] - places[-2])


def _has_no_slices(curves: Curves) -> Bools:
    """Whether birth slices tell nothing of a curve: none were recorded, or only of a smaller part of it."""
    if not curves.slices.shape[1]:
        return np.ones(len(curves.n_bytes), dtype=np.bool_)
    return np.asarray(curves.slices.sum(axis=1) < _SLICED_SHARE * curves.n_bytes[:, -1])


def _goes_on(curves: Curves, added: Floats, spans: Floats) -> tuple[Bools, Floats, Floats]:
    """Whether it goes on to rise after a steep beginning, as evenly as only a leak does beside a cache that was filled.

    Returns:
        Whether it does, for certain and with blocks of these ages; bytes a second; half the width of their interval.
    """
    n_rows = len(added)
    blocks = curves.n_blocks
    late, late_spans = added[:, _WARM_UP_PARTS:], spans[_WARM_UP_PARTS:]
    if late.shape[1] < _MIN_LATE_PARTS or not curves.slices.shape[1] or not blocks.shape[1]:
        return np.zeros(n_rows, dtype=np.bool_), np.zeros(n_rows), np.zeros(n_rows)
    slopes, margins = mean_slopes(late, late_spans)
    is_even = (late > 0).all(axis=1) & (late[:, -2:].sum(axis=1) >= _EVEN_SHARE * late[:, :2].sum(axis=1))
    cohorts = _cohorts(curves)[0][:, _N_COHORTS - _N_OLD_COHORTS : _N_OLD_COHORTS]
    is_held = (cohorts > 0).all(axis=1) & (cohorts.min(axis=1) >= _EVEN_SHARE / 2 * cohorts.max(axis=1))
    enough = blocks[:, -1] - blocks[:, _WARM_UP_PARTS] >= _MIN_LATE_BLOCKS
    found = is_even & is_held & enough & (slopes - margins > 0)
    return np.asarray(found), slopes, margins


def _falls_behind(curves: Curves, added: Floats) -> Bools:
    """Whether it is a queue whose reader is too slow: the oldest go, and it rises evenly to the end all the same.

    What only keeps blocks for a time would be level since the first of them went. Where births become more and more,
    young ages hold more than the others.
    """
    n_rows = len(added)
    if not curves.slices.shape[1] or not curves.n_blocks.shape[1]:
        return np.zeros(n_rows, dtype=np.bool_)
    third = max(1, added.shape[1] // 3)
    is_even = (added > 0).all(axis=1)
    is_even &= added[:, -third:].sum(axis=1) >= _EVEN_SHARE * added[:, :third].sum(axis=1)
    enough = curves.n_blocks[:, -1] >= _MIN_LATE_BLOCKS
    cohorts = _cohorts(curves)[0]
    oldest = (cohorts > 0).argmax(axis=1)
    found = is_even & enough & (oldest >= _N_COHORTS // 4) & (oldest <= _N_COHORTS - 4)
    for row in np.flatnonzero(found).tolist():
        left = cohorts[row, oldest[row] + 1 : -1]  # the first and the last are parts of an age
        found[row] = left.min() >= _EVEN_SHARE * left.max()
    return np.asarray(found)


def _has_substance(curves: Curves, added: Floats) -> Bools:
    """Whether blocks of all ages are outstanding."""
    if not curves.n_blocks.shape[1]:
        return np.ones(len(added), dtype=np.bool_)
    blocks = curves.n_blocks
    enough = blocks[:, -1] >= _MIN_BLOCKS
    window_s = float(curves.elapsed_s[-1]) - curves.start_s
    n_in_use = math.ceil(window_s / curves.slice_s) if curves.slice_s else 0
    if n_in_use < _MIN_SLICES_IN_USE:
        return np.asarray(enough)
    keeps = _has_no_slices(curves) | _freed_nothing(curves) | _survivors_of_all_ages(curves, added)
    return np.asarray(enough & keeps)


def _freed_nothing(curves: Curves) -> Bools:
    """Whether each block is still there: then an age of which nothing is left had no births, as between bursts."""
    if not len(curves.n_freed):
        return np.zeros(len(curves.n_bytes), dtype=np.bool_)
    return np.asarray(curves.n_freed == 0)


def _grows_ever_larger(curves: Curves, added: Floats) -> Bools:
    """Whether few blocks are replaced by larger ones all the time: in every part, or in steps that do not get smaller.

    Source: the second path of rss-ledger-and-verdicts.md 7.3.
    """
    blocks = curves.n_blocks
    if not blocks.shape[1]:
        return np.zeros(len(added), dtype=np.bool_)
    third = max(1, added.shape[1] // 3)
    steps_stay = added[:, -third:].sum(axis=1) >= _MIN_LATER_STEPS * added[:, :third].sum(axis=1)
    larger = curves.n_bytes[:, -1] > _MUCH_LARGER * curves.n_bytes[:, 0]
    replaced = blocks[:, -1] <= _SAME_BLOCKS * np.maximum(blocks[:, 0], 1)
    return np.asarray(replaced & ((added > 0).all(axis=1) | (_troughs_rise(curves) & steps_stay & larger)))


def _cohorts(curves: Curves) -> tuple[Floats, float]:
    """Bytes at the end by time of birth, in equal parts of the window, oldest first; the width of a part in seconds."""
    end_s = float(curves.elapsed_s[-1])
    edges = np.linspace(curves.start_s, end_s, _N_COHORTS + 1)
    cohorts = np.zeros((len(curves.slices), _N_COHORTS))
    for i in range(curves.slices.shape[1]):
        start, stop = i * curves.slice_s, min((i + 1) * curves.slice_s, end_s)
        if start < stop:
            shares = [max(0.0, min(stop, b) - max(start, a)) / (stop - start) for a, b in pairwise(edges.tolist())]
            cohorts += curves.slices[:, i : i + 1] * np.array(shares)
    return cohorts, float(edges[1] - edges[0])


def _survivors_of_all_ages(curves: Curves, added: Floats) -> Bools:
    old = _cohorts(curves)[0][:, :_N_OLD_COHORTS]
    thirds = old.reshape(len(old), 3, _N_OLD_COHORTS // 3).sum(axis=2)
    surviving = (old > 0).sum(axis=1) >= _MIN_SURVIVING_COHORTS
    third = max(1, added.shape[1] // 3)
    faster = added[:, -third:].sum(axis=1) >= added[:, :third].sum(axis=1)
    old_kept = (thirds[:, 0] >= _MIN_OLD_SHARE * thirds[:, 2]) | faster
    late = thirds[:, 2] >= _MIN_LATE_SHARE * thirds[:, 0]
    return np.asarray(surviving & (thirds > 0).all(axis=1) & late & old_kept)


def _residue(curves: Curves) -> tuple[Bools, Floats, Floats]:
    """What stays of a course that falls again and again, as under a garbage collector: the old survivors' growth.

    Returns:
        Whether as much is left of every age, for certain; bytes a second that stay; half the width of their interval.
    """
    n_rows = len(curves.n_bytes)
    window_s = float(curves.elapsed_s[-1]) - curves.start_s
    if not curves.slice_s or not curves.n_blocks.shape[1] or window_s < _MIN_SLICES_IN_USE * curves.slice_s:
        return np.zeros(n_rows, dtype=np.bool_), np.zeros(n_rows), np.zeros(n_rows)
    cohorts, width_s = _cohorts(curves)
    old = cohorts[:, :_N_OLD_COHORTS]
    thirds = old.reshape(n_rows, 3, _N_OLD_COHORTS // 3).sum(axis=2)
    even = (old > 0).all(axis=1) & (thirds.min(axis=1) >= _MIN_OLD_SHARE * thirds.max(axis=1))
    slopes, margins = mean_slopes(old, np.full(_N_OLD_COHORTS, width_s))
    stays = even & (slopes - margins > 0) & (curves.n_blocks[:, -1] >= _MIN_BLOCKS)
    return np.asarray(stays), slopes, margins
