"""The recorder's own priority: lowered for the loop, given back at the end, in time, by hand, or not touched at all."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from nativeleak.session.priority import lowered_priority
from support import eventually


def nice() -> int:
    return os.getpriority(os.PRIO_PROCESS, 0)


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    before = nice()
    yield
    assert nice() == before


def test_priority_is_lowered_inside_and_given_back() -> None:
    before = nice()
    with lowered_priority(wanted=True):
        assert nice() == min(19, before + 10)


def test_priority_is_left_alone_where_that_is_not_wanted() -> None:
    before = nice()
    with lowered_priority(wanted=False, for_s=0.01) as give_back:
        give_back()
        assert nice() == before


def test_priority_comes_back_when_the_time_is_over() -> None:
    before = nice()
    with lowered_priority(wanted=True, for_s=0.05):
        assert nice() > before
        eventually(lambda: nice() == before, "the old priority")


def test_priority_comes_back_at_once_where_no_time_is_left() -> None:
    before = nice()
    with lowered_priority(wanted=True, for_s=-1.0):
        eventually(lambda: nice() == before, "the old priority")


def test_alarm_that_was_set_before_is_set_again() -> None:
    handler, timer = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)
    with lowered_priority(wanted=True, for_s=60.0):
        assert signal.getsignal(signal.SIGALRM) is not handler
    assert signal.getsignal(signal.SIGALRM) is handler
    assert signal.getitimer(signal.ITIMER_REAL) == pytest.approx(timer, abs=2.0)


def test_priority_comes_back_early_by_hand() -> None:
    before = nice()
    with lowered_priority(wanted=True, for_s=60.0) as give_back:
        give_back()
        assert nice() == before


def test_priority_comes_back_after_a_failure() -> None:
    with pytest.raises(ZeroDivisionError), lowered_priority(wanted=True, for_s=60.0):
        _ = 1 // 0
