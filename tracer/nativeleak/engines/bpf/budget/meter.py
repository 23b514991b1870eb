"""Measures what probes cost the targets, and keeps the account of it in windows."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from typing import Final

from nativeleak.engines.bpf.budget.governor import Governor
from nativeleak.engines.bpf.budget.load import Load, Plan
from nativeleak.engines.bpf.kernel import abi, bpf
from nativeleak.engines.bpf.kernel.programs import Programs
from nativeleak.engines.bpf.targets import TargetState
from nativeleak.errors import NativeleakError
from nativeleak.model import Level, Window
from nativeleak.process import procfs

_TIMED_EVERY: Final = 10
"""One measurement in so many also asks the kernel how long our programs run."""
_MAX_WINDOWS: Final = 10_000
"""Windows that are kept. Beyond, the last one goes on whatever its level."""
OF_HITS: Final = (
    abi.Counter.CALLS,
    abi.Counter.FREES,
    abi.Counter.DECLINED,
    abi.Counter.UNSAMPLED,
    abi.Counter.NESTED,
)
_LEAST_S: Final = 1e-6
_LEAST_WAIT_S: Final = 0.03
"""Waiting of threads is looked at after so long: it is read thread by thread."""

_BETWEEN: Final = (Level.BIG, Level.SYSCALLS)

Counts = dict[abi.Counter, int]


class Meter:
    """The load of the targets since it was last measured.

    Args:
        engine: The programs whose hits count.
        states: The targets.
        governor: Knows what hits cost; None where nothing is known of it.

    Attributes:
        measured_s: Seconds from the start of the trace to the last measurement.
        watches_sites: Call sites are watched by themselves, so that between windows the level is hot.
    """

    def __init__(
        self, engine: Programs, states: Callable[[], Iterable[TargetState]], governor: Governor | None
    ) -> None:
        self._engine, self._states, self._governor = engine, states, governor
        self._statistics = -1
        self._n_measured = 0
        self._windows: list[Window] = []
        self._from_s = 0.0
        self._hits = 0
        self._cost_s = 0.0
        self._used_s = 0.0
        self._counts: Counts = {}
        self._cpu_s = 0.0
        self._waited_s = 0.0
        self._reach = 1.0
        self._reached_s = 0.0
        self._times = (0, 0)
        self.measured_s = 0.0
        self.watches_sites = False

    def start(self, now_s: float) -> None:
        """Count from now on."""
        self.measured_s, self._counts, self._cpu_s = now_s, self._engine.read_counters(), self.read_cpu_s()
        self._waited_s, self._reached_s = self.read_waited_s(), self._cpu_s

    def measure(self, now_s: float) -> tuple[float, Load]:
        """Seconds since the last measurement, and the load of that time; it is added to the account of the window."""
        passed_s = max(now_s - self.measured_s, _LEAST_S)
        counts, cpu_s = self._engine.read_counters(), self.read_cpu_s()
        used_s = max(0.0, cpu_s - self._cpu_s)
        run_ns = self._run_ns()
        if passed_s >= _LEAST_WAIT_S:
            self._look_at_waiting(cpu_s)
        load = load_of(_differences(counts, self._counts), passed_s, used_s / passed_s, run_ns, self._reach)
        self._hits += round(load.hits * passed_s)
        if self._governor is not None:
            self._cost_s += self._governor.cost(load) * passed_s
        self._used_s += used_s
        self.measured_s, self._counts, self._cpu_s = now_s, counts, max(cpu_s, self._cpu_s)
        return passed_s, load

    def glance(self, now_s: float, least_s: float, most_hit_s: float) -> tuple[float, Load] | None:
        """The same without the account; None where the hits cannot have cost ``least_s`` CPU seconds.

        Args:
            most_hit_s: The most that a hit costs.
        """
        passed_s = max(now_s - self.measured_s, _LEAST_S)
        differences = _differences(self._engine.read_counters(OF_HITS), self._counts)
        n_hits = 2 * differences[abi.Counter.CALLS] + differences[abi.Counter.FREES]
        if n_hits * most_hit_s < least_s:
            return None
        cpu = max(0.0, self.read_cpu_s() - self._cpu_s) / passed_s
        return passed_s, load_of(differences, passed_s, cpu, self._timed_ns(), self._reach)

    def add_cost(self, seconds: float) -> None:
        """CPU seconds that probes took beside what their hits are reckoned with."""
        self._cost_s += seconds

    def next_window(self, now_s: float, plan: Plan) -> None:
        """Begin the account of another window; ``plan`` is that of the one that ends."""
        if len(self._windows) < _MAX_WINDOWS:
            self._windows.append(self._window(now_s, plan))
            self._from_s, self._hits, self._cost_s, self._used_s = now_s, 0, 0.0, 0.0
        self._n_measured = 0

    def windows(self, plan: Plan) -> tuple[Window, ...]:
        """All windows so far, the one under way up to the last measurement."""
        return (*self._windows, self._window(self.measured_s, plan))

    def _window(self, to_s: float, plan: Plan) -> Window:
        is_hot = self.watches_sites and plan.level in _BETWEEN
        return Window(
            self._from_s,
            to_s,
            Level.HOT if is_hot else plan.level,
            plan.sample_bytes,
            self._hits,
            round(self._cost_s, 6),
            round(self._used_s, 3),
        )

    def read_cpu_s(self) -> float:
        """CPU seconds that all targets have used; those that are gone by what they had when last seen."""
        total_s = 0.0
        for state in self._states():
            with contextlib.suppress(NativeleakError):
                state.cpu_total_s = procfs.read_cpu_s(state.facts.pid)
            total_s += state.cpu_total_s
        return total_s

    def read_waited_s(self) -> float:
        """Seconds that runnable threads of the targets have waited for a core."""
        total_s = 0.0
        for state in self._states():
            with contextlib.suppress(NativeleakError):
                total_s += procfs.read_waited_s(state.facts.pid)
        return total_s

    def reach_since(self, cpu_s: float, waited_s: float) -> float:
        """Part of the time of runnable threads in which these ran, since CPU and waiting time were read."""
        return reach_of(self.read_cpu_s() - cpu_s, self.read_waited_s() - waited_s)

    def _look_at_waiting(self, cpu_s: float) -> None:
        waited_s = self.read_waited_s()
        self._reach = reach_of(cpu_s - self._reached_s, waited_s - self._waited_s)
        self._waited_s, self._reached_s = waited_s, cpu_s

    # How long our programs run

    def begin_timing(self) -> None:
        """Let the kernel measure our programs until the next measurement."""
        if self._governor is not None and self._statistics < 0:
            with contextlib.suppress(OSError):
                self._statistics = bpf.run_statistics()
                self._times = self._engine.program_times()

    def close(self) -> None:
        """Let the kernel measure no longer."""
        if self._statistics >= 0:
            os.close(self._statistics)
            self._statistics = -1

    def _timed_ns(self) -> float | None:
        """Mean time of a hit of our programs while the kernel measured it; None where it did not."""
        if self._statistics < 0:
            return None
        times = self._engine.program_times()
        n_hits = times[1] - self._times[1]
        return (times[0] - self._times[0]) / n_hits if n_hits > 0 else None

    def _run_ns(self) -> float | None:
        """Mean time of a hit since the last look where the kernel measured it; now and then begins to measure."""
        run_ns = self._timed_ns()
        was_timed = self._statistics >= 0
        self.close()
        if self._n_measured % _TIMED_EVERY == 0 and not was_timed:
            self.begin_timing()
        self._n_measured += 1
        return run_ns


def reach_of(used_s: float, waited_s: float) -> float:
    """Part of the time of runnable threads in which these ran; threads that end meanwhile take their times along."""
    used_s, waited_s = max(0.0, used_s), max(0.0, waited_s)
    return used_s / (used_s + waited_s) if used_s + waited_s > _LEAST_WAIT_S / 10 else 1.0


def load_of(counts: Counts, passed_s: float, cpu: float, run_ns: float | None = None, reach: float = 1.0) -> Load:
    """The load from differences of counters."""
    calls, declined = counts[abi.Counter.CALLS], counts[abi.Counter.DECLINED]
    return Load(
        calls=calls / passed_s,
        frees=counts[abi.Counter.FREES] / passed_s,
        returns=(calls - declined) / passed_s,
        # Most calls without a sample are declined too, so what is declined tells nothing here.
        followed=max(0, calls - counts[abi.Counter.NESTED] - counts[abi.Counter.UNSAMPLED]) / passed_s,
        cpu=cpu,
        run_ns=run_ns,
        reach=reach,
    )


def _differences(now: Counts, before: Counts) -> Counts:
    return {counter: value - before.get(counter, 0) for counter, value in now.items()}
