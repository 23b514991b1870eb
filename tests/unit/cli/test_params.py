"""Option types that verbs share, and PIDs as the command line gives them."""

from __future__ import annotations

import os
from typing import Any

import click
import pytest

from nativeleak.cli.params import DURATION, OVERHEAD, SIZE, resolve_pids
from nativeleak.errors import NoTargetError, UsageError


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (SIZE, "4096", 4096),
        (SIZE, "64K", 64 << 10),
        (SIZE, "1.5MiB", 3 << 19),
        (SIZE, "8388607t", 8388607 << 40),
        (SIZE, 4096, 4096),
        (DURATION, "90", 90.0),
        (DURATION, "1h30m", 5400.0),
        (DURATION, "0.2s", 0.2),
        (DURATION, 7, 7.0),
        (OVERHEAD, "2 %", 2.0),
        (OVERHEAD, "0.5", 0.5),
        (OVERHEAD, "100%", 100.0),
        (OVERHEAD, "off", 0.0),
        (OVERHEAD, 5.0, 5.0),
    ],
)
def test_option_type_takes_what_its_name_says(kind: click.ParamType, text: Any, value: float) -> None:
    converted = kind.convert(text, None, None)
    assert converted == value
    assert type(converted) is type(value)


@pytest.mark.parametrize(
    ("kind", "text", "why"),
    [
        (SIZE, "lots", "not a size: 'lots' (write 4096, 64K or 16MiB)"),
        (SIZE, "-1", "not a size"),
        (SIZE, "8388608t", "larger than any address space"),
        (DURATION, "soon", "not a duration: 'soon' (write 90s, 10m, 1h or 1h30m)"),
        (DURATION, "", "not a duration"),
        (DURATION, "0s", "longer than zero"),
        (OVERHEAD, "much", "not a percentage: 'much' (write 2%, 0.5% or off)"),
        (OVERHEAD, "0%", "not a percentage"),
        (OVERHEAD, "101%", "not a percentage"),
    ],
)
def test_option_type_refuses_the_rest_with_the_form_to_write(kind: click.ParamType, text: str, why: str) -> None:
    with pytest.raises(click.BadParameter) as refused:
        kind.convert(text, None, None)
    assert why in refused.value.message


def test_resolve_pids_gives_each_once_in_the_order_given() -> None:
    assert resolve_pids([7, 3, 7], None, None) == (7, 3)
    assert resolve_pids([], None, None) == ()


def test_resolve_pids_container_without_a_pid_inside_is_wrong_usage() -> None:
    with pytest.raises(UsageError) as refused:
        resolve_pids([7], None, 4711)
    assert "--ns-of 4711" in refused.value.what
    assert "--ns-pid" in refused.value.remedy


def test_resolve_pids_pid_inside_is_none_of_our_own_namespace() -> None:
    with pytest.raises(NoTargetError):
        resolve_pids([], os.getpid(), os.getpid())
