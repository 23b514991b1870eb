"""The governor against a simulated target: any load, any number of seconds, in no time."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from nativeleak.engines.bpf.budget.governor import EXACT, Costs, Governor, Load, Plan
from nativeleak.model import Level

COSTS = Costs(call_ns=500.0, free_ns=500.0, return_ns=300.0, run_ns=150.0, light_run_ns=75.0)
LOOK_S = 0.5
SYSCALLS = Plan(Level.SYSCALLS)
BIG = Plan(Level.BIG)


@dataclass
class Simulation:
    """A target that uses ``own`` of a core and makes ``pairs`` of malloc and free a second."""

    governor: Governor
    own: float = 1.0
    pairs: float = 0.0
    deep_ns: float = 0.0
    now_s: float = 0.0
    steps: list[tuple[float, Plan]] = field(default_factory=list)
    cost_s: float = 0.0

    def load(self) -> Load:
        level = self.governor.plan.level
        calls = self.pairs if level in (Level.EXACT, Level.SAMPLED) else 0.0
        frees = self.pairs if level is not Level.SYSCALLS else 0.0
        followed = {Level.EXACT: calls, Level.SAMPLED: min(calls, 10.0)}.get(level, 0.0)
        run_ns = COSTS.run_ns + self.deep_ns if level is Level.EXACT else COSTS.light_run_ns
        load = Load(calls, frees, followed, followed, 0.0, run_ns)
        return Load(calls, frees, followed, followed, self.own + self.governor.cost(load), run_ns)

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds / LOOK_S)):
            load = self.load()
            self.cost_s += self.governor.cost(load) * LOOK_S
            self.now_s += LOOK_S
            plan = self.governor.decide(self.now_s, load)
            if plan is not None:
                self.steps.append((self.now_s, plan))


def simulation(budget_pct: float = 5.0, ceiling: Plan = EXACT, **load: float) -> Simulation:
    return Simulation(Governor(budget_pct, COSTS, ceiling), **load)


def test_load_inside_of_the_budget_is_never_touched():
    sim = simulation(pairs=20_000)  # 3.5 % of a core
    sim.run(600)
    assert sim.steps == []


def test_burst_is_what_has_cost_by_now_what_was_for_the_whole_time_of_a_look():
    sim = simulation(pairs=300_000)
    load = sim.load()
    # What half a second may cost is spent by then.
    spent_s = sim.governor.budget(load) * LOOK_S / sim.governor.cost(load)
    assert spent_s < LOOK_S
    assert not sim.governor.is_burst(load, 0.97 * spent_s, LOOK_S)
    assert sim.governor.is_burst(load, 1.03 * spent_s, LOOK_S)
    assert sim.governor.decide(1.0, load) is not None


def test_load_that_a_look_lets_pass_is_no_burst_at_any_time():
    sim = simulation(pairs=20_000)
    assert not any(sim.governor.is_burst(sim.load(), 0.01 * part, LOOK_S) for part in range(1, 50))


def test_least_burst_is_that_of_a_target_that_sleeps():
    sim = simulation(pairs=300_000)
    sleeping = replace(sim.load(), cpu=0.0, calls=1.0, frees=1.0, returns=1.0)
    assert sim.governor.least_burst(LOOK_S) == pytest.approx(sim.governor.budget(sleeping) * LOOK_S)


@pytest.mark.parametrize("pairs", [40_000, 100_000, 1_000_000, 10_000_000])
def test_burst_is_answered_within_two_seconds_and_kept_inside_of_the_budget(pairs: float):
    sim = simulation(pairs=1_000)
    sim.run(60)
    sim.pairs = pairs
    sim.run(2)
    assert sim.steps
    assert sim.governor.cost(sim.load()) <= 0.05
    sim.cost_s = 0.0
    sim.run(600)
    assert sim.cost_s / 600 <= 0.05


def test_levels_are_taken_in_the_order_of_their_cost():
    # 36,000 pairs: exact 6.3 %, sampled 4.2 %; 60,000: sampled 6.9 %, frees alone 3.5 %; 200,000: nothing fits.
    for pairs, level in ((36_000, Level.SAMPLED), (60_000, Level.BIG), (200_000, Level.SYSCALLS)):
        sim = simulation(pairs=pairs)
        sim.run(2)
        assert sim.governor.plan.level is level


def test_end_of_a_burst_brings_everything_back():
    sim = simulation(pairs=200_000)
    sim.run(4)
    assert sim.governor.plan == SYSCALLS
    sim.pairs = 100
    sim.run(30)
    assert sim.governor.plan == EXACT
    assert [plan.level for _, plan in sim.steps] == [Level.SYSCALLS, Level.BIG, Level.EXACT]


def test_steady_load_at_the_edge_does_not_swing():
    for pairs in range(20_000, 80_000, 1_000):
        sim = simulation(pairs=float(pairs))
        sim.run(3600)
        # Only from the level where nothing is seen must it look again, ever less often.
        assert len(sim.steps) <= 2 * 20 if sim.governor.plan in (SYSCALLS, BIG) else len(sim.steps) <= 2


def test_attempts_after_a_blind_time_become_rare_and_stay_inside_of_the_budget():
    sim = simulation(pairs=1_000_000)
    sim.run(3600)
    ups = [at_s for at_s, plan in sim.steps if plan == BIG]
    assert 5 <= len(ups) <= 25
    assert ups[1] - ups[0] < 20
    assert ups[-1] - ups[-2] >= 300
    assert sim.cost_s / 3600 <= 0.05


def test_short_burst_of_one_look_is_waited_out():
    sim = simulation(pairs=1_000)
    sim.run(10)
    sim.pairs = 45_000  # 7.9 %: less than twice the budget
    sim.run(0.5)
    sim.pairs = 1_000
    sim.run(60)
    assert sim.steps == []


def test_deep_stacks_count_as_measured_on_the_target():
    sim = simulation(pairs=20_000, deep_ns=5_000)
    sim.run(2)
    assert sim.steps[0][1].level is Level.SAMPLED


def test_share_is_of_the_targets_own_time_where_that_is_less_than_a_core():
    sim = simulation(pairs=20_000, own=0.5)  # 3.5 % of a core, 7 % of the target
    sim.run(2)
    assert sim.governor.plan.level is not Level.EXACT


def test_sleeping_target_may_lose_a_fifth_of_the_share_of_a_core():
    sim = simulation(pairs=5_000, own=0.0)  # 0.9 % of a core; 1 % is allowed
    sim.run(60)
    assert sim.steps == []


def test_sampling_that_was_asked_for_is_the_most_there_is():
    ceiling = Plan(Level.SAMPLED, 1 << 20)
    sim = simulation(ceiling=ceiling, pairs=200_000)
    sim.run(4)
    assert sim.governor.plan == SYSCALLS
    sim.pairs = 100
    sim.run(30)
    assert sim.governor.plan == ceiling


def test_coarser_sampling_where_the_sampled_blocks_are_what_costs():
    governor = Governor(5.0, COSTS, Plan(Level.SAMPLED, 64 << 10))
    many = Load(calls=30_000, frees=30_000, returns=20_000, followed=20_000, cpu=1.06, run_ns=300.0)
    governor.decide(0.5, many)
    assert governor.decide(1.0, many) == Plan(Level.SAMPLED, 512 << 10)


@pytest.mark.parametrize(
    ("pairs", "plan"), [(1_000, EXACT), (36_000, Plan(Level.SAMPLED, 512 << 10)), (60_000, BIG), (500_000, SYSCALLS)]
)
def test_first_plan_follows_what_was_counted_before(pairs: float, plan: Plan):
    governor = Governor(5.0, COSTS)
    assert governor.begin(Load(pairs, pairs, 0.0, 0.0, 1.0)) == plan
