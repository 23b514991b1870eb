"""The distance of samples that a budget pays for, against a simulated target that knows its costs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest

from nativeleak.engines.bpf.budget.distance import Distance
from nativeleak.engines.bpf.budget.governor import Governor, Step
from nativeleak.engines.bpf.budget.load import Costs, Load
from nativeleak.engines.bpf.kernel import abi
from nativeleak.model import Level

COSTS = Costs(call_ns=500.0, free_ns=500.0, return_ns=300.0, run_ns=150.0, light_run_ns=75.0)
LOOK_S = 0.5
N_TIMED = 10
"""One look in so many has a measured time, as in a trace."""


@dataclass
class Target:
    """A target that uses a core and makes pairs of malloc and free a second, all of one size.

    Its hits take other times than the calibration says: ``light_ns`` each, and ``more_ns`` with a sample.
    """

    pairs: float
    size: float = 200.0
    light_ns: float = 75.0
    more_ns: float = 225.0
    budget_pct: float = 5.0
    duration_s: float = 60.0
    now_s: float = 0.0
    cost_s: float = 0.0
    n_samples: float = 0.0
    watched_s: float = 0.0
    distances: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        distance = Distance(COSTS)
        self.governor = Governor(self.budget_pct, COSTS, distance.plan, self.duration_s, distance=distance)

    def load(self, *, is_timed: bool) -> tuple[Load, float]:
        """The load as it is measured, and its true cost."""
        plan = self.governor.plan
        if plan.level is not Level.SAMPLED:
            frees = self.pairs if plan.level is Level.BIG else 0.0
            return Load(0.0, frees, 0.0, 0.0, 1.0, self.light_ns), frees * (COSTS.free_ns + self.light_ns) / 1e9
        samples = self.pairs * -math.expm1(-self.size / plan.sample_bytes)
        returns = samples + (self.pairs - samples) / 64
        hits = 2 * self.pairs + returns
        run_ns = self.light_ns + self.more_ns * samples / max(hits, 1e-9)
        traps_ns = self.pairs * (COSTS.call_ns + COSTS.free_ns) + returns * COSTS.return_ns
        cost = (traps_ns + hits * run_ns) / 1e9
        return Load(self.pairs, self.pairs, returns, samples, 1.0 + cost, run_ns if is_timed else None), cost

    def run(self, seconds: float | None = None) -> Target:
        if not self.now_s:
            self._take(self.governor.begin(Load(self.pairs, self.pairs, 0.0, 0.0, 1.0)))
        end_s = self.now_s + (self.duration_s if seconds is None else seconds)
        n_looks = 0
        while self.now_s < end_s - 1e-9:
            passed_s = min(LOOK_S, max(1e-3, self.governor.due_s - self.now_s), end_s - self.now_s)
            load = self._pass(passed_s, is_timed=n_looks % N_TIMED == 1)
            n_looks += 1
            step = self.governor.decide(self.now_s, passed_s, load)
            if step is not None:
                self._take(step)
        return self

    def _pass(self, passed_s: float, *, is_timed: bool) -> Load:
        load, cost = self.load(is_timed=is_timed)
        self.cost_s += cost * passed_s
        self.n_samples += load.followed * passed_s
        self.now_s += passed_s
        if self.governor.plan.level is Level.SAMPLED:
            self.watched_s += passed_s
            self.distances.append(self.governor.plan.sample_bytes)
        return load

    def _take(self, step: Step) -> None:
        if step.plan.level is Level.SAMPLED and step.for_s <= 0.25:
            self.governor.watched(step.for_s, self._pass(step.for_s, is_timed=True))
            frees = Load(0.0, 0.0, 0.0, 0.0, 1.0, COSTS.light_run_ns)
            self.now_s += step.frees_s
            self._take(self.governor.close(self.now_s, max(1e-6, step.frees_s), frees))

    @property
    def most_s(self) -> float:
        """What may be spent, with the tenth that a last look may come late."""
        return 1.1 * self.budget_pct / 100 * self.now_s


def test_least_distance_where_the_budget_pays_for_it():
    target = Target(pairs=5_000).run()
    assert set(target.distances[10:]) == {abi.MIN_SAMPLE_RATE}
    assert target.watched_s == pytest.approx(60)


@pytest.mark.parametrize("pairs", [25_000, 30_000, 35_000])
def test_samples_take_what_the_traps_leave_of_the_budget(pairs: float):
    target = Target(pairs, more_ns=20_000.0).run()
    assert target.watched_s == pytest.approx(60)
    assert 0.75 * 3.0 <= target.cost_s <= target.most_s
    assert target.distances[-1] > abi.MIN_SAMPLE_RATE


@pytest.mark.parametrize("light_ns", [40.0, 150.0])
@pytest.mark.parametrize("more_ns", [100.0, 2_000.0, 60_000.0])
@pytest.mark.parametrize("pairs", [2_000, 20_000, 35_000, 80_000, 1_000_000])
def test_budget_holds_whatever_a_hit_takes(pairs: float, more_ns: float, light_ns: float):
    target = Target(pairs, more_ns=more_ns, light_ns=light_ns).run()
    assert target.cost_s <= target.most_s
    assert target.n_samples > 200


def test_distance_follows_the_load():
    target = Target(pairs=10_000, more_ns=20_000.0).run(20)
    before = target.distances[-1]
    target.pairs = 30_000
    target.run(10)
    busy = target.distances[-1]
    target.pairs = 10_000
    target.run(30)
    assert busy > 2 * before
    assert target.distances[-1] < busy / 2
    assert target.cost_s <= target.most_s


def test_steady_load_keeps_its_distance():
    target = Target(pairs=30_000, more_ns=20_000.0, duration_s=600.0).run()
    changes = sum(a != b for a, b in zip(target.distances, target.distances[1:], strict=False))
    assert changes <= 24, target.distances


def test_traps_that_take_more_than_the_budget_leave_windows_of_samples():
    target = Target(pairs=200_000, more_ns=20_000.0).run()
    assert 0 < target.watched_s < 30
    assert target.cost_s <= target.most_s
    # The samples of a window cost about as much as its traps.
    samples_s = target.n_samples * (300 + 75 + 20_000) / 1e9
    assert 0.25 * target.cost_s < samples_s < 0.7 * target.cost_s


def test_windows_end_where_there_is_room_for_the_traps_again():
    target = Target(pairs=100_000, duration_s=120.0).run(40)
    assert target.watched_s < 40
    target.pairs = 5_000
    target.run(40)
    watched_s = target.watched_s
    target.run(20)
    assert target.watched_s == pytest.approx(watched_s + 20)


def test_more_budget_takes_more_samples():
    few = Target(pairs=20_000, more_ns=20_000.0, budget_pct=4.0).run()
    many = Target(pairs=20_000, more_ns=20_000.0, budget_pct=8.0).run()
    assert many.n_samples > 1.5 * few.n_samples


def test_burst_is_ended_as_a_blip_and_all_is_watched_again_soon():
    target = Target(pairs=20_000, more_ns=20_000.0).run(20)
    target.pairs = 1_000_000
    target.run(0.5)
    assert target.governor.plan.level is not Level.SAMPLED
    target.pairs = 20_000
    target.run(14.5)
    watched_s = target.watched_s
    target.run(20)
    assert target.watched_s == pytest.approx(watched_s + 20)
    assert target.cost_s <= target.most_s
