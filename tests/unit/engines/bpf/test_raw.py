"""Stacks as the kernel keeps them: both ends of a deep one, in their order."""

from __future__ import annotations

import pytest

from nativeleak.engines.bpf.kernel import abi
from nativeleak.engines.bpf.raw import raw_stack
from nativeleak.probes.calls import AllocCall
from nativeleak.runtimes.hotspot.walker import JavaFrame


def kernel_words(n: int, depth: int) -> list[int]:
    """What ``push_frame`` leaves of frames 1 to n."""
    head, tail = depth - depth // 2, depth // 2
    frames = [0] * min(n, depth)
    for i in range(n):
        at = i if i < head else head + (i - head) % tail
        frames[at] = i + 1
    return [word for frame in frames for word in (frame, 0)]


@pytest.mark.parametrize(("n", "depth"), [(1, 127), (127, 127), (128, 127), (300, 127), (1000, 512), (5, 2), (12, 3)])
def test_raw_stack_keeps_both_ends_in_order(n, depth):
    facts = abi.StackStruct(n=n, depth=depth, end=abi.End.ROOT, slot=3)
    stack = raw_stack(77, facts, kernel_words(n, depth))
    kept = min(n, depth)
    head = depth - depth // 2
    wanted = list(range(1, n + 1)) if n <= depth else [*range(1, head + 1), *range(n - depth // 2 + 1, n + 1)]
    assert [frame.ip for frame in stack.frames] == wanted
    assert (stack.n_left_out, stack.n_head, len(stack.frames)) == (n - kept, head, kept)


def test_raw_stack_tells_how_each_frame_was_found():
    words = [0x1000, 0, 0x2000 | abi.FrameSource.GUESS << 56, 0, 0x3000 | JavaFrame.COMPILED << 56, 7 << 32 | 5]
    frames = raw_stack(1, abi.StackStruct(n=3, depth=127, end=abi.End.NO_TABLE), words).frames
    assert [(f.ip, f.found, f.extra) for f in frames] == [
        (0x1000, abi.FrameSource.EXACT, 0),
        (0x2000, abi.FrameSource.GUESS, 0),
        (0x3000, JavaFrame.COMPILED, 7 << 32 | 5),
    ]


def test_cookie_has_every_part_in_its_place():
    cookie = abi.cookie(AllocCall.FREE, 5, offset=9, pushed_bytes=8, arguments=(7, 6, 2))
    assert cookie == 7 | 5 << 8 | 9 << 16 | 8 << 32 | 0x267 << 48
