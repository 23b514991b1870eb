"""Names in the path of a suspect."""

from __future__ import annotations

import time

import pytest

import recording_fixtures as fixtures
from nativeleak.analysis.paths import Step
from nativeleak.reports.text_answer import short_name


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("com.example.orders.OrderIndex.retain", "OrderIndex.retain"),
        ("retain", "retain"),
        ("com.example." + "a" * 2000, "com.example." + "a" * 2000),
    ],
)
def test_name_of_a_java_method_loses_its_package(name: str, short: str) -> None:
    assert short_name(Step(name, 0, fixtures.java("com.example.Orders.retain"), in_runtime=False)) == short


def test_name_without_an_end_is_shortened_in_no_time() -> None:
    """In a damaged recording a name may be anything."""
    begin_s = time.thread_time()
    short_name(Step("x" * 200_000, 0, fixtures.java("com.example.Orders.retain"), in_runtime=False))
    assert time.thread_time() - begin_s < 0.5
