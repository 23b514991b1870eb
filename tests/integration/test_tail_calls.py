"""Functions that end in a jump leave no return address, and stand in their stacks all the same."""

from __future__ import annotations

from nativeleak.model import FrameSource
from nativeleak.recording import open_recording
from support import Target, Trace, mismatches, strangers

TAILS = ("tails_direct", "tails_twice", "tails_library", "tails_slot")


def test_functions_that_end_in_a_jump_are_in_their_stacks():
    with Target("tails") as target, Trace(target) as trace:
        truth = target.go()
        report = trace.stop()
        with open_recording(trace.recording) as recording:
            found = {frame.function: frame.found for frame in recording.frames.values()}
    assert mismatches(report, truth) == []
    assert strangers(report, truth) == []
    assert {name: found[name] for name in TAILS} == dict.fromkeys(TAILS, FrameSource.TAIL)
    assert found["tails_plain"] is FrameSource.EXACT
    for row in report["sites"]:
        functions = [frame["function"] for frame in row["frames"]]
        assert functions[2:3] == ["main"], functions
