"""Keeps a trace inside its budget: decides how much of the allocator's work is traced.

Scope: decisions alone. What a probe costs and how often it runs is measured elsewhere
(``engines/bpf/budget/calibration.py``, ``controller.py``), and time comes in as an argument, so that a test can play
any load in no time.

The budget is a share of one core or of the CPU time that the targets use without us, whichever is less; but never less
than a fifth of that share of one core, so that a target that sleeps most of the time is not watched less for nothing.

The levels, each cheaper than the one before:

- *exact*: every call of the allocator.
- *sampled*: every call is trapped, but few are followed to their end.
- *big blocks*: allocations are not trapped. Frees and reallocs are, so that what was recorded before stays true; blocks
  so large that the allocator maps each by itself are seen as mapped memory.
- *system calls*: no allocator probe at all. What is mapped is still seen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, NamedTuple

from nativeleak.model import Level

DEFAULT_SAMPLE_BYTES: Final = 512 << 10
MAX_SAMPLE_BYTES: Final = 32 << 20
_LEAST_CPU: Final = 0.2
"""CPU seconds a second that targets are taken to use at least: what a sleeping one may lose is a share of that."""
_FILLED: Final = 0.9
"""A lower level is taken when it is expected to use at most this much of the budget."""
_ROOM: Final = 0.7
"""A higher level is taken again when it is expected to use at most this much: the difference keeps it from swinging."""
_HOLD_S: Final = 5.0
"""How long there must be room before a step up; doubled when it was wrong."""
_MAX_HOLD_S: Final = 320.0
_WRONG_S: Final = 10.0
"""A step up was wrong when a step down follows within this time."""
_NOT_WAITED_FOR: Final = 2.0
"""Above this multiple of the budget, step down at once instead of waiting for a second sample."""
_STEADY_S: Final = 60.0
"""After so long without a step down the hold is what it was at first."""


class Plan(NamedTuple):
    """How to watch: a level and, when sampled, the mean bytes from one sample to the next."""

    level: Level
    sample_bytes: int = 0


EXACT: Final = Plan(Level.EXACT)


@dataclass(frozen=True, slots=True)
class Costs:
    """What probes cost here, nanoseconds.

    Attributes:
        call_ns: The trap at the entry of an allocating function.
        free_ns: The trap at the entry of a freeing function.
        return_ns: The trap at a return.
        run_ns: What our program takes itself, a hit of the exact level: on average over entries, returns and frees.
        light_run_ns: The same where it only looks whether a block is sampled, or misses.
    """

    call_ns: float
    free_ns: float
    return_ns: float
    run_ns: float
    light_run_ns: float


@dataclass(frozen=True, slots=True)
class Load:
    """What was seen of the targets for some time; rates a second.

    Attributes:
        calls: Entries of allocating functions that were trapped.
        frees: Entries of freeing functions that were trapped.
        returns: Returns that were trapped.
        followed: Of the calls: those that were recorded.
        cpu: CPU seconds a second that the targets used, ours in them.
        run_ns: What a hit of our programs took, where that was measured; None otherwise.
    """

    calls: float
    frees: float
    returns: float
    followed: float
    cpu: float
    run_ns: float | None = None

    @property
    def hits(self) -> float:
        """Runs of a probe."""
        return self.calls + self.frees + self.returns


class Governor:
    """Decides on each look at the load.

    Args:
        budget_pct: Share of one core or of the targets' CPU time; ``math.inf``: it keeps account and nothing else.
        costs: Of probes on this host.
        ceiling: The most that is wanted: exact, or what the user asked for.

    Attributes:
        plan: How the targets are watched now.
        is_bounded: Whether there is a budget.
    """

    def __init__(self, budget_pct: float, costs: Costs, ceiling: Plan = EXACT) -> None:
        self.plan = ceiling
        self.is_bounded = math.isfinite(budget_pct)
        self._budget = budget_pct / 100
        self._costs = costs
        self._ceiling = ceiling
        self._run_ns = {Level.EXACT: costs.run_ns}
        self._was_over = False
        self._room_since_s: float | None = None
        self._hold_s = _HOLD_S
        self._last_up_s: float | None = None
        self._last_down_s: float | None = None

    # What things cost

    def cost(self, load: Load) -> float:
        """CPU seconds a second that the probes take from the targets at the present level."""
        costs = self._costs
        traps_ns = load.calls * costs.call_ns + load.frees * costs.free_ns + load.returns * costs.return_ns
        run_ns = load.run_ns if load.run_ns is not None else self._usual_run_ns(self.plan.level)
        return (traps_ns + load.hits * run_ns) / 1e9

    def _usual_run_ns(self, level: Level) -> float:
        return self._run_ns.get(level, self._costs.light_run_ns)

    def budget(self, load: Load) -> float:
        """CPU seconds a second that they may take."""
        return self._budget * min(1.0, max(_LEAST_CPU, load.cpu - self.cost(load)))

    def expected(self, plan: Plan, load: Load) -> float:
        """CPU seconds a second that another plan would take, from the load under the present one.

        Where allocations are not trapped there are taken to be as many as frees.
        """
        costs = self._costs
        calls = load.calls
        if self.plan.level not in (Level.EXACT, Level.SAMPLED):
            calls = max(load.calls, load.frees)
        full_ns = costs.return_ns + 2 * self._run_ns[Level.EXACT]
        entries_ns = calls * costs.call_ns + load.frees * costs.free_ns
        match plan.level:
            case Level.EXACT:
                return (entries_ns + calls * full_ns + load.frees * self._run_ns[Level.EXACT]) / 1e9
            case Level.SAMPLED:
                followed = 0.0
                if self.plan.level is Level.SAMPLED and plan.sample_bytes:
                    followed = load.followed * self.plan.sample_bytes / plan.sample_bytes
                return (entries_ns + (calls + load.frees) * costs.light_run_ns + followed * full_ns) / 1e9
            case Level.BIG:
                return load.frees * (costs.free_ns + costs.light_run_ns) / 1e9
            case Level.SYSCALLS:
                return 0.0

    def is_burst(self, load: Load, passed_s: float, look_s: float) -> bool:
        """Whether a load has cost by now what was for the whole time between two looks.

        Args:
            load: Of the time since the last look.
            passed_s: How long that is, less than ``look_s``.
            look_s: From one look to the next.
        """
        return self.cost(load) * passed_s > self.budget(load) * look_s

    def least_burst(self, look_s: float) -> float:
        """CPU seconds that are no burst whatever the targets use: the bound of ``is_burst`` for targets that sleep."""
        return self._budget * _LEAST_CPU * look_s

    # Decisions

    def begin(self, load: Load) -> Plan:
        """The plan to start with.

        Args:
            load: What was counted by probes that do nothing else: all of it entries.
        """
        budget = self._budget * min(1.0, max(_LEAST_CPU, load.cpu))
        self.plan = next((p for p in self._plans() if self.expected(p, load) <= _FILLED * budget), _LAST)
        return self.plan

    def decide(self, now_s: float, load: Load) -> Plan | None:
        """The plan to go over to; None where the present one stays.

        Args:
            now_s: Seconds since whenever.
            load: Of the time since the last look, half a second or so.
        """
        if load.run_ns is not None and load.hits:
            self._run_ns[self.plan.level] = load.run_ns
        if not self.is_bounded:
            return None
        cost, budget = self.cost(load), self.budget(load)
        was_over, self._was_over = self._was_over, cost > budget
        # One look above the budget may be a short burst; twice the budget is none that can be waited for.
        if cost > _NOT_WAITED_FOR * budget or (cost > budget and was_over):
            return self._step_down(now_s, load, budget)
        return self._step_up(now_s, load, budget)

    def _step_down(self, now_s: float, load: Load, budget: float) -> Plan | None:
        cheaper = self._plans()[self._index() + 1 :]
        if not cheaper:
            return None
        if self._last_up_s is not None and now_s - self._last_up_s <= _WRONG_S:
            self._hold_s = min(_MAX_HOLD_S, 2 * self._hold_s)
        self._last_down_s = now_s
        plan = next((p for p in cheaper if self.expected(p, load) <= _FILLED * budget), _LAST)
        return self._go(plan)

    def _step_up(self, now_s: float, load: Load, budget: float) -> Plan | None:
        if self._last_down_s is not None and now_s - self._last_down_s >= _STEADY_S + self._hold_s:
            self._hold_s = _HOLD_S
        dearer = self._plans()[: self._index()]
        if self.plan == _LAST:
            # Nothing is trapped, so nothing is known: what can be watched at the least cost will tell.
            dearer = dearer[-1:]
        plan = next((p for p in dearer if self.expected(p, load) <= _ROOM * budget), None)
        if plan is None:
            self._room_since_s = None
            return None
        if self._room_since_s is None:
            self._room_since_s = now_s
        if now_s - self._room_since_s < self._hold_s:
            return None
        self._last_up_s = now_s
        return self._go(plan)

    def _go(self, plan: Plan) -> Plan:
        self.plan = plan
        self._room_since_s = None
        self._was_over = False
        return plan

    def _plans(self) -> list[Plan]:
        """All there are, dearest first."""
        rate = self._ceiling.sample_bytes or DEFAULT_SAMPLE_BYTES
        plans = [EXACT] if self._ceiling == EXACT else []
        while rate <= max(MAX_SAMPLE_BYTES, self._ceiling.sample_bytes):
            plans.append(Plan(Level.SAMPLED, rate))
            rate *= 8
        return [*plans, Plan(Level.BIG), _LAST]

    def _index(self) -> int:
        return self._plans().index(self.plan)


_LAST: Final = Plan(Level.SYSCALLS)
