"""Courses: ages of what is held, and rises that only take the place of what was there before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import recording_fixtures as fixtures
from nativeleak.analysis.curves import Curves, EachSite, Span, median_ages, read_curves, replaces_older
from nativeleak.recording import RecordingWriter


def _curves(slices: list[float], slice_s: float, end_s: float) -> Curves:
    n_bytes = np.array([[0.0, sum(slices)]])
    return Curves(np.array([0.0, end_s]), 2, n_bytes, n_bytes, np.array([slices]), slice_s)


@pytest.mark.parametrize(
    ("slices", "age_s"),
    [
        ([100.0] * 8, 8.0),  # a leak: half of it is older than half of the window
        ([0.0] * 6 + [100.0, 100.0], 2.0),  # a cache whose blocks are young
        ([800.0] + [0.0] * 7, 15.0),
        ([0.0] * 8, None),
    ],
)
def test_median_age_is_the_age_that_half_of_the_bytes_exceed(slices: list[float], age_s: float | None) -> None:
    assert median_ages(_curves(slices, 2.0, 16.0)) == [age_s]


def test_median_age_of_a_last_slice_that_is_not_over_is_within_the_trace() -> None:
    assert median_ages(_curves([0.0, 10.0], 2.0, 3.0)) == [0.5]


@pytest.mark.parametrize(("unmatched", "replaced"), [(0, [False, False]), (40, [True, False])])
def test_replaces_older_needs_frees_of_unknown_blocks_and_a_small_rise(
    tmp_path: Path, unmatched: int, replaced: list[bool]
) -> None:
    """A full cache attached late, whose old blocks are freed unseen, beside a leak that is as large as all it holds."""

    def write(writer: RecordingWriter) -> None:
        for number in range(10):
            cache, leak = 400 + 5 * number, 50 * number
            sites = [
                fixtures.heap_site(1, key, (n * 64, n), slices=((n * 64, n),)) for key, n in ((1, cache), (2, leak))
            ]
            counters = fixtures.counters(unmatched_frees=unmatched * number // 9)
            writer.write_snapshot(fixtures.snapshot(number + 1.0, sites, counters=counters))

    with fixtures.record(tmp_path / "a.nlk", write) as recording:
        (curves,) = read_curves(recording, [EachSite(2)])
        assert replaces_older(recording, curves, Span(0, 9, 100.0)).tolist() == replaced
