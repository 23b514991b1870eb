"""Bounds of estimates: right 95 times in a hundred, for few samples too."""

from __future__ import annotations

import random

import pytest

from nativeleak.analysis.certainty import certainty, interval
from nativeleak.model import CERTAIN, Uncertainty


def test_total_without_variance_is_its_own_bound():
    assert interval(1009.0, 0.0) == (1009.0, 1009.0)
    assert certainty(1009, 1, CERTAIN) is None


def test_error_is_the_wider_half_as_a_share():
    found = certainty(1000, 100, Uncertainty(100, 10_000.0, 100.0))
    assert found is not None
    low, high = found.bytes95
    assert low < 1000 < high
    assert high - 1000 > 1000 - low
    assert found.error_pct == pytest.approx((high - 1000) / 10)
    assert 19 < found.error_pct < 23


@pytest.mark.parametrize("expected", [5, 20, 200])
def test_bounds_hold_the_truth_about_95_times_in_a_hundred(expected: int):
    """Blocks of 100 bytes kept with p = 0.01, ``expected`` of them in the mean; misses of everything aside."""
    draw = random.Random(expected)
    p, size = 0.01, 100
    n_blocks, n_inside, n_tries, sum_estimates = round(expected / p), 0, 400, 0.0
    for _ in range(n_tries):
        kept = sum(draw.random() < p for _ in range(n_blocks))
        estimate, variance = kept * size / p, kept * (1 - p) * (size / p) ** 2
        low, high = interval(estimate, variance)
        n_inside += low <= n_blocks * size <= high
        sum_estimates += estimate
    assert 0.92 <= n_inside / n_tries <= 0.99
    # Unbiased: within four standard deviations of the mean of all tries.
    assert abs(sum_estimates / n_tries / (n_blocks * size) - 1) < 4 / (expected * n_tries) ** 0.5
