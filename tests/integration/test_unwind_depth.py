"""Deep stacks: both ends are kept, what is left out is said, recursion folds; and the walk by frame pointers."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from nativeleak.model import Frame, FrameSource, Kind, Stack
from nativeleak.recording import open_recording
from support import IS_LONG, Target, Trace, nativeleak, require

DEPTH = 211
MAX_WALKED = 1024
"""Frames after which a walk ends (``NL_ROUNDS * NL_STEPS`` in ``bpf/nativeleak.h``), the leaf apart."""

HEAD = ["malloc", "deep_keep"]
LIBC_START = 2
"""Frames of the C library below main."""


def trace_deep(recording: Path, *options: object, target: str = "deep", depth: int = DEPTH) -> Stack:
    """The one stack of the target that allocates ``depth`` calls deep."""
    with Target(target, depth) as running, Trace(running, options=options, output=recording) as trace:
        running.go()
        trace.stop()
    with open_recording(recording) as opened:
        (site,) = [site for site in opened.sites if site.key.kind is Kind.HEAP and site.outstanding_count]
        stack = opened.stack(site.key.stack_key)
    assert stack is not None
    return stack


def places(frames: tuple[Frame, ...]) -> list[tuple[str, int]]:
    """Where the frames are, in whatever process: the same code has the same offset."""
    return [(frame.function, frame.offset) for frame in frames]


@pytest.fixture(autouse=True)
def _tables() -> None:
    require(platform.machine() == "x86_64", "unwind tables are made for x86-64 only")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, int]]:
    """Every frame of the stack."""
    require(platform.machine() == "x86_64", "unwind tables are made for x86-64 only")
    stack = trace_deep(tmp_path_factory.mktemp("whole") / "deep.nlk", "--max-depth", 512)
    assert (stack.truncated, stack.end) == (False, "root")
    return places(stack.frames)


def test_stack_of_less_than_the_limit_is_whole_and_as_deep_as_the_program_says(whole):
    functions = [function for function, _ in whole]
    n_descends = DEPTH + 1
    assert functions[:2] == HEAD
    assert functions[2 : 2 + n_descends] == ["deep_descend"] * n_descends
    assert functions[2 + n_descends] == "main"
    assert functions[-1] == "_start"
    assert len(functions) == 2 + n_descends + 1 + LIBC_START + 1
    # The innermost call is another one than the recursive, which is always the same.
    assert len({offset for function, offset in whole if function == "deep_descend"}) == 2


@pytest.mark.parametrize("target", ["deep", "deep_nofp"])
@pytest.mark.parametrize("max_depth", [127, 64, 11, 2] if IS_LONG else [64, 2])
def test_stack_deeper_than_the_limit_keeps_both_ends_and_says_what_is_left_out(target, max_depth, whole, tmp_path):
    stack = trace_deep(tmp_path / "deep.nlk", "--max-depth", max_depth, target=target)
    n_tail = max_depth // 2
    n_head = max_depth - n_tail
    head, gap, tail = stack.frames[:n_head], stack.frames[n_head], stack.frames[n_head + 1 :]
    assert gap.found is FrameSource.GAP
    assert f" {len(whole) - max_depth} frames left out" in gap.function
    assert (stack.truncated, stack.end) == (True, "root")
    assert {frame.found for frame in (*head, *tail)} == {FrameSource.EXACT}
    if target == "deep":
        assert places(head) == whole[:n_head]
        assert places(tail) == whole[-n_tail:]
    assert [frame.function for frame in head] == [function for function, _ in whole[:n_head]]
    assert [frame.function for frame in tail] == [function for function, _ in whole[-n_tail:]]


def test_stack_deeper_than_the_largest_limit_keeps_both_ends(whole, tmp_path):
    depth, n_end = 701, 256
    stack = trace_deep(tmp_path / "deep.nlk", "--max-depth", 2 * n_end, target="deep_nofp", depth=depth)
    assert (stack.truncated, stack.end) == (True, "root")
    assert stack.frames[n_end].found is FrameSource.GAP
    assert f" {len(whole) + depth - DEPTH - 2 * n_end} frames left out" in stack.frames[n_end].function
    functions = [frame.function for frame in stack.frames]
    assert functions[:n_end] == [*HEAD, *["deep_descend"] * (n_end - len(HEAD))]
    n_above = len(whole) - len(HEAD) - (DEPTH + 1)
    assert functions[n_end + 1 :] == ["deep_descend"] * (n_end - n_above) + [name for name, _ in whole[-n_above:]]


def test_stack_of_more_frames_than_are_walked_ends_with_depth(tmp_path):
    stack = trace_deep(tmp_path / "deep.nlk", depth=2 * MAX_WALKED)
    assert (stack.truncated, stack.end) == (True, "depth")
    (gap,) = [frame for frame in stack.frames if frame.found is FrameSource.GAP]
    assert f" {1 + MAX_WALKED - 127} frames left out" in gap.function
    assert [frame.function for frame in stack.frames[:3]] == [*HEAD, "deep_descend"]
    assert {frame.function for frame in stack.frames[65:]} == {"deep_descend"}


def test_recursion_folds_in_the_text_report(tmp_path):
    recording = tmp_path / "deep.nlk"
    trace_deep(recording, "--max-depth", 512)
    text = nativeleak("report", recording, "--full-stacks", "--by", "stack").stdout
    lines = [line for line in text.split("Call sites")[1].splitlines() if "deep_descend" in line]
    assert len(lines) == 1, lines
    assert f"[x{DEPTH + 1}]" in lines[0]


def test_walk_by_frame_pointers_as_asked_for_is_right_and_marked(whole, tmp_path):
    stack = trace_deep(tmp_path / "deep.nlk", "--unwind", "fp", "--max-depth", 512)
    in_program = [place for place in whole if place[0] in (*HEAD, "deep_descend", "main")]
    assert places(stack.frames[: len(in_program)]) == in_program
    # The allocator function and its return address are no matter of frame pointers.
    assert [frame.found for frame in stack.frames[:2]] == [FrameSource.EXACT] * 2
    assert {frame.found for frame in stack.frames[2:]} == {FrameSource.FP}
