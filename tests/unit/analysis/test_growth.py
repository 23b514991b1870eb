"""Growth: slopes with exact numbers, and verdicts on curves whose truth is known."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import recording_fixtures as fixtures
from nativeleak.analysis.curves import Curves, part_edges
from nativeleak.analysis.growth import (
    Growth,
    Verdict,
    course,
    measure,
    resident_estimate,
    site_curves,
)
from nativeleak.analysis.part_rates import settled
from nativeleak.recording import open_recording

MINUTES = [60.0 * minute for minute in range(1, 61)]


def _blocks(sizes: list[float], slices: list[float] | None = None, block: float = 1024.0) -> Growth:
    edges = part_edges(MINUTES[: len(sizes)])
    rows = edges.values(np.array([sizes]))
    born = np.array([slices or []])
    times = edges.elapsed_s
    width = times[-1] / len(slices) if slices else 0.0
    return measure(Curves(times, len(sizes), rows, rows / block, born, width))[0]


def test_course_straight_line_has_the_exact_slope() -> None:
    growth = course(MINUTES, [7.0 * second for second in MINUTES])
    assert growth == Growth(7.0, 7.0, 7.0, Verdict.GROWING)


def test_course_interval_is_students_t_over_the_parts() -> None:
    growth = course([0.0, 1.0, 2.0, 3.0, 4.0], [0.0, 1.0, 3.0, 4.0, 6.0])
    assert growth.slope_bytes_per_s == 1.5
    margin = 3.182 * np.sqrt(1 / 3) / 2  # sd of 1, 2, 1, 2 over the square root of four parts
    assert growth.low_bytes_per_s == pytest.approx(1.5 - margin)
    assert growth.high_bytes_per_s == pytest.approx(1.5 + margin)


@pytest.mark.parametrize("n_snapshots", [0, 1, 2, 3])
def test_course_fewer_than_four_snapshots_is_undecided(n_snapshots: int) -> None:
    growth = course(MINUTES[:n_snapshots], [1e6 * n for n in range(n_snapshots)])
    assert growth.verdict is Verdict.UNDECIDED
    assert growth.low_bytes_per_s <= growth.slope_bytes_per_s <= growth.high_bytes_per_s
    assert np.isfinite([growth.low_bytes_per_s, growth.high_bytes_per_s]).all()


@pytest.mark.parametrize(
    ("name", "sizes", "verdict"),
    [
        ("constant", [8e6] * 60, Verdict.STEADY),
        ("leak", [1e4 * n for n in range(60)], Verdict.GROWING),
        ("leak in bursts", [1e6 * (n // 6) for n in range(60)], Verdict.GROWING),
        ("warm-up", [min(n, 6) * 1e6 for n in range(60)], Verdict.LEVELLING_OFF),
        ("cache full after half of the window", [min(n, 30) * 1e6 for n in range(60)], Verdict.LEVELLING_OFF),
        (
            "buffer that doubled twice",
            [1e6 * 2 ** sum(n >= at for at in (8, 34)) for n in range(60)],
            Verdict.UNDECIDED,
        ),
        (
            "cache full in three steps",
            [1e6 * sum(n >= at for at in (0, 4, 10, 18)) for n in range(60)],
            Verdict.LEVELLING_OFF,
        ),
        ("one step", [1e6 if n > 30 else 0.0 for n in range(60)], Verdict.UNDECIDED),
        ("drain", [1e6 * (60 - n) for n in range(60)], Verdict.SHRINKING),
        ("sawtooth", [1e6 + 1e4 * (n % 5) for n in range(60)], Verdict.STEADY),
    ],
)
def test_measure_known_curve_has_its_verdict(name: str, sizes: list[float], verdict: Verdict) -> None:
    assert _blocks(sizes).verdict is verdict, name


def test_measure_noise_around_a_level_is_not_called_growing() -> None:
    chance = np.random.default_rng(1860)
    rows = 1e6 + chance.normal(0, 1e5, (1009, 60))
    edges = part_edges(MINUTES)
    growths = measure(Curves(edges.elapsed_s, 60, edges.values(rows), edges.values(rows) / 1024, np.zeros((1009, 0))))
    assert sum(growth.verdict is Verdict.GROWING for growth in growths) <= 1009 * 0.025


def test_measure_queue_whose_reader_is_too_slow_is_growing() -> None:
    """The oldest go, and it rises evenly: with as many births as ever, each block stays longer than the one before."""
    rising = [1e4 * n for n in range(60)]
    assert _blocks(rising, slices=[0.0] * 10 + [1e5] * 6).verdict is Verdict.GROWING
    assert _blocks(rising, slices=[1e5] * 16).verdict is Verdict.GROWING


def test_measure_rise_without_old_survivors_is_no_growth_where_births_become_more_or_it_slows_down() -> None:
    rising = [1e4 * n for n in range(60)]
    assert _blocks(rising, slices=[0.0] * 10 + [1e4, 4e4, 8e4, 12e4, 16e4, 19e4]).verdict is Verdict.UNDECIDED
    slower = [6e5 * (1 - 0.96**n) for n in range(60)]
    assert _blocks(slower, slices=[0.0] * 10 + [1e5] * 6).verdict is not Verdict.GROWING


@pytest.mark.parametrize(("n_freed", "verdict"), [([0.0], Verdict.GROWING), ([307.0], Verdict.UNDECIDED)])
def test_measure_four_bursts_are_growing_where_nothing_was_freed(n_freed: list[float], verdict: Verdict) -> None:
    """Ages without births are no blocks that were let go. Between bursts a busy machine takes few snapshots."""
    times = [0.51, 2.2, 3.64, 4.2, 6.0, 7.55, 8.35, 8.79, 9.08, 9.3, 9.55, 11.51, 12.46, 12.83]
    blocks = np.array([[0.0, 0, 307, 307, 307, 614, 614, 614, 614, 921, 921, 921, 921, 1228]])
    slices = np.zeros((1, 16))
    slices[0, [3, 6, 8, 11]] = 307 * 1009.0
    edges = part_edges(times)
    rows = edges.values(blocks)
    curves = Curves(edges.elapsed_s, 14, 1009 * rows, rows, slices, 1.0737, n_freed=np.array(n_freed))
    assert measure(curves)[0].verdict is verdict


def test_measure_few_blocks_are_undecided_unless_each_part_grew() -> None:
    three_blocks = [1e6 * (n // 20 + 1) for n in range(60)]
    assert _blocks(three_blocks, block=1e6).verdict is Verdict.UNDECIDED
    one_ever_larger = [1e6 * n for n in range(1, 61)]
    edges = part_edges(MINUTES)
    rows = edges.values(np.array([one_ever_larger], dtype=np.float64))
    curves = Curves(edges.elapsed_s, 60, rows, np.ones_like(rows), np.zeros((1, 0)))
    assert measure(curves)[0].verdict is Verdict.GROWING


@pytest.mark.parametrize("factor", [1.5, 2.0])
def test_measure_one_buffer_that_doubles_is_growing_until_it_stops(factor: float) -> None:
    doubling = [1e5 * factor ** (n // 8) for n in range(60)]
    stopped = [1e5 * factor ** min(2, n // 8) for n in range(60)]
    edges = part_edges(MINUTES)
    for sizes, verdicts in ((doubling, {Verdict.GROWING}), (stopped, {Verdict.LEVELLING_OFF, Verdict.UNDECIDED})):
        rows, troughs = edges.values(np.array([sizes])), np.array([sizes]).reshape(1, 10, 6).min(axis=2)
        times = edges.elapsed_s
        curves = Curves(times, 60, rows, np.ones_like(rows), np.zeros((1, 0)), troughs=troughs)
        assert measure(curves)[0].verdict in verdicts


def test_measure_few_large_steps_among_small_blocks_are_undecided() -> None:
    """Chunks of a compiler's arenas between small blocks: the interval does not lie above zero."""
    rows = np.cumsum([[0.0, 2228, 224, 24, 65748, 172, 10, 32856, 10]], axis=1)
    troughs = np.cumsum([[2516.0, 2524, 224, 48, 5, 65724, 172, 5, 32856, 5]], axis=1)
    times = np.linspace(0.0, 12.0, 9)
    slices = np.full((1, 12), 1000.0)
    curves = Curves(times, 20, rows, np.linspace([37.0], [112.0], 9, axis=1), slices, 1.0, troughs=troughs)
    assert measure(curves)[0].verdict is Verdict.UNDECIDED


@pytest.mark.parametrize(("residue", "verdict"), [(1.0, Verdict.GROWING), (0.0, Verdict.PERIODIC)])
def test_measure_sawtooth_is_judged_by_what_stays_of_every_age(residue: float, verdict: Verdict) -> None:
    """A collector that runs each 5 s, of 1 MB a second; a twentieth of it stays, or nothing."""
    times = np.arange(0.0, 25.0, 1.3)
    course_ = 5e4 * residue * times + 9.5e5 * (times % 5.0)
    edges = part_edges(times.tolist())
    parts = np.minimum((times / times[-1] * 10).astype(int), 9)
    troughs = np.array([[course_[parts == part].min() for part in range(10)]])
    slices = np.full((1, 12), 1e5 * residue)
    slices[0, -2:] += 1e6
    rows = edges.values(course_[None, :])
    peaks = np.array([[course_.max(), 10.0]])
    curves = Curves(
        edges.elapsed_s, len(times), rows, rows / 1e4, slices, 2.0, 0.0, troughs, peaks, courses=course_[None, :]
    )
    growth = measure(curves)[0]
    assert growth.verdict is verdict
    if residue:
        assert growth.low_bytes_per_s <= 5e4 <= growth.high_bytes_per_s
        assert growth.high_bytes_per_s - growth.low_bytes_per_s < 2.5e4


def test_part_edges_many_snapshots_are_eight_equal_parts() -> None:
    edges = part_edges([float(n) for n in range(1, 82)])
    assert edges.elapsed_s.tolist() == [1.0, 11.0, 21.0, 31.0, 41.0, 51.0, 61.0, 71.0, 81.0]
    assert edges.values(np.array([[7.0 * n for n in range(81)]]))[0].tolist() == [70.0 * part for part in range(9)]
    assert part_edges([1.0, 2.0]).elapsed_s.tolist() == [1.0, 2.0]
    assert part_edges([]).elapsed_s.tolist() == []


def test_part_edges_snapshots_of_one_moment_are_the_last_of_them() -> None:
    edges = part_edges([1.0, 2.0, 2.0, 3.0, 3.0])
    assert edges.elapsed_s.tolist() == [1.0, 2.0, 3.0]
    assert edges.values(np.array([[1.0, 2.0, 3.0, 4.0, 5.0]]))[0].tolist() == [1.0, 3.0, 5.0]
    assert part_edges([1.0] * 20).elapsed_s.tolist() == [1.0]


def test_part_edges_late_snapshots_leave_an_even_course_even() -> None:
    """A machine under load: a straight line has the same rate in each part, wherever its snapshots lie."""
    times = np.cumsum(np.random.default_rng(1009).uniform(0.2, 1.3, 17))
    growth = course(times.tolist(), (7.0 * times).tolist())
    assert growth.verdict is Verdict.GROWING
    assert growth.low_bytes_per_s == pytest.approx(7.0)
    assert growth.high_bytes_per_s == pytest.approx(7.0)


def test_site_curves_site_without_a_sample_keeps_its_value(tmp_path: Path) -> None:
    with open_recording(fixtures.write_gateway(tmp_path / "a.nlk", n_snapshots=5)) as recording:
        curves = site_curves(recording)
        assert curves.n_bytes[0].tolist() == [(5 + 3 * minute) * 16 * fixtures.MIB for minute in range(5)]
        assert curves.n_bytes[1].tolist() == [3 * fixtures.MIB] * 5
        assert curves.n_blocks[1].tolist() == [3072] * 5


def test_resident_estimate_takes_resident_bytes_and_leaves_allocators_out(tmp_path: Path) -> None:
    with open_recording(fixtures.write_gateway(tmp_path / "a.nlk", n_snapshots=1)) as recording:
        heap = 5 * 16 * fixtures.MIB + 3 * fixtures.MIB + 1009
        assert resident_estimate(recording) == [heap + (32 + 64) * fixtures.MIB + 132 * 1024]


def test_measure_fifty_thousand_sites_takes_seconds() -> None:
    chance = np.random.default_rng(1)
    times = np.arange(9.0)
    rows = chance.integers(0, 1 << 30, (50_000, 9)).astype(np.float64)
    start = time.process_time()
    assert len(measure(Curves(times, 360, rows, rows, np.abs(rows).repeat(2, axis=1)[:, :16], 0.6))) == 50_000
    assert time.process_time() - start < 5


def test_course_few_snapshots_at_unequal_times_are_compared_by_rate() -> None:
    """A straight line on a busy machine: the last part adds less than the first because it is shorter."""
    times = [0.0, 6.0, 7.0, 8.0, 9.0, 9.5]
    assert course(times, [7.0 * at_s for at_s in times]).verdict is Verdict.GROWING


@pytest.mark.parametrize(
    ("time_constant", "verdict"),
    [(0.5, Verdict.LEVELLING_OFF), (1.0, Verdict.LEVELLING_OFF), (2.0, Verdict.UNDECIDED), (50.0, Verdict.GROWING)],
)
def test_settled_memory_of_a_runtime_is_a_leak_only_where_it_does_not_slow_down(
    time_constant: float, verdict: Verdict
) -> None:
    """A code cache that fills ever more slowly, by time constants in windows; the last is as even as a leak."""
    filled = 1 - np.exp(-np.linspace(0, 1, 9) / time_constant)
    growing = Growth(7.0, 5.0, 9.0, Verdict.GROWING)
    assert settled(growing, np.diff(filled), 60.0).verdict is verdict
    assert settled(replace(growing, verdict=Verdict.STEADY), np.diff(filled), 60.0).verdict is Verdict.STEADY


@pytest.mark.parametrize(
    ("added", "goes_on", "verdict"),
    [
        ([47, 41, 38, 33, 39, 30, 27, 35], True, Verdict.GROWING),
        ([47, 41, 38, 33, 39, 30, 27, 35], False, Verdict.UNDECIDED),
        ([47, 41, 36, 33, 30, 28, 25, 22], True, Verdict.UNDECIDED),
        ([47, 30, 12, 9, 8, 8, 8, 8], True, Verdict.LEVELLING_OFF),
    ],
)
def test_settled_classes_of_the_program_leak_where_they_go_on_evenly_after_they_slowed_down(
    added: list[int], goes_on: bool, verdict: Verdict
) -> None:
    growing = Growth(7.0, 5.0, 9.0, Verdict.GROWING)
    assert settled(growing, np.array(added, dtype=float), 60.0, goes_on=goes_on).verdict is verdict
