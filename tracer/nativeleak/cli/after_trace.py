"""The look for holders at the end of a trace: by a child, so that the recorder loads nothing for it.

The recording is whole before, and the probes are gone. Whatever becomes of the look, the report follows.
"""

from __future__ import annotations

import signal
import subprocess
from typing import Final

from nativeleak import children
from nativeleak.cli.final_report import limiting
from nativeleak.engines.options import TraceOptions
from nativeleak.errors import NativeleakError
from nativeleak.process.cgroups import tightest_shared_group
from nativeleak.process.shortage import describe_room
from nativeleak.session.reporter import Reporter
from nativeleak.session.session import Recorded
from nativeleak.units import format_bytes, format_duration

_LEAST_BYTES: Final = 80 << 20
"""What a look at a small heap takes: measured 50 MiB resident, 64 to 80 MiB of data (RLIMIT_DATA).

Each recorded block adds 160 bytes: measured 210 MiB resident at a million.
"""
_ENVIRONMENT: Final = {"OPENBLAS_NUM_THREADS": "1"}
_GRACE_S: Final = 30.0
"""Names and classes are looked up after the last scan."""
_MAX_WHY: Final = 300


def look_for_holders(recorded: Recorded, options: TraceOptions, budget_s: float, reporter: Reporter) -> None:
    """Say in the recording who holds its blocks, or why that is not known.

    Args:
        recorded: What was recorded.
        options: Of the trace.
        budget_s: Most seconds of the looks at all targets.
        reporter: Takes a line about it.
    """
    if recorded.content is not None:
        reporter.note("no holders: the recording is in memory only")
        return
    bound_bytes, why = _bound(options)
    if not why:
        reporter.say(f"looking who holds the blocks, for at most {format_duration(budget_s)}")
        why = _run(recorded, budget_s, bound_bytes)
    if why:
        reporter.note(f"no holders: {why}")
        _record_why(recorded, len(options.pids), why)


def _bound(options: TraceOptions) -> tuple[int, str]:
    """The most memory of a look, 0 for as much as it wants; and why there is too little, empty where there is enough.

    In a memory group that a target shares the look gets what is free, so that it never pushes the target out.
    """
    bound_bytes = options.budget.max_memory_bytes
    least = f"a look takes at least {format_bytes(_LEAST_BYTES)}"
    if bound_bytes and bound_bytes < _LEAST_BYTES:
        return bound_bytes, f"{least}, more than --max-memory {format_bytes(bound_bytes)}"
    group = tightest_shared_group(options.pids)
    if group is None:
        return bound_bytes, ""
    if group.room_bytes < _LEAST_BYTES:
        return bound_bytes, f"{least}, and {describe_room(group)}, which the target shares"
    return min(bound_bytes or group.room_bytes, group.room_bytes), ""


def _run(recorded: Recorded, budget_s: float, bound_bytes: int) -> str:
    """Look in a process of its own; returns why it failed, empty where it did not."""
    path = str(recorded.path.absolute())
    try:
        done = children.run(
            children.python_module("nativeleak.holders.after_trace", path, repr(budget_s)),
            env=children.environment(**_ENVIRONMENT),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=2 * budget_s + _GRACE_S,
            preexec_fn=limiting(bound_bytes) if bound_bytes else None,
        )
    except subprocess.TimeoutExpired:
        return f"the look took longer than {format_duration(2 * budget_s + _GRACE_S)}"
    except OSError as error:
        return f"the look could not be started: {error.strerror}"
    if done.returncode < 0:
        return f"the look was ended by {signal.strsignal(-done.returncode) or f'signal {-done.returncode}'}"
    said = done.stderr.decode("utf-8", "replace").strip().splitlines()
    why = f"the look failed: {said[-1][:_MAX_WHY]}" if said else f"the look ended with status {done.returncode}"
    return why if done.returncode else ""


def _record_why(recorded: Recorded, n_targets: int, why: str) -> None:
    from nativeleak.model import Look
    from nativeleak.recording.fates import add_look  # what most traces do without

    try:
        for slot in range(n_targets):
            add_look(recorded.path, Look(slot, 0.0, why_not=why))
    except NativeleakError:
        return  # the reader has been told on the terminal
