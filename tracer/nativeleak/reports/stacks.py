"""The stacks of a recording and their text ids, each made once and only when a report asks for it."""

from __future__ import annotations

from collections.abc import Collection
from hashlib import blake2b
from typing import Final

from nativeleak.model import Frame, FrameKind, Stack, StackCoverage
from nativeleak.recording import Recording

LOST_STACK: Final = Stack(0, (Frame("[stack lost]", None, 0, 0, FrameKind.UNRESOLVED),), end="lost")


class Stacks:
    """Stacks by key; they can be asked for as long as the recording is open."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._ids: dict[int, str] = {}
        self._known: dict[int, Stack] = {}

    def load(self, keys: Collection[int]) -> None:
        """Read these stacks at once: where there are very many, one by one takes ten times as long.

        Raises:
            RecordingError: The recording is damaged.
        """
        wanted = set(keys) - self._known.keys()
        if wanted:
            self._known |= {stack.key: stack for stack in self._recording.stacks(wanted) if stack.frames}

    def stack(self, key: int) -> Stack:
        """The stack with this key, or one that says why there is none.

        Raises:
            RecordingError: The recording is damaged.
        """
        known = self._known.get(key) or self._recording.stack(key)
        if known is not None and known.frames:
            return known
        return LOST_STACK if self._recording.info.coverage.stacks is StackCoverage.ALL else Stack(key, ())

    def text_id(self, key: int) -> str:
        """Text id of the stack with this key."""
        return self._ids.get(key) or self.id_of(self.stack(key))

    def id_of(self, stack: Stack) -> str:
        """Text id of a stack that ``stack`` gave, or of one without frames."""
        if not stack.frames:
            return stack_id(stack)
        known = self._ids.get(stack.key)
        if known is None:
            known = self._ids[stack.key] = stack_id(stack)
        return known


def stack_id(stack: Stack) -> str:
    """Text id of a stack: the same for the same functions and offsets, wherever the modules were loaded.

    The id of a stack without frames is its key.
    """
    if not stack.frames:
        return f"{stack.key:016x}"
    digest = blake2b(digest_size=8)
    for frame in stack.frames:
        if frame.is_inlined:
            continue  # an id is the same with source lines and without
        name = "" if frame.kind is FrameKind.UNRESOLVED and frame.module else frame.function
        digest.update(f"{name}\0{frame.module}\0{frame.offset}\0{frame.kind}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
