"""Walks of the targets' heaps before and after a trace: by children, so that the recorder loads nothing for it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final, NamedTuple

from nativeleak.cli.looks import EarlyEnd, look, room_for_a_look
from nativeleak.engines.options import TraceOptions
from nativeleak.errors import NativeleakError
from nativeleak.model import HeapCensus, InUse
from nativeleak.session.reporter import Reporter
from nativeleak.session.session import Recorded

_TIMEOUT_S: Final = 120.0


class Counted(NamedTuple):
    """A walk of one target's heap.

    Attributes:
        in_use: What is in use; None where that is not known.
        why_not: Why it is not.
        began, ended: Unix time.
    """

    in_use: InUse | None
    why_not: str
    began: float
    ended: float


def count_heaps(options: TraceOptions, early: EarlyEnd | None = None) -> list[Counted]:
    """What is in use in the heap of each target, in their order; see ``looks.look`` for ``early``."""
    bound_bytes, why = room_for_a_look(options)
    if why:
        return [Counted(None, why, 0.0, 0.0)] * len(options.pids)
    return [_count(pid, bound_bytes, early) for pid in options.pids]


def record_census(recorded: Recorded, before: Sequence[Counted], after: Sequence[Counted], reporter: Reporter) -> None:
    """Put both walks of each target into the recording.

    Args:
        recorded: What was recorded.
        before: Of ``count_heaps``, before the trace.
        after: The same after it.
        reporter: Takes a line where that fails.
    """
    if recorded.content is not None:
        reporter.note("no heap walk: the recording is in memory only")
        return
    from nativeleak.recording.fates import add_census  # what most traces do without

    try:
        add_census(recorded.path, [_census(slot, *both) for slot, both in enumerate(zip(before, after, strict=True))])
    except NativeleakError as error:
        reporter.note(f"no heap walk: {error.what}")


def _census(slot: int, before: Counted, after: Counted) -> HeapCensus:
    return HeapCensus(slot, before.in_use, after.in_use, before.why_not or after.why_not, before.ended, after.began)


def _count(pid: int, bound_bytes: int, early: EarlyEnd | None) -> Counted:
    began = time.time()
    said, why_not = look("nativeleak.heaps.in_use", [str(pid)], _TIMEOUT_S, bound_bytes, early)
    in_use = None if why_not else InUse(*map(int, said.split()))
    return Counted(in_use, why_not, began, time.time())
