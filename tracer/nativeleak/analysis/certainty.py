"""Confidence bounds of a total that was estimated from samples.

The bounds are those of a score interval for a Poisson count: T estimated with variance V is as certain as a count of
n = T^2 / V events of V / T each. Unlike T +- 1.96 sqrt(V) it also holds for few samples, whose variance estimate is low
exactly when the total is.

Source: Wilson's argument (Journal of the American Statistical Association 22, 1927) applied to a Poisson count.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from nativeleak.model import Uncertainty

_Z95: Final = 1.959963984540054
"""95 % of a normal distribution lie within this many standard deviations."""


@dataclass(frozen=True, slots=True)
class Certainty:
    """95 % confidence bounds of outstanding bytes and counts.

    Attributes:
        n_sampled: Sampled blocks behind the estimate, without blocks that are always kept.
        error_pct: Half the width of the bytes' bounds, as a share of the estimate; the larger half.
    """

    n_sampled: int
    bytes95: tuple[float, float]
    count95: tuple[float, float]
    error_pct: float


def interval(total: float, variance: float) -> tuple[float, float]:
    """95 % confidence bounds of an estimated total; twice the total itself if it is exact."""
    if variance <= 0 or total <= 0:
        return total, total
    unit = variance / total
    n = total / unit
    middle, half = n + _Z95 * _Z95 / 2, _Z95 * math.sqrt(n + _Z95 * _Z95 / 4)
    return unit * (middle - half), unit * (middle + half)


def certainty(n_bytes: int, count: int, uncertainty: Uncertainty) -> Certainty | None:
    """Bounds of the outstanding memory of a site or sum; None if none of it was sampled."""
    if not uncertainty.n_sampled:
        return None
    low, high = interval(n_bytes, uncertainty.variance_bytes)
    return Certainty(
        n_sampled=uncertainty.n_sampled,
        bytes95=(low, high),
        count95=interval(count, uncertainty.variance_count),
        error_pct=100 * max(high - n_bytes, n_bytes - low) / n_bytes if n_bytes else 0.0,
    )
