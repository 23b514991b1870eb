"""The time to a limit: courses whose true time is known."""

from __future__ import annotations

import random

import pytest

from nativeleak.analysis.limits import forecast

MIB = 1 << 20
Course = list[tuple[float, int]]


def _course(rates: list[float], start: int = 100 * MIB) -> Course:
    """One snapshot a second; a rate for each."""
    course, used = [(0.0, start)], float(start)
    for second, rate in enumerate(rates, start=1):
        used += rate
        course.append((float(second), int(used)))
    return course


def test_even_growth_has_one_time() -> None:
    found = forecast(_course([MIB] * 64), 1000 * MIB)
    assert found is not None
    assert found.reached_in_s == pytest.approx(836)
    assert found.soonest_s == pytest.approx(836)
    assert found.latest_s == pytest.approx(836)
    assert not found.accelerates


def test_true_time_lies_in_the_interval_in_nine_of_ten_runs() -> None:
    """Growth in steps of random size: the time is known by going on to the limit."""
    hits = 0
    n_runs, n_seen, limit = 200, 80, 1000 * MIB
    for seed in range(n_runs):
        source = random.Random(seed)
        rates = [source.expovariate(1 / (2 * MIB)) * source.choice((0, 0, 1, 3)) for _ in range(4000)]
        course = _course(rates)
        truth = next(second for second, used in course if used >= limit) - n_seen
        found = forecast(course[: n_seen + 1], limit)
        assert found is not None
        hits += found.soonest_s <= truth <= (found.latest_s or float("inf"))
    assert hits >= 0.88 * n_runs


def test_noise_without_growth_has_no_upper_end() -> None:
    source = random.Random(7)
    course = [(float(second), 100 * MIB + source.randrange(8 * MIB)) for second in range(65)]
    found = forecast(course, 200 * MIB)
    assert found is None or found.latest_s is None


def test_flat_and_shrinking_usage_never_reach_it() -> None:
    assert forecast(_course([0] * 32), 200 * MIB) is None
    assert forecast(_course([-MIB] * 32), 200 * MIB) is None


def test_growth_that_accelerates_is_said() -> None:
    found = forecast(_course([second * MIB / 8 for second in range(64)]), 4000 * MIB)
    assert found is not None
    assert found.accelerates


def test_few_snapshots_give_no_forecast() -> None:
    assert forecast(_course([MIB] * 3), 200 * MIB) is None


def test_limit_that_is_reached_is_reached_now() -> None:
    found = forecast(_course([MIB] * 16), 110 * MIB)
    assert found is not None
    assert (found.soonest_s, found.latest_s) == (0.0, 0.0)
