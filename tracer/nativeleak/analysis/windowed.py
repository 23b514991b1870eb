"""Growth where the heap was watched in windows: what is left of the births that were seen, for each second of seeing.

A block that is never freed is left, whenever it was born. So the bytes of an age that are left, divided by the seconds
in which births of that age were seen, are the growth a second of that time. They are taken for the birth slices of the
first three quarters of the trace; younger blocks may still be freed. The estimate is their weighted mean, and its 95 %
interval that of Student's t over them (``_mean_rates``), and not narrower than that of a count of so many blocks.

It grows if something is left of every age, and not less of the old than of the young. What only stayed for a while has
less left of the old; its free, or another block at its address, was seen in a later window, or a walk of the heap found
it gone.

Caveat: a block that was freed unseen, and whose address was given away again unseen, counts as left.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from nativeleak.analysis.curves import Bools, Curves, Floats

_OLD_SHARE: Final = 0.75
_LEAST_OLD: Final = 4
_MIN_BLOCKS: Final = 6
_MIN_OLD_SHARE: Final = 0.40
_THIRDS: Final = 3
_T_975: Final = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201)
"""97.5 % quantiles of Student's t for 1 to 11 degrees of freedom. Source: any table of the distribution."""
_Z_975: Final = 1.96


class Births(NamedTuple):
    """Births that were seen in the same way.

    Attributes:
        left: Bytes that are left of each old birth slice, a row a curve.
        seen: Seconds in which births of each of these slices were seen; none is 0.
        whole: Bytes that are left of all ages, one a curve.
    """

    left: Floats
    seen: Floats
    whole: Floats

    @property
    def tells(self) -> bool:
        """Whether births of enough ages were seen for an estimate."""
        return len(self.seen) >= _LEAST_OLD


def births(curves: Curves) -> tuple[Births, Births]:
    """What was seen in windows, and what at call sites that are watched by themselves."""
    n_slices = curves.slices.shape[1]
    watched = np.zeros(n_slices) if curves.watched is None else curves.watched
    if not curves.own.shape[1]:
        return _old(curves, curves.slices, watched), _old(curves, np.zeros_like(curves.slices), np.zeros(n_slices))
    return _old(curves, curves.slices - curves.own, watched), _old(curves, curves.own, curves.covered)


def _old(curves: Curves, slices: Floats, seen: Floats) -> Births:
    end_s = float(curves.elapsed_s[-1]) if len(curves.elapsed_s) else 0.0
    is_old = (np.arange(slices.shape[1]) + 1) * curves.slice_s <= _OLD_SHARE * end_s
    used = is_old & (seen > 0)
    return Births(slices[:, used], seen[used], slices.sum(axis=1))


def _in_windows(curves: Curves, *, with_sites: bool) -> Births:
    """What windows saw in the time in which call sites were watched by themselves, or in the rest of it.

    Since then a watched call site's blocks are its own: windows see no more of them.
    """
    slices, watched = curves.slices - curves.own, np.zeros(curves.slices.shape[1])
    # In the slice in which the watch began are blocks of both times.
    first = int(np.argmax(curves.covered > 0))
    chosen = np.arange(len(watched)) > first if with_sites else np.arange(len(watched)) < first
    watched[chosen] = curves.watched[chosen] if curves.watched is not None else 0.0
    return _old(curves, np.where(chosen, slices, 0.0), watched)


def own_shares(curves: Curves) -> list[float]:
    """Part of the growth of each curve that was seen at call sites which are watched by themselves, about."""
    in_windows, at_sites = births(curves)
    shares = at_sites.whole / np.maximum(in_windows.whole + at_sites.whole, 1)
    chosen: list[float] = np.where(_estimates(curves)[1], shares, 0.0).tolist()
    return chosen


def tells_growth(curves: Curves) -> bool:
    """Whether births of enough ages were seen for an estimate."""
    return any(each.tells for each in births(curves))


def estimate(curves: Curves) -> tuple[Floats, Floats, Bools]:
    """Growth of each curve in bytes a second, half the width of its interval, and whether it grows for certain."""
    found, _ = _estimates(curves)
    margins = np.sqrt(found.squares)
    even = (found.thirds.min(axis=1) >= _MIN_OLD_SHARE * found.thirds.max(axis=1)) & (found.thirds[:, 0] > 0)
    return found.slopes, margins, np.asarray(even & (found.slopes - margins > 0) & (found.old_blocks >= _MIN_BLOCKS))


def _estimates(curves: Curves) -> tuple[_Sums, Bools]:
    """What windows tell of each curve, or call sites with them, and where these do.

    A call site that turned out to be hot was given up again: of that one windows tell more.
    """
    in_windows, at_sites = births(curves)
    found = _sums_of(curves, [in_windows])
    has_own = at_sites.whole > 0
    if not has_own.any():
        return found, has_own
    # Each kind tells of the same time: that in which call sites were watched, where it is long enough.
    late = _in_windows(curves, with_sites=at_sites.tells)
    of_sites = _sums_of(curves, [late, at_sites] if at_sites.tells else [late])
    better = has_own & (of_sites.vagueness <= found.vagueness)
    chosen = (
        np.where(better[:, None] if mine.ndim > 1 else better, theirs, mine)
        for mine, theirs in zip(found, of_sites, strict=True)
    )
    return _Sums(*chosen), better


class _Sums(NamedTuple):
    """Growth of each curve, square of half its interval, what is left a second of each third, old blocks."""

    slopes: Floats
    squares: Floats
    thirds: Floats
    old_blocks: Floats

    @property
    def vagueness(self) -> Floats:
        """Half of each interval, as a part of the growth; infinite where there is none."""
        ratios = np.sqrt(self.squares) / np.where(self.slopes > 0, self.slopes, 1.0)
        return np.where(self.slopes > 0, ratios, np.inf)


def _sums_of(curves: Curves, parts: Sequence[Births]) -> _Sums:
    """What several kinds of births tell together."""
    blocks = curves.n_blocks[:, -1] if curves.n_blocks.shape[1] else np.zeros(len(curves.slices))
    bytes_left = np.maximum(curves.slices.sum(axis=1), 1)
    slopes, squares, old_blocks = np.zeros(len(blocks)), np.zeros(len(blocks)), np.zeros(len(blocks))
    thirds = np.zeros((len(blocks), _THIRDS))
    for part in parts:
        if not part.tells:
            # From losing all to gaining all in the time that was seen.
            squares = squares + (part.whole / max(1e-3, float(part.seen.sum()))) ** 2
            continue
        old = blocks * part.left.sum(axis=1) / bytes_left
        slope, errors = _mean_rates(part.left, part.seen, old)
        by_count = _Z_975 * slope / np.sqrt(np.maximum(old, 1))
        slopes, squares = slopes + slope, squares + np.maximum(t_975(len(part.seen) - 1) * errors, by_count) ** 2
        thirds, old_blocks = thirds + _thirds(part.left, part.seen), old_blocks + old
    return _Sums(slopes, squares, thirds, old_blocks)


def _mean_rates(left: Floats, seen: Floats, n_blocks: Floats) -> tuple[Floats, Floats]:
    """Mean rate of the parts of each curve, and its standard error.

    Where rates differ no more than counts do by chance, a part weighs as many seconds as were seen of it. The more they
    differ beyond that, the more alike all parts weigh: then the rate changed, and each part tells of its own time.
    (Random effects, after DerSimonian and Laird.)
    """
    n = len(seen)
    rates = left / seen
    whole = left.sum(axis=1, keepdims=True)
    # Of one second: bytes a second, times the mean size of a block.
    chance = whole / seen.sum() * whole / np.maximum(n_blocks, 1)[:, None]
    beyond = np.maximum(0.0, rates.var(axis=1, ddof=1, keepdims=True) - chance * (1 / seen).mean())
    variances = beyond + chance / seen
    weights = 1 / np.where(variances > 0, variances, 1.0)
    sums = weights.sum(axis=1, keepdims=True)
    means = (weights * rates).sum(axis=1, keepdims=True) / sums
    errors = (weights * (rates - means) ** 2).sum(axis=1) / sums[:, 0] / (n - 1)
    return means[:, 0], np.sqrt(errors)


def t_975(n_free: int) -> float:
    """97.5 % quantile of Student's t; that of 11 degrees of freedom for more, and of 1 for fewer."""
    return _T_975[max(0, min(len(_T_975), n_free) - 1)]


def _thirds(left: Floats, seen: Floats) -> Floats:
    """What is left a second, of the oldest, the middle and the youngest third of the parts."""
    groups = np.array_split(np.arange(len(seen)), _THIRDS)
    return np.stack([left[:, group].sum(axis=1) / seen[group].sum() for group in groups], axis=1)
