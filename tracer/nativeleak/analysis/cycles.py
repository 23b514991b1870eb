"""Slopes with their intervals, and what goes up and down again.

A course that falls again and again is judged from one fall to the next: what stays after each is what grows.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import numpy as np

from nativeleak.analysis.curves import Bools, Curves, Floats

_T_975: Final = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""97.5 % quantiles of Student's t for 1 to 9 degrees of freedom. Source: any table of the distribution."""
_SWING_SHARE: Final = 0.50
_MIN_SWINGS: Final = 2
_MIN_CYCLES: Final = 3
_HEIGHT_QUANTILE: Final = 0.8


def mean_slopes(added: Floats, spans: Floats) -> tuple[Floats, Floats]:
    """Mean slope of each row, and half the width of its 95 % interval by Student's t over the parts.

    Args:
        added: What each part added; a row a curve, a column a part, at least two.
        spans: Lengths of the parts in seconds.
    """
    weights = spans / spans.sum()
    slopes = added.sum(axis=1) / spans.sum()
    n_parts = len(spans)
    spread = (weights * (added / spans - slopes[:, None]) ** 2).sum(axis=1) * n_parts / (n_parts - 1)
    margins = _T_975[min(n_parts - 2, len(_T_975) - 1)] * np.sqrt(spread / n_parts)
    # Equal parts differ only by rounding: an interval of 1e-12 bytes must not make a flat curve rise.
    return slopes, np.where(margins < 1e-6, 0.0, margins)


def cycles(curves: Curves) -> tuple[Bools, Bools, Floats, Floats]:
    """What goes up and down again by half of its height, and what stays of it from one fall to the next.

    The height is what a fifth of the snapshots exceed: one that a late collection left high is not the measure of all.

    Returns:
        Whether it does so at least twice; whether the lowest values after the falls rise for certain; bytes a second
        that they rise by; half the width of their interval.
    """
    n_rows = len(curves.n_bytes)
    swings, rises = np.zeros(n_rows, dtype=np.bool_), np.zeros(n_rows, dtype=np.bool_)
    slopes, margins = np.zeros(n_rows), np.zeros(n_rows)
    n_courses = curves.courses.shape[1]
    if not n_courses:
        return swings, rises, slopes, margins
    times = np.linspace(float(curves.elapsed_s[0]), float(curves.elapsed_s[-1]), n_courses)
    heights = np.quantile(curves.courses, _HEIGHT_QUANTILE, axis=1)
    for row, course_ in enumerate(curves.courses.tolist()):
        if heights[row] <= 0:
            continue
        lows = _lows_after_falls(course_, _SWING_SHARE * float(heights[row]))
        swings[row] = len(lows) >= _MIN_SWINGS
        if len(lows) > _MIN_CYCLES:
            values = np.array([[course_[place] for place in lows]])
            slope, margin = mean_slopes(np.diff(values, axis=1), np.diff(times[lows]))
            # A snapshot meets the lowest value only by chance: it may come a whole step of the course later.
            step = float(np.median([b - a for a, b in pairwise(course_) if b > a]))
            slopes[row], margins[row] = slope[0], margin[0] + step / float(times[lows[-1]] - times[lows[0]])
            rises[row] = slopes[row] > margins[row]
    return swings, rises, slopes, margins


def _lows_after_falls(values: Sequence[float], height: float) -> list[int]:
    """Places of the lowest values between a fall by at least ``height`` and the next rise by it."""
    lows: list[int] = []
    lowest = highest = 0
    rose = False
    for place, value in enumerate(values):
        if rose:
            if value > values[highest]:
                highest = place
            elif values[highest] - value >= height:
                rose, lowest = False, place
                lows.append(place)
        elif value < values[lowest]:
            lowest = place
            if lows:
                lows[-1] = place
        elif value - values[lowest] >= height:
            rose, highest = True, place
    return lows
