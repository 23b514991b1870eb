"""Growth by windows: what is left of the births that windows saw, on made-up courses whose truth is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import recording_fixtures as fixtures
from nativeleak.analysis.census_growth import Part, held_against_memory, most_slowdown
from nativeleak.analysis.curves import Curves, Floats, read_curves, watched_span
from nativeleak.analysis.growth import Growth, Verdict, measure
from nativeleak.analysis.part_rates import About, rates_of_parts
from nativeleak.analysis.windowed import own_shares
from nativeleak.model import FrameSource, Level, Stack, Window
from nativeleak.recording import RecordingWriter

SLICE_S = 2.147
TRACE_S = 30.0
N_SLICES = 16
BLOCK_BYTES = 520.0
WINDOW_S = 0.05


def curves(bytes_a_second: Floats, blocks: float = 900.0, watched: Floats | None = None) -> Curves:
    """Curves whose windows saw so many bytes a second that are left, by slice."""
    seen = np.full(N_SLICES, 0.1) if watched is None else watched
    seen = np.where(np.arange(N_SLICES) * SLICE_S < TRACE_S, seen, 0.0)
    slices = np.array([bytes_a_second * seen])
    rows = np.linspace(0, slices.sum(), 9).reshape(1, -1)
    return Curves(np.linspace(0, TRACE_S, 9), 20, rows, np.full((1, 9), blocks), slices, SLICE_S, watched=seen)


def poisson(rate: float, seed: int) -> Floats:
    return np.random.default_rng(seed).poisson(rate * 0.1, N_SLICES) * BLOCK_BYTES / 0.1


def test_leak_grows_at_its_rate_whatever_was_watched_of_it():
    for watched in (None, np.linspace(0.05, 1.5, N_SLICES), np.array([2.0] + [0.05] * 15)):
        (growth,) = measure(curves(np.full(N_SLICES, 1e6), watched=watched))
        assert growth.verdict is Verdict.GROWING
        assert growth.slope_bytes_per_s == pytest.approx(1e6, rel=1e-6)


@pytest.mark.parametrize("rate", [30.0, 200.0, 2000.0])
def test_interval_holds_the_truth_of_counts_by_chance(rate: float):
    held = 0
    for seed in range(200):
        born = poisson(rate, seed)
        (growth,) = measure(curves(born, blocks=float(born.sum() * 0.1 / BLOCK_BYTES)))
        held += growth.low_bytes_per_s <= rate * BLOCK_BYTES <= growth.high_bytes_per_s
    assert held >= 186


@pytest.mark.parametrize("spread", [0.0, 0.3])
def test_a_long_window_beside_short_ones_tells_growth_and_its_interval_holds_the_truth(spread: float):
    """A trace begins with a long window; the short ones say whether its rate went on. Rates change from age to age."""
    seen, rate = np.array([0.7, 0.05, 0.05, 0.05, 0.23, *[0.05] * 11]), 1400.0
    held, grows, widths = 0, 0, []
    for seed in range(200):
        chance = np.random.default_rng(seed)
        rates = rate * chance.lognormal(-(spread**2) / 2, spread, N_SLICES)
        left = chance.poisson(rates * seen) * BLOCK_BYTES
        (growth,) = measure(curves(left / seen, blocks=float(left.sum() / BLOCK_BYTES), watched=seen))
        held += growth.low_bytes_per_s <= rate * BLOCK_BYTES <= growth.high_bytes_per_s
        grows += growth.verdict is Verdict.GROWING
        widths.append((growth.high_bytes_per_s - growth.low_bytes_per_s) / (2 * rate * BLOCK_BYTES))
    assert held >= 180
    assert grows >= 180
    assert np.median(widths) < 0.35


FOUND_S = 6.0
"""When call sites were found, and watched by themselves from then on."""


def at_call_sites(left: Floats, blocks: float, in_windows: Floats | None = None) -> Curves:
    """Curves of a trace with few windows, whose blocks were recorded at watched call sites: bytes by slice."""
    starts = np.arange(N_SLICES) * SLICE_S
    covered = np.clip(np.minimum(starts + SLICE_S, TRACE_S) - np.maximum(starts, FOUND_S), 0.0, None)
    seen = np.where(np.arange(N_SLICES) % 6 == 0, WINDOW_S, 0.0)
    own = np.array([left * (covered > 0)])
    slices = own if in_windows is None else own + in_windows * (seen > 0)
    rows = np.linspace(0, slices.sum(), 9).reshape(1, -1)
    of_blocks = np.full((1, 9), blocks)
    times = np.linspace(0, TRACE_S, 9)
    return Curves(times, 20, rows, of_blocks, slices, SLICE_S, watched=seen, own=own, covered=covered)


def mixed(own: Floats, in_windows: Floats, seen: Floats, covered: Floats) -> Curves:
    """One curve of both kinds of births: bytes, and the seconds in which they were seen, by slice."""
    slices = np.array([own + in_windows])
    rows = np.linspace(0, slices.sum(), 9).reshape(1, -1)
    times, blocks = np.linspace(0, TRACE_S, 9), np.full((1, 9), 5000.0)
    return Curves(times, 20, rows, blocks, slices, SLICE_S, watched=seen, own=np.array([own]), covered=covered)


def seconds_of_slices() -> Floats:
    """How much of each slice is in the trace."""
    starts = np.arange(N_SLICES) * SLICE_S
    return np.clip(np.minimum(starts + SLICE_S, TRACE_S) - starts, 0.0, None)


@pytest.mark.parametrize("rate", [0.5, 3.0, 50.0])
def test_births_at_watched_call_sites_tell_growth_where_windows_are_too_few(rate: float):
    """Ten leaked blocks a minute are enough; the interval holds the truth."""
    held, grows = 0, 0
    for seed in range(200):
        starts = np.arange(N_SLICES) * SLICE_S
        covered = np.clip(np.minimum(starts + SLICE_S, TRACE_S) - np.maximum(starts, FOUND_S), 0.0, None)
        n = np.random.default_rng(seed).poisson(rate * covered)
        (growth,) = measure(at_call_sites(n * BLOCK_BYTES, float(n.sum())))
        held += growth.low_bytes_per_s <= rate * BLOCK_BYTES <= growth.high_bytes_per_s
        grows += growth.verdict is Verdict.GROWING
    assert held >= 180
    assert grows >= (180 if rate > 1 else 40)


def test_what_was_freed_later_at_a_watched_call_site_does_not_grow():
    for left in (np.array([0.0] * 8 + [1e5] * 8), np.array([0.0] * 3 + [1e5] * 4 + [0.0] * 9)):
        (growth,) = measure(at_call_sites(left, 500.0))
        assert growth.verdict is Verdict.UNDECIDED


def test_what_windows_saw_of_a_curve_is_not_known_where_they_are_few():
    (alone,) = measure(at_call_sites(np.full(N_SLICES, 1e5), 5000.0))
    (beside,) = measure(at_call_sites(np.full(N_SLICES, 1e5), 5000.0, np.full(N_SLICES, 1e5)))
    assert alone.verdict is Verdict.GROWING
    assert beside.high_bytes_per_s - beside.low_bytes_per_s > 3 * (alone.high_bytes_per_s - alone.low_bytes_per_s)
    assert own_shares(at_call_sites(np.full(N_SLICES, 1e5), 5000.0)) == [1.0]


def test_a_call_site_that_windows_saw_until_it_was_watched_by_itself_counts_once():
    """By windows at first, by itself from the middle of a slice on: one leak of one rate."""
    inside, begin = seconds_of_slices(), 3
    covered = np.where(np.arange(N_SLICES) > begin, inside, 0.0)
    covered[begin] = 0.4 * inside[begin]
    seen = np.where(inside > 0, 0.05, 0.0)
    made = mixed(1e5 * covered, 1e5 * np.where(np.arange(N_SLICES) <= begin, seen, 0.0), seen, covered)
    (growth,) = measure(made)
    assert growth.verdict is Verdict.GROWING
    assert growth.slope_bytes_per_s == pytest.approx(1e5, rel=0.01)
    assert growth.high_bytes_per_s - growth.low_bytes_per_s < 0.1e5


def test_what_was_seen_all_the_time_is_not_raised_by_the_slowdown_of_windows(tmp_path: Path):
    growth = Growth(1e5, 0.9e5, 1.1e5, Verdict.GROWING)
    with recorded(tmp_path, windows(), 3e6) as recording:
        assert most_slowdown(recording) > 1.5
        raised, kept = held_against_memory(recording, [Part(growth, 1000.0), Part(growth, 1000.0, own_share=1.0)])
    assert raised.slope_bytes_per_s > 1.5 * growth.slope_bytes_per_s
    assert kept == growth


def test_blocks_of_watched_call_sites_are_told_by_their_leaf(tmp_path: Path):
    parts = (
        Window(0.0, 0.03, Level.EXACT, 0, 900, 0.01, 0.03),
        Window(0.03, FOUND_S, Level.SYSCALLS),
        Window(FOUND_S, 20.0, Level.HOT, 0, 20, 0.001, 10.0),
        Window(20.0, 20.03, Level.EXACT, 0, 900, 0.01, 0.03),
        Window(20.03, TRACE_S, Level.HOT, 0, 20, 0.001, 10.0),
    )
    leaf = fixtures.native("malloc", found=FrameSource.SITE)

    def write(writer: RecordingWriter) -> None:
        caller = fixtures.native("remember", "server")
        writer.add_stacks([Stack(12, (leaf, caller)), Stack(13, (fixtures.native("malloc"), caller))])
        for number in range(1, 21):
            at_s = TRACE_S * number / 20
            born = tuple((5200, 10) if FOUND_S <= i * SLICE_S < at_s else (0, 0) for i in range(N_SLICES))
            totals = sum(n for n, _ in born), sum(n for _, n in born)
            sites = [fixtures.heap_site(1, key, totals, slices=born) for key in (12, 13)]
            writer.write_snapshot(fixtures.snapshot(at_s, sites, windows=parts, rss_bytes=64 << 20, slice_s=SLICE_S))

    with fixtures.record(tmp_path / "a.nlk", write) as recording:
        span = watched_span(recording)
        assert span.in_windows
        (found,) = read_curves(recording, [fixtures_each(recording)], span)
    by_site = dict(zip((12, 13), found.own.sum(axis=1), strict=True))
    assert by_site[12] == found.slices[0].sum() > 0
    assert by_site[13] == 0
    assert found.covered.sum() == pytest.approx(TRACE_S - FOUND_S)


def test_what_only_stays_for_a_while_does_not_grow():
    for left in (
        np.array([0.0] * 8 + [1e6] * 8),  # ten seconds
        1e6 * np.exp(-np.arange(N_SLICES)[::-1] / 4),  # a cache that turns over
        np.array([1e6] * 4 + [0.0] * 12),  # the start
    ):
        (growth,) = measure(curves(left))
        assert growth.verdict is Verdict.UNDECIDED


def test_few_blocks_and_few_windows_decide_nothing():
    assert measure(curves(np.full(N_SLICES, 1e6), blocks=5.0))[0].verdict is Verdict.UNDECIDED
    three = np.array([0.1 if i in (0, 5, 9) else 0.0 for i in range(N_SLICES)])
    assert measure(curves(np.full(N_SLICES, 1e6), watched=three))[0].verdict is Verdict.UNDECIDED
    (growth,) = measure(curves(np.zeros(N_SLICES), blocks=0.0))
    assert growth.verdict is Verdict.UNDECIDED


def windows(period_s: float = 1.5, share: float = 0.3, *, cost: float | None = None) -> tuple[Window, ...]:
    rows: list[Window] = []
    at_s = 0.0
    while at_s < TRACE_S:
        cost_s = WINDOW_S * (share if cost is None else cost)
        rows.append(Window(at_s, at_s + WINDOW_S, Level.EXACT, 0, 30_000, cost_s, WINDOW_S * 0.32))
        rest_s = min(TRACE_S, at_s + period_s)
        rows.append(Window(at_s + WINDOW_S, rest_s, Level.SYSCALLS, 0, 0, 0.0, 0.05 * (rest_s - at_s - WINDOW_S)))
        at_s += period_s
    return tuple(rows)


def recorded(tmp_path: Path, parts: tuple[Window, ...], rss_rate: float):  # type: ignore[no-untyped-def]
    def write(writer: RecordingWriter) -> None:
        for number in range(1, 21):
            at_s = TRACE_S * number / 20
            slices = tuple((5200, 10) if i * SLICE_S < at_s else (0, 0) for i in range(N_SLICES))
            totals = sum(n for n, _ in slices), sum(n for _, n in slices)
            site = fixtures.heap_site(1, 12, totals, slices=slices)
            rss = (64 << 20) + round(rss_rate * at_s)
            writer.write_snapshot(fixtures.snapshot(at_s, [site], windows=parts, rss_bytes=rss, slice_s=SLICE_S))

    return fixtures.record(tmp_path / "a.nlk", write)


def test_span_of_windows_is_the_whole_trace_and_births_are_counted_for_the_seconds_watched(tmp_path: Path):
    parts = windows()
    with recorded(tmp_path, parts, 1e6) as recording:
        span = watched_span(recording)
        assert span.in_windows
        assert (span.first, span.last) == (0, 19)
        (found,) = read_curves(recording, [fixtures_each(recording)], span)
        assert found.watched is not None
        assert found.watched.sum() == pytest.approx(sum(w.to_s - w.from_s for w in parts if w.level is Level.EXACT))


@pytest.mark.parametrize("exact_s", [TRACE_S, 0.62 * TRACE_S, 0.2 * TRACE_S])
def test_two_snapshots_are_judged_by_births_where_most_of_the_trace_was_watched(tmp_path: Path, exact_s: float):
    """A recorder that gets no core: a snapshot early, one at the end; the kernel side has seen all births meanwhile."""
    parts = (Window(0.0, exact_s, Level.EXACT, 0, 9000, 0.01, 1.0),)
    if exact_s < TRACE_S:
        parts += (Window(exact_s, TRACE_S, Level.BIG, 0, 90, 0.0, 0.5),)

    def write(writer: RecordingWriter) -> None:
        for at_s in (TRACE_S / 8, TRACE_S):
            births = tuple((5200, 10) if i * SLICE_S < min(at_s, exact_s) else (0, 0) for i in range(N_SLICES))
            totals = sum(n for n, _ in births), sum(n for _, n in births)
            site = fixtures.heap_site(1, 12, totals, slices=births)
            writer.write_snapshot(fixtures.snapshot(at_s, [site], windows=parts, rss_bytes=64 << 20, slice_s=SLICE_S))

    with fixtures.record(tmp_path / "a.nlk", write) as recording:
        span = watched_span(recording)
        (growth,) = measure(read_curves(recording, [fixtures_each(recording)], span)[0])
    assert (span.by_births, span.in_windows) == (exact_s > TRACE_S / 2, False)
    if exact_s < TRACE_S / 2:
        assert growth.verdict is Verdict.UNDECIDED
    else:
        assert growth.verdict is Verdict.GROWING
        assert growth.low_bytes_per_s <= 5200 / SLICE_S <= growth.high_bytes_per_s


def test_three_snapshots_of_a_brief_trace_have_the_growth_of_their_differences(tmp_path: Path):
    """1.5 s long: too few slices for births, too few snapshots for a verdict, and blocks in all of them."""

    def write(writer: RecordingWriter) -> None:
        for at_s in (0.5, 1.0, 1.5):
            totals = int(at_s * 1_000_000), int(at_s * 100)
            site = fixtures.heap_site(1, 12, totals, slices=(totals,))
            parts = (Window(0.0, at_s, Level.EXACT, 0, 900, 0.01, 1.0),)
            writer.write_snapshot(fixtures.snapshot(at_s, [site], windows=parts, rss_bytes=64 << 20, slice_s=1.0))

    with fixtures.record(tmp_path / "a.nlk", write) as recording:
        (growth,) = measure(read_curves(recording, [fixtures_each(recording)], watched_span(recording))[0])
    assert growth.verdict is Verdict.UNDECIDED
    assert growth.slope_bytes_per_s == pytest.approx(1_000_000)


def fixtures_each(recording):  # type: ignore[no-untyped-def]
    from nativeleak.analysis.curves import EachSite

    return EachSite(len(recording.sites))


def growing(rate: float, margin: float = 0.05) -> Part:
    return Part(Growth(rate, rate * (1 - margin), rate * (1 + margin), Verdict.GROWING), BLOCK_BYTES)


def test_estimates_are_raised_to_the_growth_of_memory_where_probes_slowed_the_target_down(tmp_path: Path):
    with recorded(tmp_path, windows(), 2e6) as recording:
        assert most_slowdown(recording) > 2
        (growth,) = held_against_memory(recording, [growing(1e6)])
    assert growth.slope_bytes_per_s == pytest.approx(2e6, rel=0.05)
    assert growth.low_bytes_per_s == pytest.approx(0.95e6)
    assert growth.high_bytes_per_s >= 2e6


def test_estimates_stay_where_probes_cost_little(tmp_path: Path):
    with recorded(tmp_path, windows(cost=0.02), 2e6) as recording:
        assert most_slowdown(recording) == 1.0
        (growth,) = held_against_memory(recording, [growing(1e6)])
    assert growth == growing(1e6).growth


def test_nothing_grows_by_more_than_the_memory_does(tmp_path: Path):
    with recorded(tmp_path, windows(), 0.0) as recording:
        (growth,) = held_against_memory(recording, [growing(1e6)])
    assert growth.verdict is Verdict.UNDECIDED


def test_share_of_small_blocks_is_of_the_memory_without_their_headers(tmp_path: Path):
    with recorded(tmp_path, windows(cost=0.02), 2e6) as recording:
        span = watched_span(recording)
        (total,) = read_curves(recording, [fixtures_each(recording)], span, courses=True)
        rates = rates_of_parts(recording, span, total, total, [About(is_map=False, block_bytes=64.0)])
    assert rates.wholes[0] == pytest.approx(2e6 / 1.25, rel=0.02)


def test_a_call_site_that_was_given_up_as_too_hot_is_judged_by_windows():
    """In the second slice its blocks were its own; other call sites were watched on."""
    inside = seconds_of_slices()
    seen = np.where(inside > 0, 0.05, 0.0)
    is_second = np.arange(N_SLICES) == 1
    covered = np.where(np.arange(N_SLICES) >= 1, inside, 0.0)
    made = mixed(1e6 * np.where(is_second, SLICE_S, 0.0), 1e6 * np.where(is_second, 0.0, seen), seen, covered)
    (growth,) = measure(made)
    assert growth.verdict is Verdict.GROWING
    assert growth.low_bytes_per_s <= 1e6 <= growth.high_bytes_per_s
