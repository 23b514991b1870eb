"""Courses, pace and ring of a watch: bounded however long it goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nativeleak.analysis.growth import Verdict
from nativeleak.errors import NativeleakError
from nativeleak.watch.courses import MAX_MOMENTS, Courses
from nativeleak.watch.pace import Pace
from nativeleak.watch.ring import MAX_ENTRIES, Ring

_DAY_S = 86400


def test_rate_of_days_of_seconds_is_the_true_one_in_bounded_memory() -> None:
    courses = Courses()
    for second in range(3 * _DAY_S):
        courses.add(float(second), {"leak": 1000.0 * second, "flat": 5e6 + second % 7})
    assert len(courses) <= MAX_MOMENTS + 2
    leak, flat = courses.rows()
    assert leak.growth.verdict is Verdict.GROWING
    assert leak.growth.slope_bytes_per_s == pytest.approx(1000, rel=0.001)
    assert leak.growth.low_bytes_per_s <= 1000 <= leak.growth.high_bytes_per_s + 1
    assert (leak.first_bytes, leak.last_bytes) == (0, 1000.0 * (3 * _DAY_S - 1))
    assert flat.growth.verdict is not Verdict.GROWING
    assert not flat.grows
    assert courses.course("leak")[-1] == (3 * _DAY_S - 1, 1000 * (3 * _DAY_S - 1))
    assert courses.course("nobody") == []


def test_a_total_that_comes_later_began_at_zero_and_two_moments_decide_nothing() -> None:
    courses = Courses()
    courses.add(0.0, {"a": 10.0})
    assert courses.rows()[0].growth.verdict is Verdict.UNDECIDED
    courses.add(1.0, {"a": 10.0, "b": 7.0})
    rows = {row.name: row for row in courses.rows()}
    assert (rows["b"].first_bytes, rows["b"].last_bytes) == (0.0, 7.0)
    assert rows["b"].growth.verdict is Verdict.UNDECIDED
    assert not rows["b"].grows
    assert Courses().rows() == []


def test_a_level_that_swings_is_not_growing() -> None:
    courses = Courses()
    for second in range(2000):
        courses.add(float(second), {"heap": 1e6 * (5 + second % 20)})
    (row,) = courses.rows()
    assert row.growth.verdict is not Verdict.GROWING
    assert not row.grows


def test_readings_take_no_more_than_a_hundredth_of_a_core() -> None:
    pace = Pace(10.0)
    assert pace.is_due(0.0)
    pace.took(0.0, 0.05)
    assert (pace.interval_s, pace.is_due(9.9), pace.is_due(10.0)) == (10.0, False, True)
    pace.took(10.0, 3.5)
    assert pace.interval_s == 350.0
    assert pace.wait_s(20.0) == 340.0
    assert not pace.is_due(359.9)


def test_ring_keeps_ten_minutes_and_its_head(tmp_path: Path) -> None:
    path = tmp_path / "last.jsonl"
    ring = Ring(path, {"kind": "start"})
    for second in range(2000):
        ring.add(float(second), {"kind": "status", "elapsed_s": second})
    ring.write()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[0] == {"kind": "start"}
    assert [line["elapsed_s"] for line in lines[1:]] == list(range(1399, 2000))
    for step in range(10 * MAX_ENTRIES):
        ring.add(2000 + step / 1000, {"kind": "status"})
    assert len(ring) == MAX_ENTRIES


def test_ring_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(NativeleakError, match=r"writing .* failed"):
        Ring(tmp_path / "none" / "last.jsonl", {}).write()
    Ring(None, {}).write()
