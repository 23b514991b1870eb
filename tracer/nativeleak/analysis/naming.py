"""What the frames of a stack are to its reader: names, roles, and the frame that heads it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from nativeleak.frames.owners import THREAD_ROOTS
from nativeleak.model import Frame
from nativeleak.runtimes.frames import headline_frame

_PASSED: Final = re.compile(r"main|java\.lang\.Thread\.run|.*[.:]main|JavaMain|JavaCalls::.*|.*::call_run.*")


@dataclass(frozen=True, slots=True)
class Head:
    """The frame that heads a stack: its index, leaf first; ``inner``: the frame that allocates on its behalf."""

    index: int
    inner: int
    what: str | None = None
    pool: str | None = None


def shown_name(frame: Frame) -> str:
    """The name of a frame's function as a reader sees it."""
    return frame.function


def is_passed_through(frame: Frame) -> bool:
    """Whether every stack of a thread or service goes through the function, so that it is no answer."""
    return frame.function in THREAD_ROOTS or _PASSED.fullmatch(frame.function) is not None


def head_of(frames: Sequence[Frame]) -> Head:
    """The frame that heads a stack, of frames leaf first; index 0 where none has a name."""
    frame = headline_frame(frames)
    index = next((i for i, each in enumerate(frames) if each is frame), 0)
    return Head(index, max(0, index - 1))
