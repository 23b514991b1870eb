"""How many of the allocator's calls were watched, where the heap was watched in windows: an estimate with its interval.

Calls outside of windows are not seen. A window tells how many there are for a second of the target's own CPU time (for
a second of time where the target hardly uses any), and the target's CPU time is known throughout. The interval is that
of Student's t over the windows; a single window gives none.

Caveat: a target that does other things between windows makes other calls there.
Source: the variance of a ratio of means, Cochran, Sampling Techniques, chapter 6.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from nativeleak.analysis.births import WATCHED
from nativeleak.analysis.windowed import t_975
from nativeleak.model import Window

_LEAST_CPU: Final = 0.02
"""CPU seconds a second in windows; below, time is the measure."""


@dataclass(frozen=True, slots=True)
class CallShare:
    """Share of the allocator's calls that were watched, per cent.

    Attributes:
        pct: The estimate.
        low_pct: Lower end of its 95 % interval.
        high_pct: Upper end.
    """

    pct: float
    low_pct: float
    high_pct: float


def share_of_calls(windows: Sequence[Window]) -> CallShare | None:
    """The share of the calls that were made in windows of watching; None where none was made in any.

    Args:
        windows: All of a trace, those in which nothing was watched too.
    """
    spans = [window for window in windows if window.to_s > window.from_s]
    watched = [window for window in spans if window.level in WATCHED]
    seconds = sum(window.to_s - window.from_s for window in watched)
    by_cpu = seconds > 0 and sum(map(_own_cpu_s, watched)) / seconds >= _LEAST_CPU
    sizes = [_own_cpu_s(window) if by_cpu else window.to_s - window.from_s for window in watched]
    n_hits, size = sum(window.probe_hits for window in watched), sum(sizes)
    if not n_hits or size <= 0:
        return None
    outside = sum(
        _own_cpu_s(window) if by_cpu else window.to_s - window.from_s for window in spans if window.level not in WATCHED
    )
    rate, n = n_hits / size, len(watched)
    if outside <= 0:
        return CallShare(100.0, 100.0, 100.0)
    margin = math.inf
    if n > 1:
        spread = sum((window.probe_hits - rate * each) ** 2 for window, each in zip(watched, sizes, strict=True))
        margin = t_975(n - 1) * math.sqrt(n * spread / (n - 1)) / size
    share, low, high = (_pct(n_hits, each * outside) for each in (rate, rate + margin, max(0.0, rate - margin)))
    return CallShare(share, low, high)


def _pct(n_watched: int, n_outside: float) -> float:
    return 100 * n_watched / (n_watched + n_outside)


def _own_cpu_s(window: Window) -> float:
    """CPU seconds of the target without what probes took."""
    return max(0.0, window.target_cpu_s - window.cost_s)
