"""Deep Java stacks, as web frameworks make them: whole up to --max-depth, both ends of those that are deeper."""

from __future__ import annotations

import pytest

from nativeleak.model import Stack
from nativeleak.recording.reader import open_recording
from support import Target, Trace, java_launcher, target_path
from targets.jdks import DEBIAN

pytestmark = pytest.mark.jvm

DEPTHS = (211, 401)
N_PAIRS = 1009
AROUND = ("Depths.pairs", "Depths.main")


def stacks_at(release: str, max_depth: int, options: tuple[str, ...]) -> list[Stack]:
    """The stack of the most allocations that were made at each depth."""
    command = [java_launcher(release), *options, "-cp", target_path("Depths"), "Depths"]
    with Target("Depths", command=command) as target, Trace(target, options=["--max-depth", max_depth]) as trace:
        for depth in DEPTHS:
            target.ask(f"go {depth} {N_PAIRS}")
        trace.stop()
        with open_recording(trace.recording) as recording:
            found = [(site.allocated_count, recording.stack(site.key.stack_key)) for site in recording.sites]
    most: dict[int, tuple[int, Stack]] = {}
    for n, stack in found:
        if stack and AROUND[0] in names(stack):
            depth = names(stack).count("Depths.down") - 1
            most[depth] = max(most.get(depth, (0, stack)), (n, stack), key=lambda each: each[0])
    return [most[depth][1] for depth in DEPTHS if depth in most] or [stack for _, stack in most.values()]


def names(stack: Stack) -> list[str]:
    return [frame.function for frame in stack.frames]


@pytest.mark.parametrize(("release", "options"), [(DEBIAN, ()), ("25", ("-Xint",))], ids=["debian", "25-interpreted"])
def test_java_stack_of_hundreds_of_frames_is_whole(release, options):
    stacks = stacks_at(release, 512, options)
    assert len(stacks) == len(DEPTHS)
    for depth, stack in zip(DEPTHS, stacks, strict=True):
        functions = names(stack)
        begin, end = (functions.index(name) for name in AROUND)
        assert functions[begin + 1 : end] == ["Depths.down"] * (depth + 1)
        assert (stack.truncated, stack.end) == (False, "root")


def test_java_stack_beyond_the_limit_keeps_both_its_ends():
    stacks = stacks_at(DEBIAN, 100, ("-Xint",))
    assert stacks
    for stack in stacks:
        functions = names(stack)
        assert stack.truncated
        assert {*AROUND} <= {*functions}
        assert len([name for name in functions if "left out" in name]) == 1
        assert 90 < len(functions) <= 101
