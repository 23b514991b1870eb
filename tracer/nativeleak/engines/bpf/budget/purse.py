"""The purse: CPU seconds of the targets that probes may still take.

Scope: sums alone. Time and cost come in as arguments, so that a test can play any trace in no time.

The purse is filled by the second, with a share of the CPU time that the targets use themselves, or of 0.4 of a core,
whichever is more. Where cores are scarce and the targets wait for one, they are not calm: that 0.4 is less then, but an
eighth of it at least. What is not spent is saved. A part of it is lent at the start, so that a trace begins with the
whole heap in sight; it is paid back from a part of what comes in.
"""

from __future__ import annotations

from typing import Final

LEAST_CPU: Final = 0.4
"""CPU seconds a second that targets are taken to use at least: 5 % of it are 2 % of a core."""
_LEAST_REACH: Final = 0.125
"""A calm service on a crowded machine runs for a hundredth of the time in which it could: without a bound a few hundred
calls a second would exceed its budget. 5 % of an eighth of 0.4 are 0.25 % of a core."""
_LENT: Final = 0.25
"""Part of the purse of a trace, or of a minute, that is lent at the start; and part of the income that pays it back."""
_MINUTE_S: Final = 60.0
_LEAST_HORIZON_S: Final = 2.0
"""What is saved is never spent in a shorter time, not even at the end of a trace."""
_TOLD_S: Final = 1.0
"""A time of this length tells the income; a shorter one its part of it. The kernel counts CPU time in steps of
milliseconds: over a moment they look like many cores, or like none. And on a busy machine targets wait now and then."""


class Purse:
    """What may be spent in one trace.

    Args:
        share: Of the targets' CPU time; 0.05 for 5 %.
        duration_s: Of the trace; None where it is not known: then the purse is that of a minute.

    Attributes:
        left_s: CPU seconds that may be spent now; below zero where more was spent.
        spent_s: CPU seconds that were spent.
        income: CPU seconds that come in a second.
    """

    def __init__(self, share: float, duration_s: float | None = None) -> None:
        self._share, self._duration_s = share, duration_s
        self._horizon_s = _MINUTE_S if duration_s is None else min(_MINUTE_S, duration_s)
        self._passed_s = 0.0
        self._owed_s = 0.0
        self.left_s = 0.0
        self.spent_s = 0.0
        self.income = share * LEAST_CPU

    def lend(self, cpu: float, reach: float = 1.0) -> None:
        """Fill the purse at the start of the trace.

        Args:
            cpu: CPU seconds a second that the targets use.
            reach: Part of the time of their runnable threads in which these run.
        """
        self.income = self._share * max(LEAST_CPU * max(_LEAST_REACH, reach), cpu)
        self._owed_s = self.left_s = _LENT * self.income * self._horizon_s

    def move(self, passed_s: float, cpu: float, cost: float, reach: float = 1.0) -> None:
        """Let time pass.

        Args:
            passed_s: Seconds.
            cpu: CPU seconds a second that the targets used for themselves.
            cost: CPU seconds a second that the probes took.
            reach: Part of the time of their runnable threads in which these ran.
        """
        now = self._share * max(LEAST_CPU * max(_LEAST_REACH, reach), cpu)
        self.income += min(1.0, passed_s / _TOLD_S) * (now - self.income)
        earned_s = now * passed_s
        paid_back_s = min(self._owed_s, _LENT * earned_s)
        self._owed_s -= paid_back_s
        self.spent_s += cost * passed_s
        self.left_s += earned_s - paid_back_s - cost * passed_s
        if self._duration_s is None:
            self.left_s = min(self.left_s, self.income * _MINUTE_S)
        self._passed_s += passed_s

    def spend(self, seconds: float) -> None:
        """Take CPU seconds that the probes took beside what ``move`` was told."""
        self.spent_s += seconds
        self.left_s -= seconds

    @property
    def pace(self) -> float:
        """CPU seconds a second that can be spent until the end of the trace, or for a minute.

        It is a tenth of the income at least, so that what was overspent once does not end the watch.
        """
        rest_s = _MINUTE_S if self._duration_s is None else self._duration_s - self._passed_s
        rest_s = max(_LEAST_HORIZON_S, rest_s)
        kept = 1 - _LENT if self._owed_s > 0 else 1.0
        return max(0.1 * self.income, kept * self.income + self.left_s / rest_s)
