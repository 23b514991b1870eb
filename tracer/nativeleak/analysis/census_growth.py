"""What windows of a trace say of growth, held against the growth of the memory itself.

Where probes slow the targets down, a window sees fewer births than the same time without probes, and an estimate by
seconds is too low: it is the least that grows. The growth of the allocators' memory is known all the time. So the
estimates are raised together, until their sum is that growth, and no further than the slowdown can account for. The
interval goes from the least to the most.

What grows by more than the memory of the whole process cannot be growth: then blocks were freed unseen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from nativeleak.analysis.births import WATCHED, is_slowed
from nativeleak.analysis.curves import MIN_SNAPSHOTS
from nativeleak.analysis.growth import Growth, Verdict, course, watch_s
from nativeleak.model import MemoryLine
from nativeleak.recording import Recording

_COST_ERROR: Final = 0.15
"""How far the estimate of the cost of probes may be off."""
_HEADER_BYTES: Final = 16.0
"""What a block takes in memory beyond what was asked for: header and rounding of glibc's malloc."""
_TOO_MUCH: Final = 1.5
_NOISE_BYTES: Final = float(1 << 20)


@dataclass(frozen=True, slots=True)
class Part:
    """Growth of one finding by windows.

    Attributes:
        block_bytes: Mean size of its blocks.
        own_share: Part of it that was seen at call sites which are watched by themselves: no window saw too little.
    """

    growth: Growth
    block_bytes: float
    own_share: float = 0.0


def heap_growth(recording: Recording) -> Growth | None:
    """Growth of the memory of allocators; of all resident memory where that is not known; None where neither is."""
    sums: dict[float, int] = {}
    for reading in recording.memory.readings:
        n_bytes = reading.lines.get(MemoryLine.ALLOCATOR, 0)
        sums[reading.elapsed_s] = sums.get(reading.elapsed_s, 0) + n_bytes
    known = sorted(sums.items())
    if len(known) < MIN_SNAPSHOTS or not any(n_bytes for _, n_bytes in known):
        known = [(each.elapsed_s, each.rss_bytes) for each in recording.snapshots if each.rss_bytes > 0]
    if len(known) < MIN_SNAPSHOTS:
        return None
    return course([at_s for at_s, _ in known], [n_bytes for _, n_bytes in known])


def most_slowdown(recording: Recording) -> float:
    """By what factor probes may have slowed the targets down in the windows, at most; 1.0 where not noticeably."""
    windows = [window for window in recording.windows if window.to_s > window.from_s]
    seen = [window for window in windows if window.level in WATCHED]
    seconds = sum(window.to_s - window.from_s for window in seen)
    cost_s, used_s = sum(window.cost_s for window in seen), sum(window.target_cpu_s for window in seen)
    if not seconds or not is_slowed(recording):
        return 1.0
    whole_s = sum(window.to_s - window.from_s for window in windows)
    own_s = sum(window.target_cpu_s - window.cost_s for window in windows)
    own_in_windows_s = used_s - (1 + _COST_ERROR) * cost_s
    if own_s <= 0 or own_in_windows_s <= 0:
        return math.inf
    return max(1.0, seconds * own_s / (own_in_windows_s * whole_s))


def memory_factor(block_bytes: float) -> float:
    """What blocks of this mean size take in memory, as a multiple of what was asked for."""
    return 1 + _HEADER_BYTES / max(block_bytes, 1.0)


def held_against_memory(recording: Recording, parts: Sequence[Part]) -> list[Growth]:
    """The growths by windows, raised to what the memory grows by, or not believed where that is less."""
    heap, slowdown = heap_growth(recording), most_slowdown(recording)
    if heap is None:
        return [part.growth for part in parts]
    slack = _NOISE_BYTES / max(recording.elapsed_s, 1.0)
    most = max(0.0, heap.high_bytes_per_s) + slack
    believed = [_believed(part.growth, most, recording.elapsed_s) for part in parts]
    whole = sum(
        growth.slope_bytes_per_s * memory_factor(part.block_bytes)
        for growth, part in zip(believed, parts, strict=True)
        if growth.verdict is Verdict.GROWING
    )
    if slowdown <= 1.0 or whole <= 0:
        return believed
    factor = min(slowdown, max(1.0, heap.slope_bytes_per_s / whole))
    highest = min(slowdown, max(factor, most / whole))
    return [
        replace(
            growth,
            slope_bytes_per_s=growth.slope_bytes_per_s * (1 + (factor - 1) * (1 - part.own_share)),
            high_bytes_per_s=growth.high_bytes_per_s * (1 + (highest - 1) * (1 - part.own_share)),
        )
        for growth, part in zip(believed, parts, strict=True)
    ]


def _believed(growth: Growth, most: float, elapsed_s: float) -> Growth:
    if growth.verdict is Verdict.GROWING and growth.low_bytes_per_s > _TOO_MUCH * most:
        return replace(growth, verdict=Verdict.UNDECIDED, enough_s=watch_s(3 * elapsed_s))
    return growth
