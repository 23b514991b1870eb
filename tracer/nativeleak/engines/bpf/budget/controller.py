"""Keeps a trace inside its budget: measures the load, lets the governor decide, applies the level.

Blocks are recorded in windows (``governor.py``). A window begins when all probes are attached, and ends when no more
blocks are recorded; both are moments, since a flag in the kernel tells, not the attaching. Between windows

- the live set stays. Any event at the address of a recorded block in a later window takes it out: it was freed.
- at *big blocks* frees and reallocs are still seen, so that nothing is uncertain. At *system calls* they are not.
- mappings of allocators are theirs; names on the stack identify them.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

from nativeleak.engines.bpf.budget.governor import FREES, NOTHING, Governor, Step
from nativeleak.engines.bpf.budget.load import Plan
from nativeleak.engines.bpf.budget.meter import OF_HITS, Meter
from nativeleak.engines.bpf.collector import Collector
from nativeleak.engines.bpf.kernel import abi
from nativeleak.engines.bpf.kernel.groups import ALL_GROUPS, FREES_ONLY, SITES_ONLY
from nativeleak.engines.bpf.kernel.programs import Programs
from nativeleak.engines.options import Budget
from nativeleak.model import Level, Window
from nativeleak.units import format_bytes

LOOK_S: Final = 0.5
"""Between two looks at the load."""
GLANCE_S: Final = 0.02
"""Between two glances at the load, which only find a burst."""
_COUNTED_S: Final = 0.03
"""Hits are counted for at most so long before the window opens, and nothing else is done."""
_COUNTED_STEP_S: Final = 0.004
_ENOUGH_HITS: Final = 1_000
"""So many tell the rate: no more are waited for."""
_MOST_HIT_S: Final = 50e-6
"""Upper bound of the cost of a hit: single-stepped, with a deep stack."""
_BRIEF_S: Final = 0.25
"""A window of at most this length is waited for: nothing else is done meanwhile, so that it ends in time."""
_GROUPS: Final = {
    Level.EXACT: ALL_GROUPS,
    Level.SAMPLED: ALL_GROUPS,
    Level.BIG: FREES_ONLY,
    Level.SYSCALLS: SITES_ONLY,
}
_WATCHING: Final = (Level.EXACT, Level.SAMPLED)
_SENTENCES: Final = {
    Level.EXACT: "every heap block is recorded",
    Level.SAMPLED: "heap blocks are sampled, one in about {rate} of them",
    Level.BIG: "heap blocks are recorded in windows, and their frees all the time",
    Level.SYSCALLS: "heap blocks are recorded in windows",
}


class BudgetController:
    """Keeps one trace inside its budget.

    Args:
        budget: What the user allows.
        plan: What the user wants, where there is no governor.
        governor: None where nothing is known of what probes cost here.
        on_note: Gets (word, sentence) for the recording.
        is_held: Whether no probe may be detached now: a debugger is attached to a target.
    """

    def __init__(
        self,
        engine: Programs,
        collector: Collector,
        budget: Budget,
        plan: Plan,
        governor: Governor | None,
        on_note: Callable[[str, str], None],
        is_held: Callable[[], bool] = lambda: False,
    ) -> None:
        self._is_held = is_held
        self._engine, self._collector, self._governor = engine, collector, governor
        self._plan, self._sample_above, self._on_note = plan, budget.sample_above, on_note
        self._meter = Meter(engine, collector.targets.values, governor)
        self._first = Step(plan)
        self._is_partial = False
        self._glanced_s = 0.0
        self._was_burst = False

    @property
    def _is_bounded(self) -> bool:
        return self._governor is not None and self._governor.is_bounded

    # The beginning

    def count_before(self) -> None:
        """Attach, and count hits for a moment, to know whether the trace can begin with a long look.

        No window may be open. All hits are paid from the purse, those while the probes go in too.
        """
        governor = self._governor
        if governor is None or not governor.is_bounded:
            self._apply(self._plan)
            return
        slots = [state.slot for state in self._collector.targets.values()]
        for slot in slots:
            self._engine.count_only(slot)
        meter = self._meter
        meter.start(0.0)
        with _first_in_line():
            began_s, cpu_s, waited_s = time.monotonic(), meter.read_cpu_s(), meter.read_waited_s()
            self._engine.groups.attach_held()
            passed_s, attaching = meter.measure(time.monotonic() - began_s)
            counted_s, counted = meter.measure(passed_s + self._count())
            self._first = governor.begin(replace(counted, reach=meter.reach_since(cpu_s, waited_s)))
            governor.charge(passed_s, attaching)
            governor.charge(counted_s, counted)
            for slot in slots:
                self._engine.close_window(slot)
            # A short look begins with the window: the probes stay, and are not put in a second time.
            self._apply(self._first.plan)
        meter.start(0.0)

    def _count(self) -> float:
        """Wait until enough hits are counted, or for ``_COUNTED_S``; returns how long."""
        began_s, before = time.monotonic(), self._engine.read_counters(OF_HITS)
        while time.monotonic() - began_s < _COUNTED_S:
            time.sleep(_COUNTED_STEP_S)
            now = self._engine.read_counters(OF_HITS)
            if sum(now.values()) - sum(before.values()) >= _ENOUGH_HITS:
                break
        return time.monotonic() - began_s

    def begin(self) -> None:
        """The windows have opened."""
        if self._governor is None or not self._governor.is_bounded:
            self._meter.start(self._collector.elapsed_s())
        if self._is_brief(self._first):
            self._on_note("level", f"began where {_sentence(NOTHING)}: more would exceed the budget")
            self._watch_briefly(self._first)
        elif self._plan.level not in _WATCHING and self._is_bounded:
            self._on_note("level", f"began where {_sentence(self._plan)}: {self._first.why}")
        self._meter.begin_timing()

    # Along the way

    def look(self) -> None:
        """Look at the load each ``LOOK_S``, and take the step that the governor says. To be called often."""
        now_s = self._collector.elapsed_s()
        is_due = self._governor is not None and self._governor.is_due(now_s)
        if now_s - self._meter.measured_s < LOOK_S and not is_due and not self.is_burst():
            return
        passed_s, load = self._meter.measure(now_s)
        self._was_burst = False
        if self._governor is None or self._is_held():
            return
        step = self._governor.decide(now_s, passed_s, load)
        if step is None:
            return
        if self._is_brief(step):
            self._watch_briefly(step)
        else:
            self._go(step)

    def idle_s(self) -> float:
        """Seconds until there is something to decide; infinite where loads tell."""
        if self._governor is None or self._is_held():
            return math.inf
        return max(0.0, self._governor.due_s - self._collector.elapsed_s())

    def is_burst(self) -> bool:
        """Whether the costs since the last look call for the next one now.

        To be asked as often as one likes; the answer is that of the last time where that was just now.
        """
        governor = self._governor
        if governor is None or not governor.is_bounded or self._plan.level not in _WATCHING:
            return False
        now_s = self._collector.elapsed_s()
        if now_s - self._glanced_s < GLANCE_S:
            return self._was_burst
        self._glanced_s = now_s
        seen = self._meter.glance(now_s, governor.least_burst(), _MOST_HIT_S)
        self._was_burst = seen is not None and governor.is_burst(seen[1], seen[0])
        return self._was_burst

    @property
    def income(self) -> float:
        """CPU seconds a second that the budget pays for; 0 where there is none."""
        governor = self._governor
        return governor.purse.income if governor is not None and governor.is_bounded else 0.0

    @property
    def is_between(self) -> bool:
        """Whether the time is one between two windows, in which probes may come and go."""
        return self._is_bounded and self._plan.level not in _WATCHING and not self._is_held()

    def watch_sites(self, is_on: bool) -> None:
        """Call sites are watched by themselves from now on, or no more; the account of the part before ends here."""
        if is_on == self._meter.watches_sites:
            return
        now_s = self._collector.elapsed_s()
        passed_s, load = self._meter.measure(now_s)
        if self._governor is not None:
            self._governor.charge(passed_s, load)
        self._meter.next_window(now_s, self._plan)
        self._meter.watches_sites = is_on

    def spend(self, seconds: float) -> None:
        """Take CPU seconds that probes took beside what their hits are reckoned with."""
        self._meter.add_cost(seconds)
        if self._governor is not None:
            self._governor.purse.spend(seconds)

    def watched_s(self) -> float:
        """Seconds of the trace in which every call was watched."""
        return sum(each.to_s - each.from_s for each in self._meter.windows(self._plan) if each.level in _WATCHING)

    def freeze(self, why: str) -> None:
        """Record no more allocations from here on; frees go on being seen."""
        self._governor = None
        if self._plan.level in _WATCHING:
            self._go(Step(FREES))
        self._on_note("memory", why)

    def windows(self) -> tuple[Window, ...]:
        """All windows so far, the one under way up to now."""
        passed_s, load = self._meter.measure(self._collector.elapsed_s())
        if self._governor is not None:
            # No look comes back to this time: where snapshots are as frequent as looks, half of all hits would be free.
            self._governor.pay(passed_s, load)
        return self._meter.windows(self._plan)

    def close(self) -> None:
        """Let the kernel measure no longer."""
        self._meter.close()

    def _go(self, step: Step) -> None:
        before = self._plan
        if step.plan != before:
            self._apply(step.plan)
        if step.why:
            self._on_note("level", f"from here on {_sentence(step.plan)}: {step.why}")

    @staticmethod
    def _is_brief(step: Step) -> bool:
        return step.plan.level in _WATCHING and step.for_s <= _BRIEF_S

    def _watch_briefly(self, step: Step) -> None:
        """Watch for a time that is waited for, and do what the governor says then."""
        governor, meter, elapsed_s = self._governor, self._meter, self._collector.elapsed_s
        if governor is None:
            return
        with _first_in_line():
            if step.plan != self._plan:
                self._apply(step.plan)
            meter.begin_timing()
            time.sleep(max(0.0, meter.measured_s + step.for_s - elapsed_s()))
            self._record_births(FREES)
            ended_s = elapsed_s()
            passed_s, load = meter.measure(ended_s)
            governor.watched(passed_s, load)
            meter.next_window(ended_s, step.plan)
            between = governor.between
            self._engine.groups.fade(FREES_ONLY, step.frees_s, _GROUPS[between.level])
            now_s = elapsed_s()
            passed_s, load = meter.measure(now_s)
            following = governor.close(now_s, passed_s, load)
        self._engine.consume()
        self._plan = following.plan
        self._collector.set_level(following.plan.level, by_names=True)

    def _apply(self, plan: Plan) -> None:
        """Go over to a plan; the account of the window before it ends there."""
        engine, collector, meter = self._engine, self._collector, self._meter
        engine.consume()
        groups = _GROUPS[plan.level]
        is_more = bool(groups - engine.groups.wanted)
        if not is_more:
            self._record_births(plan)
        moment_s = collector.elapsed_s()
        if groups != engine.groups.wanted:
            engine.groups.want(groups)
        if is_more:
            self._record_births(plan)
            moment_s = collector.elapsed_s()
        if moment_s > 0:
            passed_s, load = meter.measure(moment_s)
            if self._governor is not None and self._governor.is_bounded:
                self._governor.charge(passed_s, load)
            meter.next_window(moment_s, self._plan)
        self._plan = plan
        engine.consume()
        collector.set_level(plan.level, by_names=self._is_bounded)

    def _record_births(self, plan: Plan) -> None:
        """Say which blocks are recorded from now on."""
        self._is_partial = self._is_partial or plan.level is not Level.EXACT
        flags = abi.TargetFlag.PARTIAL if self._is_partial else abi.TargetFlag(0)
        if plan.level not in _WATCHING:
            flags |= abi.TargetFlag.FREES
        if not self._is_bounded:
            flags |= abi.TargetFlag.NO_BUDGET
        rate = plan.sample_bytes if plan.level is Level.SAMPLED else 0
        self._engine.set_sampling(rate, self._sample_above or rate, flags)


@contextlib.contextmanager
def _first_in_line() -> Iterator[None]:
    """Before other processes meanwhile, where we may: on a busy machine a window would end too late."""
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, *before)


def _sentence(plan: Plan) -> str:
    return _SENTENCES[plan.level].format(rate=format_bytes(plan.sample_bytes))
