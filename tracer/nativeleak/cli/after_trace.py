"""The look for holders at the end of a trace: by a child, so that the recorder loads nothing for it.

The recording is whole before, and the probes are gone. Whatever becomes of the look, the report follows.
"""

from __future__ import annotations

from typing import Final

from nativeleak.cli.looks import EarlyEnd, look, room_for_a_look
from nativeleak.engines.options import TraceOptions
from nativeleak.errors import NativeleakError
from nativeleak.session.reporter import Reporter
from nativeleak.session.session import Recorded
from nativeleak.units import format_duration

_GRACE_S: Final = 30.0
"""Names and classes are looked up after the last scan."""


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
    bound_bytes, why = room_for_a_look(options)
    with EarlyEnd() as early:
        if not why:
            reporter.say(f"looking who holds the blocks, for at most {format_duration(budget_s)}")
            arguments = str(recorded.path.absolute()), repr(budget_s)
            limit_s = 2 * budget_s + _GRACE_S
            _, why = look("nativeleak.holders.after_trace", arguments, limit_s, bound_bytes, early)
        if why:
            reporter.note(f"no holders: {why}")
            _record_why(recorded, len(options.pids), why)


def _record_why(recorded: Recorded, n_targets: int, why: str) -> None:
    """Say it of the targets that were not looked at before."""
    from nativeleak.model import Look
    from nativeleak.recording import open_recording
    from nativeleak.recording.fates import add_look  # what most traces do without

    try:
        with open_recording(recorded.path) as recording:
            known = {each.slot for each in recording.looks}
        for slot in range(n_targets):
            if slot not in known:
                add_look(recorded.path, Look(slot, 0.0, why_not=why))
    except NativeleakError:
        return  # the reader has been told on the terminal
