"""Call paths that several recordings share; names of functions identify them.

Addresses, lines and versions of a library part no paths, so that hosts and days fall together. Stacks are read as
columns: a stack whose frames are known already costs one look into a table.

Caveat: a stack whose walk ended early stays a path of its own; ``paths.Paths`` joins it to a longer one.
"""

from __future__ import annotations

import re
from array import array
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from nativeleak.analysis.naming import head_of, is_runtimes, shown_name
from nativeleak.analysis.paths import fold_cycles
from nativeleak.model import Frame, FrameKind, Owner
from nativeleak.recording import Recording
from nativeleak.runtimes.frames import owner_of_stack

Ints = npt.NDArray[np.int64]

LOST: Final = Frame("[stack lost]", None, 0, 0, FrameKind.UNRESOLVED)
"""The only frame of a path without any."""
NO_PATH: Final = -1
"""Number of a stack that the pattern of functions leaves out."""

_ADDRESS: Final = re.compile(r"^0x[0-9a-f]+ ?")
_NOBODYS: Final = 0
"""Number of the step of code that is no function of anyone; such frames are in no path."""
_MAX_LEAF_FRAMES: Final = 48
_NO_FRAME: Final = 0xFFFFFFFF


class _Step(NamedTuple):
    frame: Frame
    is_match: bool


class NewPaths(NamedTuple):
    """Paths that one process hands over to another: frames like their steps, and steps of each, leaf first."""

    frames: list[Frame]
    paths: list[array[int]]


class SharedPaths:
    """Paths by number; a number is the same in every recording.

    Args:
        function: Regular expression that a function of a path must match; None for all.
    """

    def __init__(self, function: re.Pattern[str] | None = None) -> None:
        self._pattern = function
        self._steps: list[_Step] = [_Step(LOST, is_match=False)]
        self._name_of_step = [0]
        self._step_ids: dict[tuple[str, str | None, str], int] = {}
        self._name_ids: dict[str, int] = {}
        self._of_runtimes: set[int] = set()
        self._of_raw: dict[bytes, int] = {}
        self._of_names: dict[bytes, int] = {}
        self._paths: list[array[int]] = []
        self._owners: dict[int, Owner | None] = {}
        self._taken = (0, 0)
        self._lost = self._intern(b"")

    def __len__(self) -> int:
        """Number of paths."""
        return len(self._paths)

    def read(self, recording: Recording, keys: Ints) -> Ints:
        """The path of each of these stacks, whose keys are signed; ``NO_PATH`` where no function matches.

        Raises:
            RecordingError: The recording is damaged.
        """
        step_of = self._steps_of(recording)
        with recording.damage_reported():
            stack_keys, blobs = recording.packed_stacks()
            if any(len(blob) % 4 for blob in blobs):
                raise ValueError("half a frame in a stack")
            ids = np.frombuffer(b"".join(blobs), dtype="<u4")
            if len(ids) and int(ids.max()) >= len(step_of):
                raise ValueError("a stack with an unknown frame")
            steps = step_of[ids]
            if (steps == _NO_FRAME).any():
                raise ValueError("a stack with an unknown frame")
            raw = steps.tobytes()
        ends = list(accumulate(map(len, blobs), initial=0))
        each = [raw[start:end] for start, end in pairwise(ends)]
        paths = list(map(self._of_raw.get, each))
        found = [self._intern(one) if path is None else path for path, one in zip(paths, each, strict=True)]
        known = np.array([*found, self._lost], dtype=np.int64)
        ordered = np.array(stack_keys, dtype=np.int64)
        at = np.searchsorted(ordered, keys)
        there = at < len(ordered)
        there[there] = ordered[at[there]] == keys[there]
        return known[np.where(there, at, len(ordered))]

    def take_new(self) -> NewPaths:
        """Steps and paths that are new since this was called before, for ``absorb`` in another process."""
        first_step, first_path = self._taken
        self._taken = len(self._steps), len(self._paths)
        return NewPaths([step.frame for step in self._steps[first_step:]], self._paths[first_path:])

    def absorb(self, new: NewPaths, of_step: list[int]) -> list[int]:
        """Take over paths of another.

        Args:
            new: What the other gave.
            of_step: The numbers here of the steps that it gave before; those of the new ones are added.

        Returns:
            The number here of each of the new paths.
        """
        of_step += [self._step(frame, is_match=False) for frame in new.frames]
        return [self._number([of_step[step] for step in path]) for path in new.paths]

    def frames(self, path: int) -> tuple[Frame, ...]:
        """A frame like each of a path's, leaf first, without addresses and lines; one frame for a lost stack."""
        return tuple(self._steps[step].frame for step in self._paths[path]) or (LOST,)

    def names(self, path: int) -> tuple[str, ...]:
        """The functions of a path as a reader sees them, leaf first."""
        return tuple(map(shown_name, self.frames(path)))

    def head(self, path: int) -> int:
        """Index of the frame that heads a path."""
        return head_of(self.frames(path)).index

    def owner(self, path: int) -> Owner | None:
        """Owner of the memory that is allocated at a path; None where the recording's own word holds."""
        if path not in self._owners:
            passes = not self._of_runtimes.isdisjoint(self._paths[path][:_MAX_LEAF_FRAMES])
            self._owners[path] = owner_of_stack(self.frames(path)) if passes else None
        return self._owners[path]

    def _steps_of(self, recording: Recording) -> npt.NDArray[np.uint32]:
        """The step of each frame of a recording, by the frame's id."""
        rows = recording.frame_names()
        step_of = np.full(max((row[0] for row in rows), default=0) + 1, _NO_FRAME, dtype=np.uint32)
        known = self._step_ids
        for number, function, module, kind, file in rows:
            step = known.get((function, module, kind))
            step_of[number] = self._add_step(function, module, kind, file) if step is None else step
        return step_of

    def _add_step(self, function: str, module: str | None, kind: str, file: str | None) -> int:
        frame = Frame(function, module, 0, 0, FrameKind(kind), file)
        is_match = self._pattern is not None and self._pattern.search(function) is not None
        number = _NOBODYS if frame.kind is FrameKind.STUB else self._step(frame, is_match=is_match)
        self._step_ids[function, module, kind] = number
        return number

    def _step(self, frame: Frame, *, is_match: bool) -> int:
        """Number of a step like this frame."""
        name = shown_name(frame)
        if frame.kind is FrameKind.UNRESOLVED:
            name = _ADDRESS.sub("", name) or "[no name]"
            frame = replace(frame, function=name)
        number = self._step_ids.get((frame.function, frame.module, frame.kind))
        if number is None:
            number = self._step_ids[frame.function, frame.module, frame.kind] = len(self._steps)
            name_id = self._name_ids.setdefault(name, len(self._name_ids) + 1)
            self._steps.append(_Step(frame, is_match))
            self._name_of_step.append(name_id)
            if is_runtimes(frame):
                self._of_runtimes.add(number)
        return number

    def _intern(self, raw: bytes) -> int:
        """Number of the path of these steps; ``NO_PATH`` where the pattern leaves it out."""
        steps = list(array("I", raw))
        if _NOBODYS in steps:
            steps = [step for step in steps if step != _NOBODYS]
        if self._pattern is not None and not any(self._steps[step].is_match for step in steps):
            number = NO_PATH
        else:
            number = self._number(steps)
        if raw:
            self._of_raw[raw] = number
        return number

    def _number(self, steps: list[int]) -> int:
        """Number of the path of these steps; a cycle of functions that repeats at once counts once."""
        names = list(map(self._name_of_step.__getitem__, steps))
        if len(set(names)) < len(names):
            like = dict(zip(reversed(names), reversed(steps), strict=True))
            names = list(fold_cycles(names))
            steps = [like[name] for name in names]
        number = self._of_names.setdefault(array("I", names).tobytes(), len(self._paths))
        if number == len(self._paths):
            self._paths.append(array("I", steps))
        return number
