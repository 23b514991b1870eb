"""Call paths as a reader sees them: stacks whose frames have the same function, module and source line are one.

Instruction pointers and the way a Java method ran (compiled, inlined, interpreted) part no paths. A cycle of frames
that repeats at once, of any length, counts once. A stack whose walk ended early, because a table was not ready yet,
joins the longer path that begins like it; where there are several, it goes on as far as these agree.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, pairwise
from typing import Final

from nativeleak.analysis.naming import Head, head_of, is_runtimes, shown_name
from nativeleak.frames.roles import Role
from nativeleak.model import Frame, FrameKind, FrameSource
from nativeleak.recording import Recording
from nativeleak.runtimes.frames import role_of_frame

_NO_TABLE: Final = "no table"
_ADDRESS: Final = re.compile(r"^0x[0-9a-f]+ ?")
_MIN_JOINED: Final = 2
_NOBODYS: Final = -1


@dataclass(frozen=True)
class Step:
    """A frame of a path.

    Attributes:
        name: The function as a reader sees it.
        function_id: The same for steps of the same function and module.
        frame: A frame like it.
        in_runtime: Whether it is in the library of a runtime.
    """

    name: str
    function_id: int
    frame: Frame
    in_runtime: bool

    @cached_property
    def role(self) -> Role:
        """Its role; one that is passed through is never an answer. It takes long, and most formats ask for none."""
        return role_of_frame(self.frame)

    @cached_property
    def is_passed_through(self) -> bool:
        """Whether every stack of a thread or service goes through the function."""
        return self.role is Role.PASSTHROUGH

    @cached_property
    def may_be_named(self) -> bool:
        """Whether its name can tell callers apart: no runtime's function, and none that everything goes through."""
        return not self.is_passed_through and not self.in_runtime


class Paths:
    """The paths of a recording's stacks.

    Attributes:
        steps: All steps, by their ids.
    """

    def __init__(self, recording: Recording) -> None:
        self.steps: list[Step] = []
        self._pairs: list[tuple[int, int]] = []
        self._of_runtime: set[int] = set()
        self._recording = recording
        self._step_ids: dict[tuple[str, str | None, str | None, int | None], int] = {}
        self._function_ids: dict[tuple[str, str | None], int] = {}
        self._of_frame: dict[int, int] = {}
        self._path_ids: dict[tuple[int, ...], int] = {}
        self._paths: list[tuple[int, ...]] = []
        self._heads: dict[int, Head] = {}
        self._of_stack: dict[int, int] = {}
        self._unsure: dict[int, str] = {}

    def load(self, keys: Collection[int]) -> None:
        """Read the paths of these stacks.

        Raises:
            RecordingError: The recording is damaged.
        """
        wanted = set(keys) - self._of_stack.keys()
        cut: dict[int, tuple[int, ...]] = {}
        guesses = {number for number, frame in self._recording.frames.items() if frame.found is FrameSource.GUESS}
        stacks = self._recording.stack_columns(wanted)
        # There are millions of frames: only what is done once for each distinct one is done in Python.
        for frame_id in dict.fromkeys(stacks.frames):
            if frame_id not in self._of_frame:
                self._of_frame[frame_id] = self._step(self._recording.frames[frame_id])
        steps = list(map(self._of_frame.__getitem__, stacks.frames))
        for key, (start, stop), end in zip(stacks.keys, pairwise(stacks.bounds), stacks.ends, strict=True):
            path = _folded(tuple(steps[start:stop]))
            if end == _NO_TABLE or guesses:
                frame_ids = stacks.frames[start:stop]
                if end == _NO_TABLE or not guesses.isdisjoint(frame_ids):
                    self._note_guess(key, frame_ids, guesses)
            if end == _NO_TABLE:
                cut[key] = path
            else:
                self._of_stack[key] = self._intern(path)
        joined = _Joined(self._paths)
        for key, path in cut.items():
            longer = joined.find(path)
            self._of_stack[key] = self._intern(path if longer is None else longer)
        for key in wanted - self._of_stack.keys():
            self._of_stack[key] = self._intern(())

    def path_id(self, key: int) -> int:
        """Number of the path of a loaded stack."""
        return self._of_stack[key]

    def path(self, path_id: int) -> tuple[int, ...]:
        """Ids of the steps of a path, leaf first; empty for a lost stack."""
        return self._paths[path_id]

    def outwards(self, path_id: int, most: int) -> tuple[int, ...]:
        """Function and step of each frame from the one that heads a path to the root, at most so many frames."""
        first = self.head_index(path_id)
        # A comprehension would take twice as long, and this is done for every path.
        return tuple(chain.from_iterable(map(self._pairs.__getitem__, self._paths[path_id][first : first + most])))

    @property
    def has_runtimes(self) -> bool:
        """Whether any step is in the library of a runtime."""
        return bool(self._of_runtime)

    def runtime_beginning(self, path_id: int) -> tuple[int, ...]:
        """A path up to the first frame that called a runtime's library: no frame beyond it decides on the owner."""
        path = self._paths[path_id]
        first = next((i for i, step in enumerate(path) if step in self._of_runtime), len(path))
        last = next((i for i in range(first, len(path)) if path[i] not in self._of_runtime), len(path))
        return path[: last + 1]

    def passes_runtime(self, path_id: int, most: int) -> bool:
        """Whether one of the first frames is in the library of a runtime."""
        return not self._of_runtime.isdisjoint(self._paths[path_id][:most])

    def step_ids(self) -> tuple[list[int], list[int]]:
        """The frames that loaded stacks have: their ids in the recording, and the step of each, -1 for none."""
        return list(self._of_frame), list(self._of_frame.values())

    def head(self, path_id: int) -> Head:
        """The step that heads a path."""
        if path_id not in self._heads:
            self._heads[path_id] = head_of([self.steps[step].frame for step in self._paths[path_id]])
        return self._heads[path_id]

    def head_index(self, path_id: int) -> int:
        """Index of the step that heads a path, without the cost of all that ``head`` says."""
        for index, step in enumerate(self._paths[path_id]):
            role = self.steps[step].role
            if role is Role.PROGRAM:
                return index
            if role is Role.UNNAMED:
                break
        return self.head(path_id).index

    def unsure_module(self, key: int) -> str | None:
        """The module whose missing unwind information makes a caller on a stack a guess, or cuts it; None if whole."""
        return self._unsure.get(key)

    def _note_guess(self, key: int, frame_ids: Sequence[int], guesses: Collection[int]) -> None:
        callee = next((a for a, b in pairwise(frame_ids) if b in guesses), frame_ids[-1] if frame_ids else None)
        if callee is not None:
            self._unsure[key] = self._recording.frames[callee].module or "code without a file (JIT)"

    def _intern(self, path: tuple[int, ...]) -> int:
        number = self._path_ids.setdefault(path, len(self._paths))
        if number == len(self._paths):
            self._paths.append(path)
        return number

    def _step(self, frame: Frame) -> int:
        """Id of the step of a frame; ``_NOBODYS`` for code that is no function of anyone."""
        if frame.kind is FrameKind.STUB:
            return _NOBODYS
        name = shown_name(frame)
        if frame.kind is FrameKind.UNRESOLVED:
            name = _ADDRESS.sub("", name) or "[no name]"
        step_id = self._step_ids.setdefault((name, frame.module, frame.file, frame.line), len(self.steps))
        if step_id == len(self.steps):
            function_id = self._function_ids.setdefault((name, frame.module), len(self._function_ids))
            step = Step(name, function_id, frame, is_runtimes(frame))
            self.steps.append(step)
            self._pairs.append((function_id, step_id))
            if step.in_runtime:
                self._of_runtime.add(step_id)
        return step_id


def _folded(steps: tuple[int, ...]) -> tuple[int, ...]:
    """The steps of a stack without code of nobody's, and without repetitions."""
    distinct = set(steps)
    if _NOBODYS in distinct:
        distinct.discard(_NOBODYS)
        steps = tuple(step for step in steps if step >= 0)
    return fold_cycles(steps) if len(distinct) < len(steps) else steps


def fold_cycles(steps: Sequence[int]) -> tuple[int, ...]:
    """The steps without the repetitions of a cycle that directly follows itself."""
    folded: list[int] = []
    places: dict[int, list[int]] = {}
    for step in steps:
        folded.append(step)
        before = places.setdefault(step, [])
        end = len(folded)
        for place in reversed(before):
            period = end - 1 - place
            if 2 * period > end:
                break
            if folded[end - period :] == folded[end - 2 * period : end - period]:
                for gone in folded[end - period :]:
                    if places[gone] and places[gone][-1] >= end - period:
                        places[gone].pop()
                del folded[end - period :]
                break
        else:
            before.append(end - 1)
            continue
        if len(folded) == end:
            before.append(end - 1)
    return tuple(folded)


class _Joined:
    """Finds how whole paths that begin with the steps of a cut one go on."""

    def __init__(self, paths: Sequence[tuple[int, ...]]) -> None:
        self._sorted = sorted(paths)

    def find(self, cut: tuple[int, ...]) -> tuple[int, ...] | None:
        n = len(cut)
        if n < _MIN_JOINED:
            return None
        first = bisect_left(self._sorted, cut)
        stop = bisect_left(self._sorted, (*cut[:-1], cut[-1] + 1))
        if stop <= first:
            return None
        low, high = self._sorted[first], self._sorted[stop - 1]
        return low[: next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), len(low))]
