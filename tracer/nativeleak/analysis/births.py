"""How long births were seen, where the heap was watched in windows: of all blocks, and of those of watched call sites.

Blocks that were recorded at call sites which are watched by themselves (``FrameSource.SITE``) had their births seen all
the time since these were found.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from nativeleak.model import FrameSource, Level, Window
from nativeleak.recording import Recording

Floats: TypeAlias = npt.NDArray[np.float64]

WATCHED: Final = (Level.EXACT, Level.SAMPLED)
"""Levels at which allocations and frees of the heap are both seen."""

_NOTICEABLE: Final = 0.1
"""Part of the time of busy threads from which on probes slow the targets down."""


def watched_seconds(recording: Recording, n_slices: int, slice_s: float) -> Floats:
    """Seconds of each birth slice in which births were seen.

    Where probes slow the targets down, a second holds as many births as the scheduler lets through. Then all seconds
    are shared out among the windows by the number of calls.
    """
    windows = [each for each in recording.windows if each.level in WATCHED and each.to_s > each.from_s and slice_s]
    spans = [each.to_s - each.from_s for each in windows]
    hits = sum(each.probe_hits for each in windows)
    weights = [1.0] * len(windows)
    if is_slowed(recording) and hits > 0:
        whole_s = sum(spans)
        weights = [whole_s * each.probe_hits / (hits * span_s) for each, span_s in zip(windows, spans, strict=True)]
    return _seconds(zip(windows, weights, strict=True), n_slices, slice_s)


def is_slowed(recording: Recording) -> bool:
    """Whether probes took so much of the time of busy threads in the windows that fewer births came about."""
    seen = [window for window in recording.windows if window.level in WATCHED]
    seconds, used_s = sum(each.to_s - each.from_s for each in seen), sum(each.target_cpu_s for each in seen)
    return sum(each.cost_s for each in seen) > _NOTICEABLE * max(seconds, used_s)


class OwnBirths(NamedTuple):
    """Births at call sites that are watched by themselves.

    Attributes:
        rows: Positions of the sites whose blocks were recorded there.
        seconds: Seconds of each birth slice in which they were watched.
    """

    rows: list[int]
    seconds: Floats


def own_births(recording: Recording, n_slices: int, slice_s: float) -> OwnBirths | None:
    """What was recorded at watched call sites; None where nothing was.

    Args:
        recording: Of the trace.
        n_slices: How many birth slices there are.
        slice_s: Width of one, seconds.
    """
    begin_s = min((each.from_s for each in recording.windows if each.level is Level.HOT), default=None)
    if begin_s is None or not slice_s:
        return None
    spans = [
        each._replace(from_s=max(begin_s, each.from_s))
        for each in recording.windows
        if each.level in (*WATCHED, Level.HOT) and each.to_s > begin_s
    ]
    rows = _rows_of_call_sites(recording)
    return OwnBirths(rows, _seconds(((each, 1.0) for each in spans), n_slices, slice_s)) if rows else None


def _rows_of_call_sites(recording: Recording) -> list[int]:
    """Positions of the sites whose blocks were recorded at watched call sites."""
    leaves = {number for number, frame in recording.frames.items() if frame.found is FrameSource.SITE}
    if not leaves:
        return []
    keys = recording.site_columns.stack_key
    stacks = recording.stack_columns(frozenset(keys))
    firsts = zip(stacks.keys, stacks.bounds, stacks.bounds[1:], strict=False)
    chosen = {key for key, start, stop in firsts if stop > start and stacks.frames[start] in leaves}
    return [position for position, key in enumerate(keys) if key in chosen]


def _seconds(windows: Iterable[tuple[Window, float]], n_slices: int, slice_s: float) -> Floats:
    """Seconds of each birth slice that are in one of the windows, each of which has a weight."""
    seconds = np.zeros(n_slices)
    for window, weight in windows:
        for i in range(int(window.from_s / slice_s), min(n_slices, int(window.to_s / slice_s) + 1)):
            here_s = min(window.to_s, (i + 1) * slice_s) - max(window.from_s, i * slice_s)
            seconds[i] += weight * max(0.0, here_s)
    return seconds
