"""When something is to be done: conditions over what the kernel counts."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

from nativeleak.analysis.curves import MIN_SNAPSHOTS
from nativeleak.analysis.growth import Growth
from nativeleak.units import format_bytes, format_rate
from nativeleak.watch.courses import rows_of
from nativeleak.watch.moments import Status, used_share
from nativeleak.watch.options import Alarms

RSS, GROWTH, GROUP = "rss-above", "growth-above", "cgroup-above"

WINDOW_S: Final = 600.0
"""Growth is that of so many last seconds."""
_PAUSE_S: Final = 600.0
"""An alarm is not given again sooner."""
_REARMED: Final = 0.95
"""Below so much of its bound a condition has ended."""
_MIN_MOMENTS: Final = 12
_MAX_MOMENTS: Final = 240


@dataclass(frozen=True, slots=True)
class Alarm:
    """One condition that holds now and did not before.

    Attributes:
        name: ``rss-above``, ``growth-above`` or ``cgroup-above``.
        text: For people.
        value: Bytes, bytes a second, or percent.
        bound: Of the same kind.
    """

    name: str
    text: str
    value: float
    bound: float


class AlarmWatch:
    """Looks at conditions; each alarms when it begins to hold, and again ten minutes later at the soonest.

    Args:
        alarms: What is asked for.
        every_s: Time between two lines: growth is measured between moments so far apart.
    """

    def __init__(self, alarms: Alarms, every_s: float) -> None:
        self._alarms = alarms
        self._step_s = max(every_s, WINDOW_S / _MAX_MOMENTS)
        self._given: set[str] = set()
        self._last: dict[str, float] = {}
        self._recent: deque[tuple[float, int]] = deque(maxlen=_MAX_MOMENTS + 1)

    def look(self, status: Status) -> list[Alarm]:
        """The alarms of this moment."""
        return [alarm for alarm, ratio in self._ratios(status) if self._is_new(alarm, ratio, status.elapsed_s)]

    def _is_new(self, alarm: Alarm, ratio: float, elapsed_s: float) -> bool:
        """Whether a condition has begun to hold; ``ratio`` is its value in terms of its bound."""
        if ratio <= 1:
            if ratio < _REARMED:
                self._given.discard(alarm.name)
            return False
        if alarm.name in self._given or elapsed_s - self._last.get(alarm.name, -_PAUSE_S) < _PAUSE_S:
            return False
        self._given.add(alarm.name)
        self._last[alarm.name] = elapsed_s
        return True

    def _ratios(self, status: Status) -> Iterator[tuple[Alarm, float]]:
        alarms = self._alarms
        if alarms.rss_bytes is not None:
            rss = status.rss_bytes
            text = f"resident memory {format_bytes(rss)} is above {format_bytes(alarms.rss_bytes)}"
            yield Alarm(RSS, text, rss, alarms.rss_bytes), rss / max(1, alarms.rss_bytes)
        group = status.tightest_group
        if alarms.group_pct is not None and group is not None:
            share_pct = 100 * used_share(group)
            text = (
                f"{group.limit.name} is used to {share_pct:.0f} %, above {alarms.group_pct:g} % of"
                f" {format_bytes(group.limit.limit_bytes)}"
            )
            yield Alarm(GROUP, text, share_pct, alarms.group_pct), share_pct / alarms.group_pct
        if alarms.growth_bytes_per_s is not None and (growth := self._growth(status)) is not None:
            low, bound = min(growth.low_bytes_per_s, self._lows_rise()), alarms.growth_bytes_per_s
            text = (
                f"resident memory grows by {format_rate(growth.slope_bytes_per_s)}, at least by {format_rate(low)},"
                f" above {format_rate(bound)}"
            )
            yield Alarm(GROWTH, text, growth.slope_bytes_per_s, bound), low / bound

    def _growth(self, status: Status) -> Growth | None:
        """Growth over the last minutes, told once a step; None before there are enough moments."""
        recent = self._recent
        if recent and status.elapsed_s - recent[-1][0] < self._step_s * 0.99:
            return None
        recent.append((status.elapsed_s, status.held_bytes))
        while status.elapsed_s - recent[0][0] > WINDOW_S:
            recent.popleft()
        if len(recent) < max(_MIN_MOMENTS, MIN_SNAPSHOTS):
            return None
        times = [elapsed_s for elapsed_s, _ in recent]
        return rows_of(["held"], times, np.array([[float(n_bytes) for _, n_bytes in recent]]))[0].growth

    def _lows_rise(self) -> float:
        """Bytes a second by which the lowest value of the last quarter lies above that of the first; 0 unless all rise.

        Growth is looked at again and again, and an interval of 95 % is wrong now and then: of a level that swings the
        lowest values stay.
        """
        recent = list(self._recent)
        n = len(recent)
        lows = [min(n_bytes for _, n_bytes in recent[part * n // 4 : (part + 1) * n // 4]) for part in range(4)]
        if any(later <= earlier for earlier, later in pairwise(lows)):
            return 0.0
        return (lows[3] - lows[0]) / (0.75 * (recent[-1][0] - recent[0][0]))
