"""What the frames of a stack are to its reader: names, roles, and the frame that heads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nativeleak.frames.display import display_name
from nativeleak.frames.roles import Role
from nativeleak.model import Frame
from nativeleak.runtimes.frames import headline_of_stack, role_of_frame


@dataclass(frozen=True, slots=True)
class Head:
    """The frame that heads a stack: its index, leaf first; ``inner``: the frame that allocates on its behalf.

    Attributes:
        caller: Index of the frame for which it allocates; None where it says enough itself.
    """

    index: int
    inner: int
    what: str | None = None
    pool: str | None = None
    caller: int | None = None


def shown_name(frame: Frame) -> str:
    """The name of a frame's function as a reader sees it."""
    return display_name(frame.function, frame.kind)


def is_passed_through(frame: Frame) -> bool:
    """Whether every stack of a thread or service goes through the function, so that it is no answer."""
    return role_of_frame(frame) is Role.PASSTHROUGH


def head_of(frames: Sequence[Frame]) -> Head:
    """The frame that heads a stack, of frames leaf first; index 0 where none has a name."""
    found = headline_of_stack(frames)
    if found is None:
        return Head(0, 0)
    pool = None if found.pool is None else found.pool.name
    return Head(found.index, max(0, found.index - 1), found.what, pool, found.for_index)
