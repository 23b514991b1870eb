"""The share of calls that windows saw, against made-up programs whose calls are known."""

from __future__ import annotations

import random

import pytest

from nativeleak.analysis.calls import share_of_calls
from nativeleak.model import Level, Window

PROBE_S = 6e-7
"""What a hit costs."""


def made(seed: int, *, n_windows: int = 12, busy: float = 0.8, rate: float = 1e5) -> tuple[list[Window], float]:
    """Windows of 50 ms, each followed by two seconds without, of a program of changing pace; and the true share."""
    chance = random.Random(seed)
    windows, at_s, seen, calls = [], 0.0, 0.0, 0.0
    for _ in range(n_windows):
        for level, for_s in ((Level.EXACT, 0.05), (Level.SYSCALLS, 2.0)):
            own_s = for_s * busy * chance.uniform(0.7, 1.0)
            # A longer stretch is more even.
            n_calls = round(rate * own_s * (chance.uniform(0.5, 1.5) if level is Level.EXACT else 1.0))
            cost_s = n_calls * PROBE_S if level is Level.EXACT else 0.0
            hits = n_calls if level is Level.EXACT else 0
            windows.append(Window(at_s, at_s + for_s, level, 0, hits, cost_s, own_s + cost_s))
            at_s, calls, seen = at_s + for_s, calls + n_calls, seen + hits
    return windows, 100 * seen / calls


def test_interval_holds_the_true_share_in_nineteen_of_twenty_programs():
    held = 0
    for seed in range(200):
        windows, truth = made(seed)
        share = share_of_calls(windows)
        assert share is not None
        assert share.low_pct <= share.pct <= share.high_pct
        held += share.low_pct <= truth <= share.high_pct
    assert held >= 180


def test_program_that_rests_between_windows_was_watched_in_most_of_its_calls():
    busy = Window(0.0, 1.0, Level.EXACT, 0, 30_000, 0.02, 0.52)
    idle = Window(1.0, 101.0, Level.SYSCALLS, 0, 0, 0.0, 0.0625)
    share = share_of_calls([busy, idle])
    assert share is not None
    assert share.pct == pytest.approx(100 * 8 / 9)


def test_program_without_cpu_time_is_judged_by_time():
    share = share_of_calls([Window(0.0, 1.0, Level.EXACT, 0, 30), Window(1.0, 10.0, Level.SYSCALLS)])
    assert share is not None
    assert share.pct == pytest.approx(10.0)


def test_one_window_gives_no_interval_and_none_no_share():
    one = [Window(0.0, 1.0, Level.EXACT, 0, 300, 0.0, 1.0), Window(1.0, 10.0, Level.SYSCALLS, 0, 0, 0.0, 9.0)]
    share = share_of_calls(one)
    assert share is not None
    assert (share.low_pct, share.high_pct) == (0.0, 100.0)
    assert share_of_calls(one[1:]) is None


def test_all_of_the_calls_were_watched_where_the_heap_was_watched_all_the_time():
    share = share_of_calls([Window(0.0, 10.0, Level.EXACT, 0, 300, 0.0, 1.0)])
    assert share is not None
    assert (share.pct, share.low_pct, share.high_pct) == (100.0, 100.0, 100.0)
