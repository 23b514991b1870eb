"""What the doctor says of a process's rate of allocation."""

from __future__ import annotations

import pytest

from nativeleak.doctor.rate import describe
from nativeleak.engines.bpf.budget.governor import Governor
from nativeleak.engines.bpf.budget.load import Costs, Load

COSTS = Costs(call_ns=500.0, free_ns=500.0, return_ns=300.0, run_ns=150.0, light_run_ns=75.0)


def told(pairs: float, cpu: float) -> str:
    return describe(Load(pairs, pairs, 0.0, 0.0, cpu), Governor(5.0, COSTS))


@pytest.mark.parametrize(
    ("pairs", "cpu", "words"),
    [
        (5_000, 0.01, "trace would watch every one of them, for 0.88 % of a core (2 % are allowed)"),
        (20_000, 1.0, "trace would watch every one of them, for 3.5 % of a core (5 % are allowed)"),
        (20_000, 0.01, "in windows, about 57 % of the time, for 2 % of a core; recording all takes 3.5 % of a core"),
        (200_000, 0.01, "in windows of 50 ms, about 5.7 % of the time, for 2 % of a core; recording all takes 35 %"),
    ],
)
def test_rate_says_the_level_what_it_sees_and_its_cost(pairs: float, cpu: float, words: str):
    text = told(pairs, cpu)
    assert text.startswith(f"{pairs:,} allocations and {pairs:,} frees a second: ")
    assert words in text
