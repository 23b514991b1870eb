"""Verdicts on courses of sampled blocks, made up with their truth; chance is played many times."""

from __future__ import annotations

import numpy as np
import pytest

from nativeleak.analysis.curves import Curves, Floats, part_edges
from nativeleak.analysis.growth import Growth, Verdict, measure
from nativeleak.analysis.sampled import by_samples, change_margins

N_SNAPSHOTS = 33
TRACE_S = 320.0
SLICE_S = 10.0
BLOCK = 128.0
RATE = 1 << 19
N_TURNS = 400


def courses(born_s: list[Floats], freed_s: list[Floats], weight: float) -> list[Growth]:
    """Verdicts on totals of samples of the same weight in bytes, by when they were born and freed; one row a total."""
    times = np.linspace(SLICE_S, TRACE_S, N_SNAPSHOTS)
    edges = part_edges(times.tolist())
    rows = np.array(
        [[weight * ((b <= t) & (f > t)).sum() for t in times] for b, f in zip(born_s, freed_s, strict=True)]
    )
    bins = np.arange(0.0, TRACE_S + SLICE_S, SLICE_S)
    slices = np.array([weight * np.histogram(b[f > TRACE_S], bins)[0] for b, f in zip(born_s, freed_s, strict=True)])
    curves = Curves(
        edges.elapsed_s,
        N_SNAPSHOTS,
        edges.values(rows),
        edges.values(rows) / BLOCK,
        slices,
        SLICE_S,
        courses=rows,
        n_freed=np.array([float((f <= TRACE_S).sum()) for f in freed_s]),
        units=np.where(rows[:, -1] > 0, weight, 0.0),
    )
    return measure(curves)


def leak(rng: np.random.Generator, n_samples: float) -> list[Growth]:
    """Totals that grow evenly by ``n_samples * RATE`` bytes in the trace; none of it is freed."""
    born = [np.sort(rng.uniform(0, TRACE_S, rng.poisson(n_samples))) for _ in range(N_TURNS)]
    return courses(born, [np.full(len(b), np.inf) for b in born], RATE)


def cache(rng: np.random.Generator, n_samples: float, life_s: float) -> list[Growth]:
    """Totals that hold ``n_samples * RATE`` bytes throughout, whose blocks live for ``life_s`` on average."""
    born, freed = [], []
    for _ in range(N_TURNS):
        before = np.full(rng.poisson(n_samples), 0.0)
        made = rng.uniform(0, TRACE_S, rng.poisson(n_samples * TRACE_S / life_s))
        born.append(np.concatenate((before, made)))
        freed.append(born[-1] + rng.exponential(life_s, len(born[-1])))
    return courses(born, freed, RATE)


@pytest.mark.parametrize("n_samples", [6.0, 20.0, 100.0])
def test_interval_of_a_sampled_leak_holds_the_truth(n_samples: float) -> None:
    truth = n_samples * RATE / TRACE_S
    growths = [growth for growth in leak(np.random.default_rng(11), n_samples) if growth.high_bytes_per_s > 0]
    held = sum(growth.low_bytes_per_s <= truth <= growth.high_bytes_per_s for growth in growths)
    # Four standard deviations below 95 %.
    assert held >= len(growths) * (0.95 - 4 * np.sqrt(0.95 * 0.05 / len(growths)))


def test_leak_of_many_samples_is_found() -> None:
    verdicts = [growth.verdict for growth in leak(np.random.default_rng(12), 100.0)]
    assert verdicts.count(Verdict.GROWING) > 0.9 * N_TURNS


@pytest.mark.parametrize("n_samples", [1.0, 2.0, 3.0])
def test_few_samples_of_many_blocks_are_no_growth(n_samples: float) -> None:
    """Each stands for four thousand blocks: it is samples that count."""
    growths = courses([np.linspace(20.0, 300.0, int(n_samples))] * 2, [np.full(int(n_samples), np.inf)] * 2, RATE)
    assert {growth.verdict for growth in growths} == {Verdict.UNDECIDED}


@pytest.mark.parametrize(("n_samples", "life_s"), [(5.0, 40.0), (30.0, 20.0), (30.0, 100.0), (200.0, 40.0)])
def test_sampled_cache_seldom_seems_to_grow_or_to_shrink(n_samples: float, life_s: float) -> None:
    verdicts = [growth.verdict for growth in cache(np.random.default_rng(13), n_samples, life_s)]
    wrong = verdicts.count(Verdict.GROWING) + verdicts.count(Verdict.SHRINKING)
    assert wrong <= N_TURNS * 0.05 + 4 * np.sqrt(N_TURNS * 0.05 * 0.95)
    assert verdicts.count(Verdict.GROWING) <= N_TURNS * 0.025 + 4 * np.sqrt(N_TURNS * 0.025 * 0.975)


def test_few_samples_that_stay_prove_no_steady_total() -> None:
    """Nothing new was sampled; yet so much may have come as is between two samples, thrice."""
    few, many = (courses([np.zeros(n)], [np.full(n, np.inf)], RATE)[0] for n in (4, 100))
    assert few.verdict is Verdict.UNDECIDED
    assert few.high_bytes_per_s * (TRACE_S - SLICE_S) == pytest.approx(1.96**2 / 2 * RATE, rel=0.01)
    assert many.verdict is Verdict.STEADY


def test_course_of_few_samples_does_not_level_off() -> None:
    few, many = (courses([np.linspace(1.0, 100.0, n)], [np.full(n, np.inf)], RATE)[0].verdict for n in (8, 200))
    assert few is Verdict.UNDECIDED
    assert many is Verdict.LEVELLING_OFF


def test_exact_curves_stay_as_they_are() -> None:
    rows = np.array([[0.0, 1e6, 2e6]])
    curves = Curves(np.array([0.0, 1.0, 2.0]), 3, rows, rows / BLOCK, np.zeros((1, 0)), units=np.zeros(1))
    assert by_samples(curves) is curves
    assert change_margins(curves).tolist() == [0.0]


def test_blocks_count_as_what_their_samples_are_worth() -> None:
    rows = np.array([[0.0, 8.0 * RATE], [0.0, 8.0 * RATE]])
    curves = Curves(
        np.array([0.0, 1.0]), 2, rows, np.array([[0.0, 1e4], [0.0, 1e4]]), np.zeros((2, 0)), units=np.array([RATE, 0.0])
    )
    assert by_samples(curves).n_blocks[:, -1].tolist() == [8.0, 1e4]
    # Blocks that were there before and still are say nothing of a change.
    assert change_margins(curves)[1] == 0
    assert change_margins(curves)[0] == pytest.approx(1.96 * RATE * np.sqrt(8 + 0.96), rel=1e-3)
