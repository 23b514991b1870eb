"""What the kernel maps hold, as tuples: sites and stacks before they have names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from nativeleak.engines.bpf.kernel import abi
from nativeleak.runtimes.base import RawFrame, raw_frame


class RawSite(NamedTuple):
    """One entry of the kernel's site map; ``value`` is a ``struct nl_site``, in a buffer that is used again."""

    slot: int
    thread: int
    stack: int
    value: bytes | memoryview


class RawStack(NamedTuple):
    """One stack as the kernel walked it.

    Attributes:
        frames: Leaf first; of a stack deeper than the limit both ends.
        n_left_out: Frames between the two ends.
        n_head: Frames before the gap.
    """

    key: int
    slot: int
    end: abi.End
    frames: tuple[RawFrame, ...]
    n_left_out: int = 0
    n_head: int = 0


def raw_stack(key: int, facts: abi.StackStruct, words: Sequence[int]) -> RawStack:
    """A stack from its facts and the words of the frames that were kept: address and second word of each."""
    frames = [raw_frame(word, extra) for word, extra in zip(words[::2], words[1::2], strict=True)]
    n_left_out = facts.n - len(frames)
    n_head = facts.depth - facts.depth // 2
    if n_left_out:
        # The second half was written round and round: the oldest frame stands where the next would have come.
        first = (facts.n - n_head) % (facts.depth // 2)
        tail = frames[n_head:]
        frames = [*frames[:n_head], *tail[first:], *tail[:first]]
    return RawStack(key, facts.slot, abi.End(facts.end), tuple(frames), n_left_out, n_head)
