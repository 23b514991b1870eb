"""The distance of samples that a budget pays for: as many samples as it allows.

Scope: sums alone; time and loads come in as arguments. What watching costs has two parts. The traps at the entries, the
frees, and the calls that are followed without being sampled cost the same at every distance. A sample costs a return, a
walk of the stack and its records. What the traps leave of the budget is spent on samples.

How long a hit without a sample runs, and how much longer one with a sample does, is not measured apart: the kernel
tells the mean of all hits. Both are estimated from the means at several shares of samples, by least squares that forget
(a Kalman filter of two values), from what the calibration says of them.

Estimates stay unbiased when the distance changes. The kernel draws the next sample point anew, which an exponential
distance allows, and stores with each block the weight of the distance in force when it was sampled.
"""

from __future__ import annotations

import math
from typing import Final

from nativeleak.engines.bpf.budget.load import Costs, Load, Plan
from nativeleak.engines.bpf.kernel import abi
from nativeleak.model import Level

START_BYTES: Final = 512 << 10
"""Where nothing is known of what a probe costs."""
_GUESSED_BLOCK: Final = 256
"""Bytes: the mean size of blocks until samples tell."""
_LEAST_ROOM: Final = 0.1
"""Of what the traps cost: where less is left for samples, they are taken in windows."""
_CLOSER: Final = 1.5
_WIDER: Final = 1.1
"""A distance changes where the one wanted is so many times less, or more."""
_LEAST_KEPT_S: Final = 2.0
_N_CHANGES: Final = 1000
"""A distance becomes less after two seconds at the earliest, or this part of the time so far."""
_MOST_CLOSER: Final = 4.0
_MEMORY_S: Final = 0.05
"""A burst of some hundredths of a second is not taken for the load, and not forgotten at once."""
_STEP_BYTES: Final = 64
_ENOUGH_SAMPLES: Final = 100
_LEAST_NEW: Final = 0.1
_RUNS_OF_PAIR: Final = 3
"""Entry, return and free of a sampled block run longer than those of others."""
_DOUBT: Final = (0.5, 50.0)
_DRIFT: Final = (0.05, 0.1)
_NOISE: Final = 0.1
"""Standard deviations as shares: of the calibrated times, of their change from one measurement to the next, and of a
measurement."""
_LEAST_RUN: Final = 0.2
"""Of the calibrated times: no measurement is believed below."""


class Distance:
    """Mean bytes from one sample to the next, chosen from the budget.

    Args:
        costs: Of probes on this host.

    Attributes:
        n_bytes: The distance that was chosen last.
        expected: CPU seconds a second that the targets pay at this distance.
    """

    def __init__(self, costs: Costs) -> None:
        self.n_bytes = START_BYTES
        self.expected = 0.0
        self._costs = costs
        more_ns = _RUNS_OF_PAIR * max(costs.run_ns - costs.light_run_ns, 0.1 * costs.run_ns)
        self._usual_ns = self._run_ns = (costs.light_run_ns, more_ns)
        # Variances of the two values, and their covariance.
        self._doubt = ((_DOUBT[0] * costs.light_run_ns) ** 2, (_DOUBT[1] * more_ns) ** 2, 0.0)
        self._fixed = 0.0
        self._sampled_bytes = 0.0
        self._changed_s = 0.0

    @property
    def plan(self) -> Plan:
        """How to watch."""
        return Plan(Level.SAMPLED, self.n_bytes)

    def running(self, load: Load) -> float:
        """CPU seconds a second that our programs run, by what was learned."""
        return (load.hits * self._run_ns[0] + load.followed * self._run_ns[1]) / 1e9

    @property
    def _sample_ns(self) -> float:
        return self._costs.return_ns + self._run_ns[0] + self._run_ns[1]

    # What is seen

    def guess(self, load: Load, allowed: float, most: float) -> None:
        """Choose before anything was sampled.

        Args:
            load: What was counted; all of it entries.
            allowed: CPU seconds a second that watching may take.
            most: As for ``choose``.
        """
        self._fixed = self._fixed_of(load)
        self._sampled_bytes = load.calls * _GUESSED_BLOCK
        self.choose(allowed, most)

    def learn(self, passed_s: float, load: Load) -> None:
        """Take what was seen of a time at the present distance.

        Args:
            passed_s: How long it was.
            load: Of that time.
        """
        if not load.calls:
            return
        if load.run_ns is not None:
            self._learn_times(load.run_ns, load.followed / load.hits)
        new = 1 - math.exp(-passed_s / _MEMORY_S)
        self._fixed += new * (self._fixed_of(load) - self._fixed)
        # A few samples tell little of how many bytes there are.
        new *= min(1.0, max(_LEAST_NEW, load.followed * passed_s / _ENOUGH_SAMPLES))
        self._sampled_bytes += new * (load.followed * self.n_bytes - self._sampled_bytes)

    def _fixed_of(self, load: Load) -> float:
        costs, light_ns = self._costs, self._run_ns[0]
        unsampled = max(0.0, load.returns - load.followed)
        return (
            load.calls * (costs.call_ns + light_ns)
            + load.frees * (costs.free_ns + light_ns)
            + unsampled * (costs.return_ns + light_ns)
        ) / 1e9  # fmt: skip

    def _learn_times(self, mean_ns: float, share: float) -> None:
        """Take the mean time of hits, of which a share had a sample."""
        light_ns, more_ns = self._run_ns
        light, more, both = self._doubt
        light, more = light + (_DRIFT[0] * light_ns) ** 2, more + (_DRIFT[1] * more_ns) ** 2
        of_light, of_more = light + both * share, both + more * share
        whole = of_light + of_more * share + (_NOISE * mean_ns) ** 2
        error_ns = mean_ns - light_ns - more_ns * share
        self._run_ns = (
            max(_LEAST_RUN * self._usual_ns[0], light_ns + of_light / whole * error_ns),
            max(_LEAST_RUN * self._usual_ns[1], more_ns + of_more / whole * error_ns),
        )
        self._doubt = (light - of_light**2 / whole, more - of_more**2 / whole, both - of_light * of_more / whole)

    # What is chosen

    def fits(self, allowed: float) -> bool:
        """Whether there is a distance at which watching all the time takes no more than is allowed."""
        return self._wanted(allowed)[1]

    def choose(self, allowed: float, most: float | None = None) -> None:
        """Choose the distance.

        Where the traps alone take too much, windows are wanted. The samples of one may cost as much as its traps, or
        less where it is no blip then, since a longer window tells more.

        Args:
            allowed: CPU seconds a second that watching may take.
            most: CPU seconds a second of a window that is no blip, where windows are allowed.
        """
        self._take(self._wanted(allowed, most)[0])

    def adapt(self, now_s: float, allowed: float) -> bool:
        """Choose another distance where the present one costs too much, or allows too few samples; returns whether.

        Args:
            now_s: Seconds since the trace began.
            allowed: CPU seconds a second that watching may take.
        """
        wanted, _ = self._wanted(allowed)
        wanted = max(wanted, round(self.n_bytes / _MOST_CLOSER), abi.MIN_SAMPLE_RATE)
        is_early = now_s - self._changed_s < max(_LEAST_KEPT_S, now_s / _N_CHANGES)
        closer = wanted * _CLOSER <= self.n_bytes and not is_early
        if not closer and wanted < _WIDER * self.n_bytes:
            return False
        self._changed_s = now_s
        self._take(wanted)
        return True

    def _wanted(self, allowed: float, most: float | None = None) -> tuple[int, bool]:
        room, least = allowed - self._fixed, _LEAST_ROOM * self._fixed
        fits = room >= least
        if not fits:
            room = least
            if most is not None:
                below = most - self._fixed
                room = min(self._fixed, below) if below >= least else self._fixed
        wanted = self._sampled_bytes * self._sample_ns / 1e9 / max(room, 1e-12)
        steps = -(-wanted // _STEP_BYTES)
        return int(min(abi.MAX_SAMPLE_RATE, max(abi.MIN_SAMPLE_RATE, steps * _STEP_BYTES))), fits

    def _take(self, n_bytes: int) -> None:
        self.n_bytes = n_bytes
        self.expected = self._fixed + self._sampled_bytes * self._sample_ns / 1e9 / n_bytes
