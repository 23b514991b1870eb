"""What the frames of a stack are to its reader: names, roles, and the frame that heads it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from nativeleak.frames.display import JAVA, display_name
from nativeleak.model import Frame, FrameKind
from nativeleak.runtimes.frames import RUNTIME_LIBRARIES, headline_of_stack


@dataclass(frozen=True, slots=True)
class Head:
    """What a stack says in one line.

    Attributes:
        index: The frame that heads it, leaf first; 0 of an empty stack.
        caller: Index of the first frame for which it allocates and which the program's owner can change; None where the
            head is that frame.
        what: Kind of memory; None where no name tells.
        pool: Name of a known pool that took a chunk here; None without one.
        switch: How to see past this pool; empty where nothing does.
        note: What the stack does not show, and which tool does; None where nothing is missing.
    """

    index: int
    caller: int | None = None
    what: str | None = None
    pool: str | None = None
    switch: str = ""
    note: str | None = None


def shown_name(frame: Frame) -> str:
    """The name of a frame's function as a reader sees it."""
    return frame.function if frame.kind is FrameKind.UNRESOLVED else display_name(frame.function, frame.kind)


def is_runtimes(frame: Frame) -> bool:
    """Whether a frame is in the library of a runtime of managed code."""
    return frame.module in RUNTIME_LIBRARIES


_MALLOC: Final = re.compile(r"(?:\w*_)?(?:malloc|calloc|realloc|memalign|aligned_alloc)|operator new.*|sysmalloc")


def is_malloc(frame: Frame) -> bool:
    """Whether a frame is a function of an allocator's interface, or of the C library's allocator."""
    return _MALLOC.match(shown_name(frame)) is not None


def head_of(frames: Sequence[Frame]) -> Head:
    """What the stack of these frames says, leaf first."""
    found = headline_of_stack(frames)
    if found is None:
        return Head(0)
    pool, index, caller = found.pool, found.index, found.for_index
    if frames[index].kind is FrameKind.UNRESOLVED and caller is not None and frames[caller].kind in JAVA:
        index, caller = caller, None  # the native method of a stripped library: the Java name is the one people know
    return Head(index, caller, found.what, pool.name if pool else None, pool.switch if pool else "", found.note)
