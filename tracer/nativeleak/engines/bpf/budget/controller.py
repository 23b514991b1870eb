"""Keeps a trace inside its budget: measures the load, lets the governor decide, applies the level, keeps account.

What this changes about the ledger when allocations are not trapped (``governor.py`` has the levels):

- *big blocks*: nothing that was recorded is touched, frees and reallocs are still seen. New blocks are not recorded.
  What the allocator maps from the kernel is counted as mapped memory of the program that called it.
- *system calls*: frees go unseen, so nobody knows which of the blocks recorded before are still there. They leave the
  totals when the level begins, and the report says how much that was.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from typing import Final

from nativeleak.engines.bpf.budget.governor import Governor, Load, Plan
from nativeleak.engines.bpf.collector import Collector
from nativeleak.engines.bpf.kernel import abi, bpf
from nativeleak.engines.bpf.kernel.groups import ALL_GROUPS, FREES_ONLY, Group
from nativeleak.engines.bpf.kernel.programs import Programs
from nativeleak.engines.options import Budget
from nativeleak.errors import NativeleakError
from nativeleak.model import Level, Window
from nativeleak.process import procfs
from nativeleak.units import format_bytes

LOOK_S: Final = 0.5
"""Between two looks at the load."""
GLANCE_S: Final = 0.02
"""Between two glances at the load, which only find a burst: costs that exceed those of a whole look already."""
_COUNTED_S: Final = 0.1
"""Hits are counted for so long before the window opens, and nothing else is done."""
_MOST_HIT_S: Final = 50e-6
"""Upper bound of the cost of a hit: single-stepped, with a deep stack."""
_TIMED_EVERY: Final = 10
"""One look in so many also asks the kernel how long our programs run."""
_MAX_WINDOWS: Final = 10_000
"""Windows that are kept. Beyond, the last one goes on whatever its level."""
_GROUPS: Final = {
    Level.EXACT: ALL_GROUPS,
    Level.SAMPLED: ALL_GROUPS,
    Level.BIG: FREES_ONLY,
    Level.SYSCALLS: frozenset[Group](),
}
_SENTENCES: Final = {
    Level.EXACT: "every heap block is recorded",
    Level.SAMPLED: "heap blocks are sampled, one in about {rate} of them",
    Level.BIG: "heap allocations are not recorded, only frees, and what the allocator maps for big blocks",
    Level.SYSCALLS: "no heap allocation or free is seen, only what is mapped",
}

_OF_HITS: Final = (abi.Counter.CALLS, abi.Counter.FREES, abi.Counter.DECLINED, abi.Counter.UNSAMPLED)

Counts = dict[abi.Counter, int]


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
        self._is_partial = False
        self._statistics = -1
        self._n_looks = 0
        self._windows: list[Window] = []
        self._from_s = 0.0
        self._hits = 0
        self._cost_s = 0.0
        self._cpu_s = 0.0
        self._looked_s = 0.0
        self._glanced_s = 0.0
        self._was_burst = False
        self._counts: Counts = {}
        self._cpu_at_look_s = 0.0
        self._times = (0, 0)

    # The beginning

    def count_before(self) -> None:
        """Count hits for a moment, and begin at the level that they allow. No window may be open."""
        if self._governor is not None and self._governor.is_bounded:
            slots = [state.slot for state in self._collector.targets.values()]
            for slot in slots:
                self._engine.count_only(slot)
            before, cpu_s, started_s = self._engine.read_counters(), self._read_cpu_s(), time.monotonic()
            time.sleep(_COUNTED_S)
            counts = _differences(self._engine.read_counters(), before)
            passed_s = time.monotonic() - started_s
            for slot in slots:
                self._engine.close_window(slot)
            cpu = (self._read_cpu_s() - cpu_s) / passed_s
            self._plan = self._governor.begin(_load(counts, passed_s, max(cpu, _least_cpu(passed_s))))
        self._apply(self._plan)

    def begin(self) -> None:
        """The windows have opened."""
        self._remember(self._collector.elapsed_s())
        self._begin_timing()
        if self._plan.level is not Level.EXACT and self._governor is not None and self._governor.is_bounded:
            self._on_note("level", f"began where {self._sentence()}: there is more to see than the budget allows")

    # Along the way

    def look(self) -> None:
        """Look at the load each ``LOOK_S``, and change the level where the governor says so. To be called often."""
        now_s = self._collector.elapsed_s()
        if now_s - self._looked_s < LOOK_S and not self.is_burst():
            return
        load = self._measure(now_s)
        if self._governor is None or self._is_held():
            return
        plan = self._governor.decide(now_s, load)
        if plan is not None:
            self._go(plan, now_s)

    def is_burst(self) -> bool:
        """Whether the costs since the last look exceed those of a whole look already: then it is time for one.

        To be asked as often as one likes; the answer is that of the last time where that was just now.
        """
        governor = self._governor
        if governor is None or not governor.is_bounded or self._plan.level is Level.SYSCALLS:
            return False
        now_s = self._collector.elapsed_s()
        if now_s - self._glanced_s < GLANCE_S:
            return self._was_burst
        self._glanced_s = now_s
        passed_s = max(now_s - self._looked_s, 1e-6)
        differences = _differences(self._engine.read_counters(_OF_HITS), self._counts)
        n_hits = 2 * differences[abi.Counter.CALLS] + differences[abi.Counter.FREES]
        if n_hits * _MOST_HIT_S < governor.least_burst(LOOK_S):
            self._was_burst = False
            return False
        cpu = max(0.0, self._read_cpu_s() - self._cpu_at_look_s) / passed_s
        load = _load(differences, passed_s, cpu, self._timed_ns())
        self._was_burst = governor.is_burst(load, passed_s, LOOK_S)
        return self._was_burst

    def freeze(self, why: str) -> None:
        """Record no more allocations from here on; frees go on being seen."""
        self._governor = None
        if self._plan.level in (Level.EXACT, Level.SAMPLED):
            self._go(Plan(Level.BIG), self._collector.elapsed_s())
        self._on_note("memory", why)

    def windows(self) -> tuple[Window, ...]:
        """All windows so far, the one under way up to now."""
        self._measure(self._collector.elapsed_s())
        return (*self._windows, self._window(self._looked_s))

    def close(self) -> None:
        """Let the kernel measure no longer."""
        if self._statistics >= 0:
            os.close(self._statistics)
            self._statistics = -1

    def _measure(self, now_s: float) -> Load:
        """The load since the last look; it is added to the account of the window."""
        passed_s = max(now_s - self._looked_s, 1e-6)
        counts, cpu_s = self._engine.read_counters(), self._read_cpu_s()
        run_ns = self._run_ns()
        load = _load(
            _differences(counts, self._counts), passed_s, max(0.0, cpu_s - self._cpu_at_look_s) / passed_s, run_ns
        )
        self._hits += round(load.hits * passed_s)
        if self._governor is not None:
            self._cost_s += self._governor.cost(load) * passed_s
        self._cpu_s += max(0.0, cpu_s - self._cpu_at_look_s)
        self._looked_s, self._counts, self._cpu_at_look_s = now_s, counts, max(cpu_s, self._cpu_at_look_s)
        self._was_burst = False
        return load

    def _timed_ns(self) -> float | None:
        """Mean time of a hit of our programs while the kernel measured it; None where it did not."""
        if self._statistics < 0:
            return None
        times = self._engine.program_times()
        n_hits = times[1] - self._times[1]
        return (times[0] - self._times[0]) / n_hits if n_hits > 0 else None

    def _begin_timing(self) -> None:
        """Let the kernel measure our programs until the next look."""
        if self._governor is not None and self._statistics < 0:
            with contextlib.suppress(OSError):
                self._statistics = bpf.run_statistics()
                self._times = self._engine.program_times()

    def _run_ns(self) -> float | None:
        """Mean time of a hit since the last look where the kernel measured it; now and then begins to measure."""
        run_ns = self._timed_ns()
        was_timed = self._statistics >= 0
        self.close()
        if self._n_looks % _TIMED_EVERY == 0 and not was_timed:
            self._begin_timing()
        self._n_looks += 1
        return run_ns

    def _go(self, plan: Plan, now_s: float) -> None:
        before = self._plan
        if len(self._windows) < _MAX_WINDOWS:
            self._windows.append(self._window(now_s))
            self._from_s, self._hits, self._cost_s, self._cpu_s = now_s, 0, 0.0, 0.0
        self._plan = plan
        self._apply(plan)
        self._n_looks = 0
        self._remember(self._collector.elapsed_s())
        self._begin_timing()
        why = "there is room in the budget again" if _is_dearer(plan, before) else "more would exceed the budget"
        self._on_note("level", f"from here on {self._sentence()}: {why}")

    def _apply(self, plan: Plan) -> None:
        engine, collector = self._engine, self._collector
        self._is_partial = self._is_partial or plan.level is not Level.EXACT
        flags = abi.TargetFlag.PARTIAL if self._is_partial else abi.TargetFlag(0)
        if plan.level in (Level.BIG, Level.SYSCALLS):
            flags |= abi.TargetFlag.FREES
        rate = plan.sample_bytes if plan.level is Level.SAMPLED else 0
        engine.set_sampling(rate, max(self._sample_above, rate), flags)
        groups = _GROUPS[plan.level]
        if groups != engine.groups.wanted:
            engine.groups.want(groups)
        collector.consume()
        collector.set_level(plan.level)
        if plan.level is Level.SYSCALLS:
            collector.write_off()

    def _window(self, to_s: float) -> Window:
        plan = self._plan
        return Window(
            self._from_s, to_s, plan.level, plan.sample_bytes, self._hits, round(self._cost_s, 6), round(self._cpu_s, 3)
        )

    def _remember(self, now_s: float) -> None:
        self._looked_s, self._counts, self._cpu_at_look_s = now_s, self._engine.read_counters(), self._read_cpu_s()

    def _read_cpu_s(self) -> float:
        """CPU seconds that all targets have used; those that are gone by what they had when last seen."""
        total_s = 0.0
        for state in self._collector.targets.values():
            with contextlib.suppress(NativeleakError):
                state.cpu_total_s = procfs.read_cpu_s(state.facts.pid)
            total_s += state.cpu_total_s
        return total_s

    def _sentence(self) -> str:
        return _SENTENCES[self._plan.level].format(rate=format_bytes(self._plan.sample_bytes))


def _differences(now: Counts, before: Counts) -> Counts:
    return {counter: value - before.get(counter, 0) for counter, value in now.items()}


def _load(counts: Counts, passed_s: float, cpu: float, run_ns: float | None = None) -> Load:
    calls, declined = counts[abi.Counter.CALLS], counts[abi.Counter.DECLINED]
    return Load(
        calls=calls / passed_s,
        frees=counts[abi.Counter.FREES] / passed_s,
        returns=(calls - declined) / passed_s,
        followed=max(0, calls - declined - counts[abi.Counter.UNSAMPLED]) / passed_s,
        cpu=cpu,
        run_ns=run_ns,
    )


def _least_cpu(passed_s: float) -> float:
    """The kernel counts CPU time in ticks of 10 ms: what it cannot see in so short a time may have been this much."""
    return 0.01 / passed_s


def _is_dearer(plan: Plan, before: Plan) -> bool:
    order: Sequence[Level] = list(Level)
    if plan.level is before.level:
        return plan.sample_bytes < before.sample_bytes
    return order.index(plan.level) < order.index(before.level)
