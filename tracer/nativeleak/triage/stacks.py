"""Thread stacks: where the stack of each thread is.

Scope: the stack pointer that the kernel tells of a thread that sleeps (/proc/PID/task/TID/syscall, proc(5)); a thread
that runs at this moment is asked again.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

from nativeleak.triage.regions import Region

_TRIES: Final = 3
_RUNNING: Final = "running"


class Stack(NamedTuple):
    """The stack of a thread.

    Attributes:
        start: First address of its mapping.
        end: First address behind it.
        tid: The thread; 0 for one that has ended.
    """

    start: int
    end: int
    tid: int


def read_stack_pointers(pid: int, tids: Sequence[int]) -> dict[int, int]:
    """Stack pointers by thread; those that run or may not be read are left out."""
    found = {}
    for tid in tids:
        for _ in range(_TRIES):
            try:
                words = Path(f"/proc/{pid}/task/{tid}/syscall").read_text(encoding="ascii").split()
            except OSError:
                break
            if len(words) >= 3 and words[0] != _RUNNING:
                found[tid] = int(words[-2], 16)
                break
    return found


def find_stacks(regions: Sequence[Region], pointers: dict[int, int]) -> list[Stack]:
    """Stacks of threads other than the main one, and of ended threads whose stacks are kept.

    A mapping without a thread, behind an inaccessible one, of the same size as a stack with a thread, is taken for a
    stack that libc keeps for the next thread.
    """
    starts = [region.start for region in regions]
    stacks = []
    for tid, pointer in pointers.items():
        place = bisect.bisect_right(starts, pointer) - 1
        if place < 0:
            continue
        region = regions[place]
        if pointer < region.end and not region.entry.path and region.entry.perms.startswith("rw"):
            stacks.append(Stack(region.start, region.end, tid))
    known = {stack.start for stack in stacks}
    sizes = {stack.end - stack.start for stack in stacks}
    for before, region in pairwise(regions):
        is_guarded = before.end == region.start and before.entry.perms.startswith("---") and not before.entry.path
        is_stack = region.entry.perms.startswith("rw") and not region.entry.path and region.end - region.start in sizes
        if is_guarded and is_stack and region.start not in known:
            stacks.append(Stack(region.start, region.end, 0))
    return stacks
