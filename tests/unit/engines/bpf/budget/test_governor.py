"""The governor against a simulated target: any load, any number of seconds, in no time."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest

from nativeleak.engines.bpf.budget.governor import EXACT, FREES, NOTHING, Governor, Step
from nativeleak.engines.bpf.budget.load import Costs, Load, Plan
from nativeleak.model import Level

COSTS = Costs(call_ns=500.0, free_ns=500.0, return_ns=300.0, run_ns=150.0, light_run_ns=75.0)
LOOK_S = 0.5
TICK_S = 0.05
PAIR_S = 1.75e-6
"""What a pair of malloc and free costs at these costs, exactly recorded."""
BLIP_S = 0.1


@dataclass
class Simulation:
    """A target that uses ``own`` of a core and makes ``pairs`` of malloc and free a second."""

    governor: Governor
    own: float = 1.0
    pairs: float = 0.0
    frees: float | None = None
    now_s: float = 0.0
    watched: list[tuple[float, float]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    cost_s: float = 0.0
    blips: list[float] = field(default_factory=list)

    def load(self) -> Load:
        level = self.governor.plan.level
        is_watched = level in (Level.EXACT, Level.SAMPLED)
        calls = self.pairs if is_watched else 0.0
        frees = (self.pairs if self.frees is None else self.frees) if level is not Level.SYSCALLS else 0.0
        run_ns = COSTS.run_ns if is_watched else COSTS.light_run_ns
        load = Load(calls, frees, calls, calls, 0.0, run_ns)
        cost = self.governor.cost(load)
        # Nobody makes so many in a second when each takes that long: the thread is busy all the time then.
        slower = min(1.0, 1.0 / (cost + self.own)) if self.own + cost > 1 else 1.0
        load = Load(calls * slower, frees * slower, calls * slower, calls * slower, 0.0, run_ns)
        return Load(
            load.calls, load.frees, load.returns, load.followed, self.own * slower + self.governor.cost(load), run_ns
        )

    def begin(self) -> None:
        frees = self.pairs if self.frees is None else self.frees
        self._take(self.governor.begin(Load(self.pairs, frees, 0.0, 0.0, self.own)))

    def run(self, seconds: float) -> None:
        end_s = self.now_s + seconds
        while self.now_s < end_s - 1e-9:
            self._pass(min(TICK_S, max(1e-3, self.governor.due_s - self.now_s), end_s - self.now_s))

    def _pass(self, passed_s: float) -> None:
        load = self.load()
        self._spend(passed_s, load)
        step = self.governor.decide(self.now_s, passed_s, load)
        if step is not None:
            self._take(step)

    def _spend(self, passed_s: float, load: Load) -> None:
        cost = self.governor.cost(load)
        self.cost_s += cost * passed_s
        if self.governor.plan.level in (Level.EXACT, Level.SAMPLED):
            self.watched.append((self.now_s, passed_s))
            if self.governor.is_blip(cost, load.busy):
                if not self.blips or not math.isclose(self._blip_end_s, self.now_s):
                    self.blips.append(0.0)
                self.blips[-1] += passed_s
                self._blip_end_s = self.now_s + passed_s
        self.now_s += passed_s

    _blip_end_s = -1.0

    def _take(self, step: Step) -> None:
        if step.why:
            self.notes.append(step.why)
        if step.plan.level in (Level.EXACT, Level.SAMPLED) and step.for_s <= 0.25:
            load = self.load()
            self._spend(step.for_s, load)
            self.governor.watched(step.for_s, load)
            frees = Load(0.0, load.frees, 0.0, 0.0, load.cpu, COSTS.light_run_ns)
            self.cost_s += self.governor.cost(frees) * step.frees_s
            self.now_s += step.frees_s
            self._take(self.governor.close(self.now_s, max(1e-6, step.frees_s), frees))

    def watched_s(self, from_s: float = 0.0, to_s: float = math.inf) -> float:
        return sum(passed_s for at_s, passed_s in self.watched if from_s <= at_s < to_s)


def simulation(
    budget_pct: float = 5.0,
    ceiling: Plan = EXACT,
    duration_s: float | None = 30.0,
    blip_s: float = BLIP_S,
    **load: float,
) -> Simulation:
    sim = Simulation(Governor(budget_pct, COSTS, ceiling, duration_s, blip_s), **load)
    sim.begin()
    return sim


def allowed_s(sim: Simulation, seconds: float, share: float = 0.05) -> float:
    return share * max(0.4, sim.own) * seconds


def test_load_that_the_purse_pays_for_is_watched_all_the_time():
    sim = simulation(duration_s=600, pairs=20_000)  # 3.5 % of a core that is used whole
    sim.run(600)
    assert sim.watched_s() == pytest.approx(600)
    assert sim.notes == []


def test_sleeping_target_may_lose_two_per_cent_of_a_core():
    sim = simulation(duration_s=600, pairs=11_000, own=0.01)
    sim.run(600)
    assert sim.watched_s() == pytest.approx(600)
    assert sim.cost_s / 600 == pytest.approx(11_000 * PAIR_S)


@pytest.mark.parametrize("own", [0.02, 1.0])
@pytest.mark.parametrize("pairs", [20_000, 40_000, 100_000, 200_000, 1_000_000, 10_000_000])
@pytest.mark.parametrize("seconds", [15.0, 30.0, 600.0])
def test_whole_trace_stays_inside_of_the_purse_and_has_windows_in_all_its_parts(
    pairs: float, seconds: float, own: float
):
    sim = simulation(duration_s=seconds, pairs=pairs, own=own)
    sim.run(seconds)
    assert sim.cost_s <= 1.1 * allowed_s(sim, seconds)
    if pairs * PAIR_S > 0.05:
        # A short window is reckoned with a fifth more than its hits.
        assert sim.cost_s >= 0.37 * allowed_s(sim, seconds)
    part_s = seconds / 4
    assert all(sim.watched_s(part * part_s, (part + 1) * part_s) > 0 for part in range(4))


@pytest.mark.parametrize("pairs", [200_000, 1_000_000, 10_000_000])
def test_no_blip_is_longer_than_it_may_be(pairs: float):
    sim = simulation(duration_s=60, pairs=pairs, own=0.5)
    sim.run(60)
    assert sim.blips
    assert max(sim.blips) <= BLIP_S
    assert sim.watched[0][0] == 0.0


@pytest.mark.parametrize("pairs", [200_000, 1_000_000])
def test_blips_can_be_forbidden_until_the_target_is_calmer(pairs: float):
    sim = simulation(duration_s=120, blip_s=0.0, pairs=pairs)
    sim.run(60)
    assert sim.watched_s() == 0.0
    assert sim.notes == ["--max-blip 0 forbids the stretch that it takes"]
    sim.pairs, sim.own = 1_000, 0.1
    sim.run(60)
    assert sim.watched_s() > 40


def test_trace_begins_exact_for_as_long_as_a_quarter_of_the_purse_pays():
    sim = simulation(duration_s=30, pairs=40_000, own=0.02)  # 7 % of a core, 2 % allowed
    sim.run(30)
    first_pause_s = next(b - a for (a, at), (b, _) in zip(sim.watched, sim.watched[1:], strict=False) if b - a > 2 * at)
    assert first_pause_s > 0
    gaps = [(a + at, b) for (a, at), (b, _) in zip(sim.watched, sim.watched[1:], strict=False) if b - a - at > 1e-6]
    assert 1.5 < gaps[0][0] < 4
    assert sim.notes == ["more would exceed the budget"]


def test_savings_pay_for_a_burst():
    sim = simulation(duration_s=600, pairs=1_000, own=0.02)
    sim.run(300)
    sim.pairs = 50_000  # 8.75 %: four times the income
    sim.run(30)
    assert sim.watched_s() == pytest.approx(330)
    sim.pairs = 1_000
    sim.run(270)
    assert sim.watched_s() == pytest.approx(600)


def test_burst_is_a_blip_that_is_ended_and_everything_comes_back():
    sim = simulation(duration_s=None, pairs=1_000)
    sim.run(60)
    sim.pairs = 1_000_000
    sim.run(30)
    assert max(sim.blips) <= BLIP_S + TICK_S
    sim.pairs = 1_000
    sim.run(30)
    assert sim.watched_s(110, 120) == pytest.approx(10, rel=0.02)
    assert sim.notes[-1] == "there is room in the budget again"


def test_without_a_duration_the_purse_is_that_of_a_minute():
    sim = simulation(duration_s=None, pairs=200_000, own=0.02)
    sim.run(600)
    assert sim.cost_s <= 1.05 * (allowed_s(sim, 600) + 0.25 * allowed_s(sim, 60))
    sim.cost_s = 0.0
    sim.run(60)
    assert sim.cost_s <= 1.2 * allowed_s(sim, 60)


def test_trace_of_a_day_has_some_thousand_windows():
    sim = simulation(duration_s=None, pairs=400_000, own=0.5)
    sim.run(86_400)
    assert 500 < len(sim.watched) < 8_000


def test_frees_are_watched_between_windows_where_they_are_few():
    sim = simulation(duration_s=60, pairs=30_000, own=0.02, frees=1_000)
    sim.run(20)
    assert sim.governor.between == FREES
    sim = simulation(duration_s=60, pairs=30_000, own=0.02)
    sim.run(20)
    assert sim.governor.between == NOTHING


def test_burst_is_what_lasts_longer_than_a_blip_or_empties_the_purse():
    sim = simulation(duration_s=60, pairs=20_000)
    governor = sim.governor
    many = Load(120_000.0, 120_000.0, 120_000.0, 120_000.0, 1.0, COSTS.run_ns)
    assert governor.is_blip(governor.cost(many), many.busy)
    assert not governor.is_burst(many, 0.5 * BLIP_S)
    assert governor.is_burst(many, BLIP_S)
    some = Load(60_000.0, 60_000.0, 60_000.0, 60_000.0, 1.0, COSTS.run_ns)
    assert not governor.is_burst(some, LOOK_S)
    assert governor.is_burst(some, 20.0)
    assert governor.least_burst() <= 0.2 * BLIP_S


def test_moment_of_sleep_does_not_make_the_next_window_long():
    sim = simulation(duration_s=60, pairs=1_000_000, own=0.5)
    sim.run(10)
    sim.pairs = 0.0
    sim.run(sim.governor.due_s - sim.now_s + 0.01)
    sim.pairs = 1_000_000
    sim.run(10)
    assert max(sim.blips) <= BLIP_S


def test_sampling_that_was_asked_for_is_the_most_there_is():
    ceiling = Plan(Level.SAMPLED, 1 << 20)
    sim = simulation(ceiling=ceiling, duration_s=60, pairs=100)
    sim.run(60)
    assert sim.governor.plan == ceiling
    assert sim.watched_s() == pytest.approx(60)


def test_without_a_limit_nothing_is_decided():
    governor = Governor(math.inf, COSTS)
    load = Load(1e6, 1e6, 1e6, 1e6, 1.0, 150.0)
    assert governor.decide(1.0, 0.5, load) is None
    assert governor.due_s == math.inf
    assert governor.plan == EXACT


def test_target_that_waits_for_a_core_is_not_calm():
    incomes = []
    for reach in (1.0, 0.1):
        governor = Governor(5.0, COSTS, EXACT, 30.0)
        load = Load(100_000.0, 100_000.0, 100_000.0, 100_000.0, 0.1, COSTS.run_ns, reach)
        governor.begin(load)
        incomes.append(governor.purse.income)
        assert governor.is_blip(0.05, load.busy) is (reach < 0.2)
    assert incomes == pytest.approx([0.02, 0.005])


def test_calm_target_on_a_crowded_machine_is_watched_all_the_time():
    """120 calls a second of a program that gets a core in one moment of a hundred: 0.1 % of a core is no burden."""
    governor = Governor(5.0, COSTS, EXACT, 12.0)
    load = Load(60.0, 60.0, 60.0, 60.0, 0.005, 2_000.0, 0.01)
    governor.begin(load)
    steps = [governor.decide(0.5 * n, 0.5, load) for n in range(1, 25)]
    assert steps == [None] * 24
    assert governor.purse.income == pytest.approx(0.0025)


def test_hits_of_the_beginning_are_paid_before_the_first_decision_and_the_next_window_comes_later():
    """A busy target whose probes go in fast, and one in which they were armed for half a second."""
    first_windows = []
    for attaching_s in (0.01, 0.5):
        sim = Simulation(Governor(1.0, COSTS, EXACT, 30.0), pairs=1_000_000)
        load = sim.load()
        step = sim.governor.begin(Load(sim.pairs, sim.pairs, 0.0, 0.0, sim.own))
        lent_s = sim.governor.purse.left_s
        sim.governor.charge(attaching_s, load)
        assert sim.governor.purse.spent_s >= 1.1 * attaching_s * sim.governor.cost(load)
        assert sim.governor.purse.left_s < lent_s
        sim._take(step)
        sim.run(10)
        first_windows.append(len(sim.watched))
    assert first_windows[0] > 2 * first_windows[1]
