"""Walks of the targets' heaps before and after a trace: by children, so that the recorder loads nothing for it."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Sequence
from typing import Final, NamedTuple

from nativeleak import children
from nativeleak.engines.options import TraceOptions
from nativeleak.errors import NativeleakError
from nativeleak.model import HeapCensus, InUse
from nativeleak.process.cgroups import tightest_shared_group
from nativeleak.process.shortage import describe_room
from nativeleak.session.reporter import Reporter
from nativeleak.session.session import Recorded
from nativeleak.units import format_bytes

_TIMEOUT_S: Final = 120.0
_LEAST_BYTES: Final = 80 << 20
"""Room for a walk in a memory group that a target shares."""
_ENVIRONMENT: Final = {"OPENBLAS_NUM_THREADS": "1"}
_MAX_WHY: Final = 300


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


def count_heaps(options: TraceOptions) -> list[Counted]:
    """What is in use in the heap of each target, in their order."""
    group = tightest_shared_group(options.pids)
    if group is not None and group.room_bytes < _LEAST_BYTES:
        why = f"a walk takes {format_bytes(_LEAST_BYTES)}, and {describe_room(group)}, which the target shares"
        return [Counted(None, why, 0.0, 0.0)] * len(options.pids)
    return [_timed(pid) for pid in options.pids]


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


def _timed(pid: int) -> Counted:
    began = time.time()
    found = _count(pid)
    why_not = found if isinstance(found, str) else ""
    return Counted(None if isinstance(found, str) else found, why_not, began, time.time())


def _count(pid: int) -> InUse | str:
    """What is in use, or why that is not known."""
    try:
        done = children.run(
            children.python_module("nativeleak.heaps.in_use", str(pid)),
            env=children.environment(**_ENVIRONMENT),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            timeout=_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return f"the walk took longer than {_TIMEOUT_S:.0f} s"
    except OSError as error:
        return f"the walk could not be started: {error.strerror}"
    if done.returncode < 0:
        return f"the walk was ended by {signal.strsignal(-done.returncode) or f'signal {-done.returncode}'}"
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        return said[-1][:_MAX_WHY] if said else f"the walk ended with status {done.returncode}"
    return InUse(*map(int, done.stdout.split()))
