"""Keeps a trace inside its budget: decides when all of the allocator's work is traced, and when none of it.

Scope: decisions alone. What a probe costs and how often it runs is measured elsewhere
(``engines/bpf/budget/calibration.py``, ``controller.py``), and time comes in as an argument, so that a test can play
any load in no time.

The budget is a purse (``purse.py``), not a limit of speed. A trace begins with every call watched, for as long as the
purse pays. Where it does not pay for all the time, windows of watching recur at the pace that it pays. Between two
windows nothing is trapped, or only frees, where these cost little.

A *blip* is a stretch in which the probes take more than a fifth of the time of the targets' busy threads. It is ended
after ``max_blip_s``, whatever the purse holds, and the next one comes a second later at the earliest.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from nativeleak.engines.bpf.budget.distance import Distance
from nativeleak.engines.bpf.budget.load import Costs, Load, Plan
from nativeleak.engines.bpf.budget.purse import Purse
from nativeleak.model import Level

DEFAULT_MAX_BLIP_S: Final = 0.1
_BLIP_SHARE: Final = 0.2
"""Part of the time of busy threads that makes a blip; a thread counts as busy where targets use less than a core."""
_BIRTHS_OF_BLIP: Final = 0.5
_FREES_OF_BLIP: Final = 0.2
"""Parts of a blip in which blocks are recorded, and in which their frees alone are watched; the rest goes to attaching
and detaching."""
_BESIDE: Final = 1.2
"""What a short window takes beside its hits, as a factor: pages of code that are copied, caches, the kernel's work.

Targets lost 1.13 times what their hits were reckoned with (``benchmarks/budget_where.py``, 24 windows, load 20).
"""
_LEAST_WINDOW_S: Final = 0.03
_LEAST_GAP_S: Final = 1.0
"""Between two blips."""
_CHEAP_FREES: Final = 0.4
"""Frees are watched between windows where that takes at most this part of the pace."""
_FILLED: Final = 0.9
"""All is watched again, without an end, where that takes at most this part of the pace."""
_SAMPLED_SHARE: Final = 0.85
"""Part of the pace, and of what makes a blip, that a distance is chosen for: loads rise between two looks."""
_LEAST_PERIOD_S: Final = 1.0
_MOST_PERIOD_S: Final = 5.0
_MOST_PERIODS: Final = 4
"""A least window that is no blip comes after so many periods at the latest: the purse may pay more by then."""
_N_PERIODS: Final = 24
"""Windows of a trace, about: verdicts divide it into twelve parts, and each should have one."""
_N_WINDOWS: Final = 1000
"""Two windows are at least this part of the trace so far apart, so that a trace of days has some thousand of them."""
_BELIEVED: Final = 0.5
_CALMER: Final = 0.5
"""Where blips are forbidden the load is tried again when the targets use so much less CPU time than before."""


EXACT: Final = Plan(Level.EXACT)
FREES: Final = Plan(Level.BIG)
NOTHING: Final = Plan(Level.SYSCALLS)


class Step(NamedTuple):
    """What to do next.

    Attributes:
        plan: How to watch from now on.
        for_s: For how long; infinite where later loads decide.
        frees_s: How long frees alone are watched after that, so that the end of short lives is seen.
        why: In words, for the notes; empty for a step of every day.
    """

    plan: Plan
    for_s: float = math.inf
    frees_s: float = 0.0
    why: str = ""


class Governor:
    """Decides on each look at the load.

    Args:
        budget_pct: Share of the targets' CPU time; ``math.inf``: it keeps account and nothing else.
        costs: Of probes on this host.
        ceiling: The most that is wanted: exact, or what the user asked for.
        duration_s: Of the trace; None where it is not known.
        max_blip_s: Longest stretch in which probes take more than a fifth of the time of the busy threads.
        distance: Chooses the distance of samples, where the budget is to say it; the ceiling is sampled then.

    Attributes:
        plan: How the targets are watched now.
        is_bounded: Whether there is a budget.
        purse: What may be spent.
        between: How the targets are watched between windows.
    """

    def __init__(
        self,
        budget_pct: float,
        costs: Costs,
        ceiling: Plan = EXACT,
        duration_s: float | None = None,
        max_blip_s: float = DEFAULT_MAX_BLIP_S,
        distance: Distance | None = None,
    ) -> None:
        self.plan = ceiling
        self.is_bounded = math.isfinite(budget_pct)
        self.purse = Purse(budget_pct / 100 if self.is_bounded else 0.0, duration_s)
        self._costs, self._ceiling, self._distance = costs, ceiling, distance
        self._duration_s, self._max_blip_s = duration_s, max_blip_s
        self._run_ns = {Level.EXACT: costs.run_ns}
        self._watching = 0.0
        self._freeing = 0.0
        self._busy = 1.0
        self.between = NOTHING
        self._between_cost = 0.0
        self._blip_s = 0.0
        self._until_s: float | None = None
        self._next_s = 0.0
        self._spent_before_s = 0.0
        self._has_windows = False
        self._own_cpu = 0.0
        self._cpu_of_blip: float | None = None

    # What things cost

    def cost(self, load: Load) -> float:
        """CPU seconds a second that the probes take from the targets at the present level."""
        costs = self._costs
        traps_ns = load.calls * costs.call_ns + load.frees * costs.free_ns + load.returns * costs.return_ns
        if load.run_ns is None and self._distance is not None and self.plan.level is Level.SAMPLED:
            return traps_ns / 1e9 + self._distance.running(load)
        run_ns = load.run_ns if load.run_ns is not None else self._usual_run_ns(self.plan.level)
        return (traps_ns + load.hits * run_ns) / 1e9

    def _take(self, passed_s: float, load: Load) -> None:
        """Take how long our programs ran, where that was measured, and what samples there were."""
        if load.run_ns is not None and load.hits:
            self._run_ns[self.plan.level] = load.run_ns
        if self._distance is not None and self.plan.level is Level.SAMPLED:
            self._distance.learn(passed_s, load)

    def _usual_run_ns(self, level: Level) -> float:
        return self._run_ns.get(level, self._costs.light_run_ns)

    def expected(self, plan: Plan, load: Load) -> float:
        """CPU seconds a second that a plan takes where as many calls and frees are made as a load has."""
        costs = self._costs
        entries_ns = load.calls * costs.call_ns + load.frees * costs.free_ns
        match plan.level:
            case Level.EXACT:
                run_ns = self._run_ns[Level.EXACT]
                return (entries_ns + load.calls * (costs.return_ns + 2 * run_ns) + load.frees * run_ns) / 1e9
            case Level.SAMPLED:
                return (entries_ns + (load.calls + load.frees) * costs.light_run_ns) / 1e9
            case Level.BIG:
                return load.frees * (costs.free_ns + costs.light_run_ns) / 1e9
            case Level.SYSCALLS | Level.HOT:
                return 0.0

    @staticmethod
    def is_blip(cost: float, busy: float) -> bool:
        """Whether probes take more than a fifth of the time of the busy threads.

        Args:
            cost: CPU seconds a second that the probes take.
            busy: Time of busy threads, seconds a second.
        """
        return cost > _BLIP_SHARE * busy

    def is_burst(self, load: Load, passed_s: float) -> bool:
        """Whether a load calls for a look at once: a blip that has lasted long enough, or the purse is empty.

        Args:
            load: Of the time since the last look.
            passed_s: How long that is.
        """
        cost = self.cost(load)
        if self.is_blip(cost, load.busy) and self._blip_s + passed_s >= self._max_blip_s:
            return True
        return self._until_s is None and cost * passed_s > max(0.0, self.purse.left_s) + self.purse.income * passed_s

    def least_burst(self) -> float:
        """CPU seconds since the last look that are no burst whatever the targets use."""
        return min(_BLIP_SHARE * self._max_blip_s, max(0.0, self.purse.left_s))

    # Decisions

    def begin(self, load: Load) -> Step:
        """The first step.

        Args:
            load: What was counted by probes that do nothing else: all of it entries.
        """
        self.purse.lend(load.cpu, load.reach)
        self._busy, self._own_cpu = load.busy, load.cpu
        if self._distance is None:
            self._learn(self.expected(self._ceiling, load), load)
        else:
            self._distance.guess(load, self._allowed(), self._most())
            self._ceiling = self._distance.plan
            self._learn(self._distance.expected, load)
        # What was counted in a moment is believed to half: a busy machine may have let the targets wait.
        if self.is_blip(self._watching / _BELIEVED, load.busy):
            self._has_windows = True
            return self._window(0.0)
        self.plan = self._ceiling
        return Step(self.plan)

    def charge(self, passed_s: float, load: Load) -> None:
        """Take the load of a time in which nothing is decided from the purse: attaching, for one.

        Args:
            passed_s: How long it was.
            load: Of that time.
        """
        cost = self.cost(load)
        self.purse.move(passed_s, max(0.0, load.cpu - cost), _BESIDE * cost, load.reach)

    def pay(self, passed_s: float, load: Load) -> float:
        """Take the load of a time of the present plan, and decide nothing; returns its cost, CPU seconds a second.

        Args:
            passed_s: How long it was.
            load: Of that time.
        """
        self._take(passed_s, load)
        cost = self.cost(load)
        self._own_cpu = max(0.0, load.cpu - cost)
        self.purse.move(passed_s, self._own_cpu, cost, load.reach)
        return cost

    def decide(self, now_s: float, passed_s: float, load: Load) -> Step | None:
        """The step to take; None where the present one goes on.

        Args:
            now_s: Seconds since the trace began.
            passed_s: Seconds that the load is of.
            load: Of the time since the last look.
        """
        cost = self.pay(passed_s, load)
        if not self.is_bounded:
            return None
        if self.plan != self._ceiling:
            self._between_cost = cost
            if not self.is_due(now_s):
                return None
            if self._distance is not None and self._has_room():
                return self._stay()
            return self._window(now_s)
        self._learn(cost, load)
        if self._until_s is None and (step := self._adapt(now_s, load)) is not None:
            return step
        is_blip = self.is_blip(cost, load.busy)
        self._blip_s = self._blip_s + passed_s if is_blip else 0.0
        if is_blip and self._blip_s >= self._max_blip_s:
            return self._rest(now_s, "the probes would slow it down by more than a fifth")
        if self._until_s is None:
            if self.purse.left_s <= 0 and cost > self.purse.income:
                return self._rest(now_s, "more would exceed the budget")
            return None
        if not self.is_due(now_s):
            return None
        if not is_blip and self._has_room():
            return self._stay()
        return self._rest(now_s)

    def _stay(self) -> Step:
        """Watch all, without an end."""
        self._until_s, self._has_windows, self._blip_s = None, False, 0.0
        return Step(self.plan, why="there is room in the budget again")

    def watched(self, passed_s: float, load: Load) -> None:
        """Take the load of a window that had its own end; what comes after it goes to ``decide``."""
        self._take(passed_s, load)
        cost = self.cost(load)
        self._own_cpu = max(0.0, load.cpu - cost)
        self.purse.move(passed_s, self._own_cpu, _BESIDE * cost, load.reach)
        self._learn(cost, load)

    def close(self, now_s: float, passed_s: float, load: Load) -> Step:
        """The step after a window that had its own end: a pause, or no end any more.

        Args:
            now_s: Seconds since the trace began.
            passed_s: Seconds since the window's end: frees alone, and detaching.
            load: Of that time.
        """
        self.charge(passed_s, load)
        return self._rest(now_s)

    def _has_room(self) -> bool:
        """Whether all can be watched all the time, at the distance of samples that this takes."""
        if self._distance is None:
            return self._watching <= _FILLED * self.purse.pace
        if not self._distance.fits(self._allowed()):
            return False
        self._distance.choose(self._allowed())
        self.plan = self._ceiling = self._distance.plan
        self._watching = self._distance.expected
        return True

    def _allowed(self) -> float:
        """CPU seconds a second that watching all the time may take: of the pace, and without a blip."""
        return min(_SAMPLED_SHARE * self.purse.pace, _SAMPLED_SHARE * _BLIP_SHARE * self._busy)

    def _most(self) -> float:
        """CPU seconds a second of a window that is taken for no blip."""
        return _SAMPLED_SHARE * _BELIEVED * _BLIP_SHARE * self._busy

    def _adapt(self, now_s: float, load: Load) -> Step | None:
        """Another distance of samples, where the load calls for one; None where not."""
        if self._distance is None or not load.calls:
            return None
        if self.is_blip(self.cost(load), load.busy) and not self._distance.fits(self._allowed()):
            return None  # No distance ends it.
        if not self._distance.adapt(now_s, self._allowed()):
            return None
        self.plan = self._ceiling = self._distance.plan
        self._watching = self._distance.expected
        if not self.is_blip(self._watching, load.busy):
            self._blip_s = 0.0
        return Step(self.plan)

    def is_due(self, now_s: float) -> bool:
        """Whether a window is to be opened or closed by now."""
        return now_s >= self.due_s

    @property
    def due_s(self) -> float:
        """When to decide next at the latest, seconds since the trace began; infinite where loads tell."""
        if not self.is_bounded:
            return math.inf
        if self.plan != self._ceiling:
            return self._next_s
        return math.inf if self._until_s is None else self._until_s

    def _learn(self, cost: float, load: Load) -> None:
        """Take the cost of watching all, and choose what is watched between windows.

        A moment in which the targets were asleep proves little: costs are believed to fall by half at most.
        """
        self._watching, self._busy = max(cost, _BELIEVED * self._watching), load.busy
        self._freeing = max(self.expected(FREES, load), _BELIEVED * self._freeing)
        self.between = FREES if self._freeing <= _CHEAP_FREES * self.purse.pace else NOTHING
        self._between_cost = self._freeing if self.between is FREES else 0.0

    def _period_s(self, now_s: float) -> float:
        whole_s = now_s if self._duration_s is None else self._duration_s
        wanted_s = min(_MOST_PERIOD_S, max(_LEAST_PERIOD_S, whole_s / _N_PERIODS))
        return max(wanted_s, now_s / _N_WINDOWS)

    def _window(self, now_s: float) -> Step:
        """Watch all for a time."""
        pace = self.purse.pace
        share = (pace - self._between_cost) / max(self._watching - self._between_cost, 1e-9)
        for_s = max(_LEAST_WINDOW_S, min(1.0, max(0.0, share)) * self._period_s(now_s))
        frees_s = 0.0
        if self.is_blip(self._watching / _BELIEVED, self._busy):
            if self._max_blip_s <= 0:
                return self._forbidden(now_s)
            for_s = min(for_s, _BIRTHS_OF_BLIP * self._max_blip_s)
            frees_s = min(for_s, _FREES_OF_BLIP * self._max_blip_s)
        self.plan, self._until_s, self._blip_s = self._ceiling, now_s + for_s, 0.0
        return Step(self.plan, for_s, frees_s)

    def _forbidden(self, now_s: float) -> Step:
        """Nothing is watched until the targets use much less CPU time."""
        if self._cpu_of_blip is None:
            self._cpu_of_blip = self._own_cpu
        if self._own_cpu < _CALMER * self._cpu_of_blip:
            self._cpu_of_blip, self._watching = None, 0.0
            return self._window(now_s)
        is_first = self.plan != NOTHING or not now_s
        self._next_s = now_s + _MOST_PERIOD_S
        self.plan = NOTHING
        return Step(NOTHING, why="--max-blip 0 forbids the stretch that it takes" if is_first else "")

    def _rest(self, now_s: float, why: str = "") -> Step:
        """Watch nothing, or frees alone, until the purse pays for the next window."""
        is_first, self._has_windows = not self._has_windows, True
        was_chosen = self._distance is not None and self._until_s is None
        period_s = self._period_s(now_s)
        self.plan, self._until_s, self._blip_s = self.between, None, 0.0
        if self._distance is not None:
            self._distance.choose(self._allowed(), self._most())
            self._ceiling, self._watching = self._distance.plan, self._distance.expected
        # All that the window before has cost, with what attaching and detaching took.
        spent_s, self._spent_before_s = self.purse.spent_s - self._spent_before_s, self.purse.spent_s
        if was_chosen:
            # A burst. What was watched before it was chosen for the budget: only what was overspent is to be earned.
            spent_s = max(0.0, -self.purse.left_s) * self.purse.pace / self.purse.income
        if self.is_blip(self._watching / _BELIEVED, self._busy):
            for_s = max(_LEAST_GAP_S, now_s / _N_WINDOWS, spent_s / self.purse.pace)
        else:
            share = (self.purse.pace - self._between_cost) / max(self._watching - self._between_cost, 1e-9)
            for_s = max(0.0, 1 - share) * period_s
            if share * period_s < _LEAST_WINDOW_S:
                for_s = min(_LEAST_WINDOW_S / max(share, 1e-3), _MOST_PERIODS * period_s)
        self._next_s = now_s + for_s
        return Step(self.plan, why=why if is_first else "")
