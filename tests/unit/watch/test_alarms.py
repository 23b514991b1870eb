"""Conditions of a watch: when they alarm, and when again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from click.testing import CliRunner

from nativeleak.cli.main import cli
from nativeleak.cli.watch import RateType
from nativeleak.model import Limit, LimitKind, LimitUse
from nativeleak.watch.alarms import AlarmWatch
from nativeleak.watch.moments import Status
from nativeleak.watch.options import Alarms

_MIB = 1 << 20


def _status(elapsed_s: float, rss: float, swap: int = 0, group: tuple[int, int] | None = None) -> Status:
    limits = ()
    if group is not None:
        limits = (LimitUse(Limit(0, LimitKind.CGROUP, "/g/memory.max", group[1]), group[0]),)
    return Status(elapsed_s, 0.0, int(rss), int(rss), 0, 0, swap, 0, 1, limits)


def _names(watch: AlarmWatch, statuses: Iterator[Status]) -> list[tuple[float, str]]:
    return [(status.elapsed_s, alarm.name) for status in statuses for alarm in watch.look(status)]


def test_alarm_comes_when_the_condition_begins_to_hold_and_once() -> None:
    watch = AlarmWatch(Alarms(rss_bytes=100 * _MIB), 1.0)
    course = (_status(second, (90 + second) * _MIB) for second in range(60))
    assert _names(watch, course) == [(11, "rss-above")]


def test_alarm_comes_again_after_the_condition_had_ended_and_ten_minutes_later_at_the_soonest() -> None:
    watch = AlarmWatch(Alarms(rss_bytes=100 * _MIB), 1.0)
    course = (_status(second, (120 if second % 200 >= 100 else 50) * _MIB) for second in range(1500))
    assert _names(watch, course) == [(100, "rss-above"), (700, "rss-above"), (1300, "rss-above")]


def test_flutter_at_the_bound_is_one_alarm() -> None:
    watch = AlarmWatch(Alarms(rss_bytes=100 * _MIB), 1.0)
    course = (_status(second, (100.5 if second % 2 else 99.5) * _MIB) for second in range(3000))
    assert len(_names(watch, course)) == 1


def test_group_alarm_is_of_the_group_that_is_fullest() -> None:
    watch = AlarmWatch(Alarms(group_pct=90.0), 1.0)
    (alarm,) = watch.look(_status(0.0, _MIB, group=(95 * _MIB, 100 * _MIB)))
    assert (alarm.name, alarm.value, alarm.bound) == ("cgroup-above", 95.0, 90.0)
    assert "/g/memory.max is used to 95 %" in alarm.text
    assert AlarmWatch(Alarms(group_pct=90.0), 1.0).look(_status(0.0, _MIB)) == []


def test_growth_alarm_needs_certain_growth_above_the_rate() -> None:
    bound = 1.0 * _MIB / 60
    fast = AlarmWatch(Alarms(growth_bytes_per_s=bound), 2.0)
    found = _names(fast, (_status(second, 50 * _MIB + 3 * bound * second) for second in range(120)))
    assert [name for _, name in found] == ["growth-above"]
    assert 20 <= found[0][0] <= 40
    slow = AlarmWatch(Alarms(growth_bytes_per_s=bound), 2.0)
    assert _names(slow, (_status(second, 50 * _MIB + bound * second / 2) for second in range(900))) == []
    noisy = AlarmWatch(Alarms(growth_bytes_per_s=bound), 2.0)
    assert _names(noisy, (_status(second, (50 + second * 7919 % 31) * _MIB) for second in range(900))) == []


def test_growth_counts_what_was_swapped_out() -> None:
    bound = 1.0 * _MIB
    watch = AlarmWatch(Alarms(growth_bytes_per_s=bound), 1.0)
    course = (_status(second, 50 * _MIB, swap=round(2 * bound) * second) for second in range(60))
    assert [name for _, name in _names(watch, course)] == ["growth-above"]


@pytest.mark.parametrize(
    ("text", "rate"), [("60M/min", _MIB), ("1MiB/s", _MIB), ("3600K / h", 1024), ("1.5g/d", 1.5 * 1024 * _MIB / 86400)]
)
def test_rates_are_bytes_a_second(text: str, rate: float) -> None:
    assert RateType().convert(text, None, None) == pytest.approx(rate)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--growth-above", "10M"], "not a rate: '10M'"),
        (["--growth-above", "0K/s"], "a rate must be more than zero"),
        (["--growth-above", "abc/min"], "not a size"),
        (["--rss-above", "much"], "not a size"),
        (["--every", "0"], "longer than zero"),
    ],
)
def test_wrong_values_are_named(arguments: list[str], said: str) -> None:
    done = CliRunner().invoke(cli, ["watch", "-p", "1", *arguments])
    assert done.exit_code == 2
    assert said in done.output
